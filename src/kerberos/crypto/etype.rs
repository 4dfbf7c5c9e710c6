//! The encryption types.

use std::fmt;

/// An encryption type (RFC 3961 §8) that is implemented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Etype {
    /// aes256-cts-hmac-sha384-192 (RFC 8009).
    Aes256Sha384,
    /// aes256-cts-hmac-sha1-96 (RFC 3962).
    Aes256Sha1,
    /// aes128-cts-hmac-sha256-128 (RFC 8009).
    Aes128Sha256,
    /// aes128-cts-hmac-sha1-96 (RFC 3962).
    Aes128Sha1,
    /// rc4-hmac (RFC 4757), which is broken: used only if it is asked for.
    Rc4,
}

impl Etype {
    /// All of them, the strongest first.
    pub const ALL: [Etype; 5] =
        [Etype::Aes256Sha384, Etype::Aes256Sha1, Etype::Aes128Sha256, Etype::Aes128Sha1, Etype::Rc4];

    /// Its number.
    pub fn number(self) -> i64 {
        match self {
            Etype::Aes128Sha1 => 17,
            Etype::Aes256Sha1 => 18,
            Etype::Aes128Sha256 => 19,
            Etype::Aes256Sha384 => 20,
            Etype::Rc4 => 23,
        }
    }

    /// The etype of a number; `None` if it is not implemented.
    pub fn of_number(number: i64) -> Option<Etype> {
        Etype::ALL.into_iter().find(|etype| etype.number() == number)
    }

    /// Its name, as in krb5.conf.
    pub fn name(self) -> &'static str {
        match self {
            Etype::Aes128Sha1 => "aes128-cts-hmac-sha1-96",
            Etype::Aes256Sha1 => "aes256-cts-hmac-sha1-96",
            Etype::Aes128Sha256 => "aes128-cts-hmac-sha256-128",
            Etype::Aes256Sha384 => "aes256-cts-hmac-sha384-192",
            Etype::Rc4 => "rc4-hmac",
        }
    }

    /// The length of a key in bytes.
    pub fn key_bytes(self) -> usize {
        match self {
            Etype::Aes128Sha1 | Etype::Aes128Sha256 | Etype::Rc4 => 16,
            Etype::Aes256Sha1 | Etype::Aes256Sha384 => 32,
        }
    }

    /// The number of the checksum that its keys make.
    pub(in crate::kerberos) fn checksum_number(self) -> i64 {
        match self {
            Etype::Aes128Sha1 => 15,
            Etype::Aes256Sha1 => 16,
            Etype::Aes128Sha256 => 19,
            Etype::Aes256Sha384 => 20,
            Etype::Rc4 => -138,
        }
    }

    /// The iterations of string-to-key where the KDC names none.
    pub(in crate::kerberos) fn default_iterations(self) -> u32 {
        match self {
            Etype::Aes128Sha1 | Etype::Aes256Sha1 => 4096,
            Etype::Aes128Sha256 | Etype::Aes256Sha384 => 32_768,
            Etype::Rc4 => 1,
        }
    }

    /// The bytes of the random confounder at the beginning of what is encrypted.
    pub(super) fn confounder_bytes(self) -> usize {
        if self == Etype::Rc4 { 8 } else { 16 }
    }

    /// The bytes of the checksum in encrypted data.
    pub(super) fn mac_bytes(self) -> usize {
        match self {
            Etype::Aes128Sha1 | Etype::Aes256Sha1 => 12,
            Etype::Aes128Sha256 | Etype::Rc4 => 16,
            Etype::Aes256Sha384 => 24,
        }
    }
}

impl fmt::Display for Etype {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// The etypes that may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EtypeSet {
    allow_rc4: bool,
}

impl EtypeSet {
    /// Those with AES, and RC4 if `allow_rc4`.
    pub fn new(allow_rc4: bool) -> EtypeSet {
        EtypeSet { allow_rc4 }
    }

    /// Whether an etype is one of them.
    pub fn contains(self, etype: Etype) -> bool {
        self.allow_rc4 || etype != Etype::Rc4
    }

    /// All of them, the strongest first.
    pub fn iter(self) -> impl Iterator<Item = Etype> {
        Etype::ALL.into_iter().filter(move |etype| self.contains(*etype))
    }
}
