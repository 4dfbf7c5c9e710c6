//! NegotiateFlags (MS-NLMP 2.2.2.5): what the two sides support and agree on.

use std::fmt;
use std::ops::{BitAnd, BitOr, BitOrAssign, Sub};

use super::wire::Charset;

/// The 32 flag bits of a message. Combine them with `|`, `&`, and `-` (set difference).
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct NegotiateFlags(u32);

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $bit:literal, $spec:literal;)*) => {
        impl NegotiateFlags {
            $($(#[$doc])* pub const $name: Self = Self($bit);)*

            /// All defined flags with their MS-NLMP names, from the lowest bit to the highest.
            const NAMED: &[(Self, &str)] = &[$((Self::$name, $spec)),*];
        }
    };
}

flags! {
    /// Strings are UTF-16LE.
    UNICODE = 0x0000_0001, "NTLMSSP_NEGOTIATE_UNICODE";
    /// Strings are in the OEM code page.
    OEM = 0x0000_0002, "NTLM_NEGOTIATE_OEM";
    /// The CHALLENGE_MESSAGE must have a TargetName.
    REQUEST_TARGET = 0x0000_0004, "NTLMSSP_REQUEST_TARGET";
    /// Message integrity.
    SIGN = 0x0000_0010, "NTLMSSP_NEGOTIATE_SIGN";
    /// Message confidentiality.
    SEAL = 0x0000_0020, "NTLMSSP_NEGOTIATE_SEAL";
    /// Connectionless authentication.
    DATAGRAM = 0x0000_0040, "NTLMSSP_NEGOTIATE_DATAGRAM";
    /// LAN Manager session keys; extended session security overrides it.
    LM_KEY = 0x0000_0080, "NTLMSSP_NEGOTIATE_LM_KEY";
    /// NTLM authentication.
    NTLM = 0x0000_0200, "NTLMSSP_NEGOTIATE_NTLM";
    /// The connection is anonymous (bit J, "ANONYMOUS").
    ANONYMOUS = 0x0000_0800, "NTLMSSP_NEGOTIATE_ANONYMOUS";
    /// The NEGOTIATE_MESSAGE has a domain name.
    OEM_DOMAIN_SUPPLIED = 0x0000_1000, "NTLMSSP_NEGOTIATE_OEM_DOMAIN_SUPPLIED";
    /// The NEGOTIATE_MESSAGE has a workstation name.
    OEM_WORKSTATION_SUPPLIED = 0x0000_2000, "NTLMSSP_NEGOTIATE_OEM_WORKSTATION_SUPPLIED";
    /// A signature block on all messages.
    ALWAYS_SIGN = 0x0000_8000, "NTLMSSP_NEGOTIATE_ALWAYS_SIGN";
    /// TargetName is the name of a domain.
    TARGET_TYPE_DOMAIN = 0x0001_0000, "NTLMSSP_TARGET_TYPE_DOMAIN";
    /// TargetName is the name of a server.
    TARGET_TYPE_SERVER = 0x0002_0000, "NTLMSSP_TARGET_TYPE_SERVER";
    /// Extended session security ("NTLM2 session").
    EXTENDED_SESSIONSECURITY = 0x0008_0000, "NTLMSSP_NEGOTIATE_EXTENDED_SESSIONSECURITY";
    /// An identify-level token is requested.
    IDENTIFY = 0x0010_0000, "NTLMSSP_NEGOTIATE_IDENTIFY";
    /// The LMOWF session key is requested.
    REQUEST_NON_NT_SESSION_KEY = 0x0040_0000, "NTLMSSP_REQUEST_NON_NT_SESSION_KEY";
    /// The CHALLENGE_MESSAGE has a TargetInfo.
    TARGET_INFO = 0x0080_0000, "NTLMSSP_NEGOTIATE_TARGET_INFO";
    /// The messages have a VERSION.
    VERSION = 0x0200_0000, "NTLMSSP_NEGOTIATE_VERSION";
    /// 128-bit session keys.
    KEY_128 = 0x2000_0000, "NTLMSSP_NEGOTIATE_128";
    /// The client sends a session key of its own, encrypted.
    KEY_EXCH = 0x4000_0000, "NTLMSSP_NEGOTIATE_KEY_EXCH";
    /// 56-bit session keys.
    KEY_56 = 0x8000_0000, "NTLMSSP_NEGOTIATE_56";
}

impl NegotiateFlags {
    /// The flags in a 32-bit word, including reserved bits.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The 32-bit word.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether all flags of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The union of both sets, like `|` but usable in constants.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The MS-NLMP names of the flags that are set, from the lowest bit to the highest. Reserved bits have no name.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMED.iter().filter(move |(flag, _)| self.contains(*flag)).map(|(_, name)| *name)
    }

    /// The charset of the strings in a message with these flags. UNICODE takes precedence; without either flag it is
    /// OEM.
    #[must_use]
    pub const fn charset(self) -> Charset {
        if self.contains(Self::UNICODE) { Charset::Unicode } else { Charset::Oem }
    }
}

impl BitOr for NegotiateFlags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for NegotiateFlags {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl BitAnd for NegotiateFlags {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl Sub for NegotiateFlags {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl fmt::Display for NegotiateFlags {
    /// `0x00000203 NTLMSSP_NEGOTIATE_UNICODE NTLM_NEGOTIATE_OEM NTLMSSP_NEGOTIATE_NTLM`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)?;
        for name in self.names() {
            write!(f, " {name}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for NegotiateFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NegotiateFlags({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_specification_in_bit_order() {
        let flags = NegotiateFlags::KEY_56 | NegotiateFlags::OEM | NegotiateFlags::REQUEST_TARGET;
        assert_eq!(flags.to_string(), "0x80000006 NTLM_NEGOTIATE_OEM NTLMSSP_REQUEST_TARGET NTLMSSP_NEGOTIATE_56");
    }

    #[test]
    fn every_flag_has_its_own_bit() {
        let all = NegotiateFlags::NAMED.iter().fold(0, |all, (flag, name)| {
            assert_eq!(flag.bits().count_ones(), 1, "{name}");
            assert_eq!(all & flag.bits(), 0, "{name}");
            all | flag.bits()
        });
        // The others are the ten reserved bits r1 to r10.
        assert_eq!(!all, 0x1d24_4508);
    }

    #[test]
    fn reserved_bits_are_kept_and_unicode_takes_precedence_over_oem() {
        assert_eq!(NegotiateFlags::from_bits(8).to_string(), "0x00000008");
        assert_eq!(NegotiateFlags::from_bits(3).charset(), Charset::Unicode);
        assert_eq!(NegotiateFlags::from_bits(2).charset(), Charset::Oem);
    }
}
