//! NEGOTIATE_MESSAGE (MS-NLMP 2.2.1.1): what the client supports.
//!
//! ```text
//!  0 Signature   8 MessageType = 1   12 NegotiateFlags   16 DomainNameFields   24 WorkstationFields
//! 32 Version (if negotiated)         then the payload: Workstation, DomainName, both OEM
//! ```

use super::flags::NegotiateFlags;
use super::wire::{MessageError, MessageType, PayloadField, Version, read_u32};

pub(super) const DOMAIN_AT: usize = 16;
pub(super) const WORKSTATION_AT: usize = 24;
const VERSION_AT: usize = 32;
/// The end of the flags, and of the shortest message that a client may send.
const SHORTEST: usize = 16;

/// A NEGOTIATE_MESSAGE. Its names are always OEM, because no charset has been agreed on yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NegotiateMessage<'a> {
    /// The flags that the client offers. `encode` sets the two OEM_…_SUPPLIED flags for names that are present.
    pub flags: NegotiateFlags,
    /// DomainName, OEM.
    pub domain: Option<&'a [u8]>,
    /// Workstation, OEM.
    pub workstation: Option<&'a [u8]>,
    /// Version, for debugging only.
    pub version: Option<Version>,
}

impl<'a> NegotiateMessage<'a> {
    /// Decodes a message. Version and the fields of the two names may be absent.
    ///
    /// # Errors
    /// Any [`MessageError`] except `TooLong` and `OddLength`.
    pub fn decode(message: &'a [u8]) -> Result<Self, MessageError> {
        MessageType::Negotiate.expect(message)?;
        let flags = NegotiateFlags::from_bits(read_u32(message, 12, "NegotiateFlags")?);
        let field = |flag, at, name| {
            let supplied = flags.contains(flag) && message.len() > SHORTEST;
            supplied.then(|| PayloadField::read(message, at, name)).transpose()
        };
        let domain = field(NegotiateFlags::OEM_DOMAIN_SUPPLIED, DOMAIN_AT, "DomainName")?;
        let workstation = field(NegotiateFlags::OEM_WORKSTATION_SUPPLIED, WORKSTATION_AT, "Workstation")?;
        let fixed = match (domain, workstation) {
            (_, Some(_)) => WORKSTATION_AT + PayloadField::SIZE,
            (Some(_), None) => DOMAIN_AT + PayloadField::SIZE,
            (None, None) => SHORTEST,
        };
        let starts = [domain, workstation].into_iter().flatten().filter_map(|field| field.start());
        let payload = starts.min().unwrap_or(message.len());
        let has_version =
            flags.contains(NegotiateFlags::VERSION) && payload.min(message.len()) >= VERSION_AT + Version::SIZE;
        Ok(Self {
            flags,
            domain: domain.map(|field| field.of(message, fixed)).transpose()?,
            workstation: workstation.map(|field| field.of(message, fixed)).transpose()?,
            version: has_version.then(|| Version::read(message, VERSION_AT)).transpose()?,
        })
    }

    /// Encodes the message, with Workstation before DomainName in the payload, as Windows does.
    ///
    /// # Errors
    /// [`MessageError::TooLong`] if a name has more than 65,535 bytes.
    pub fn encode(&self) -> Result<Vec<u8>, MessageError> {
        let mut flags = self.flags;
        let version = self.version.map(Version::to_bytes);
        let mut out = Vec::with_capacity(64);
        let mut cursor = VERSION_AT + if version.is_some() { Version::SIZE } else { 0 };
        let mut fields = [[0; PayloadField::SIZE]; 2];
        let names = [
            (1, self.workstation, NegotiateFlags::OEM_WORKSTATION_SUPPLIED, "Workstation"),
            (0, self.domain, NegotiateFlags::OEM_DOMAIN_SUPPLIED, "DomainName"),
        ];
        for (place, name, flag, field) in names {
            if let Some(name) = name {
                flags |= flag;
                out.clear();
                PayloadField::write(&mut out, &mut cursor, name, field)?;
                fields[place].copy_from_slice(&out);
            }
        }
        out.clear();
        MessageType::Negotiate.write(&mut out);
        out.extend_from_slice(&flags.bits().to_le_bytes());
        out.extend_from_slice(fields.as_flattened());
        out.extend_from_slice(version.as_ref().map_or(&[], <[u8; Version::SIZE]>::as_slice));
        out.extend_from_slice(self.workstation.unwrap_or_default());
        out.extend_from_slice(self.domain.unwrap_or_default());
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BARE: NegotiateMessage<'_> =
        NegotiateMessage { flags: NegotiateFlags::NTLM, domain: None, workstation: None, version: None };

    #[test]
    fn the_shortest_form_ends_with_the_flags() {
        let message = b"NTLMSSP\0\x01\0\0\0\x00\x32\0\0";
        let decoded = NegotiateMessage::decode(message).unwrap();
        assert_eq!(decoded.flags.bits(), 0x3200);
        assert_eq!((decoded.domain, decoded.workstation), (None, None));
    }

    #[test]
    fn names_round_trip_and_set_their_flags() {
        let message =
            NegotiateMessage { domain: Some(b"D"), version: Some(Version::WINDOWS_10), ..BARE }.encode().unwrap();
        let decoded = NegotiateMessage::decode(&message).unwrap();
        assert_eq!(decoded.domain, Some(&b"D"[..]));
        assert_eq!(decoded.workstation, None);
        assert!(decoded.flags.contains(NegotiateFlags::OEM_DOMAIN_SUPPLIED));
        assert!(!decoded.flags.contains(NegotiateFlags::OEM_WORKSTATION_SUPPLIED));
    }

    #[test]
    fn a_name_that_exceeds_the_message_is_rejected() {
        let mut message = NegotiateMessage { domain: Some(b"D"), ..BARE }.encode().unwrap();
        message[DOMAIN_AT] = 2;
        assert!(matches!(
            NegotiateMessage::decode(&message),
            Err(MessageError::OutOfBounds { field: "DomainName", length: 2, .. })
        ));
    }

    #[test]
    fn a_name_of_64_kib_is_an_error_and_not_truncated() {
        let name = vec![b'x'; 65_536];
        let message = NegotiateMessage { domain: Some(&name), ..BARE };
        assert_eq!(message.encode(), Err(MessageError::TooLong { field: "DomainName", length: 65_536 }));
    }
}
