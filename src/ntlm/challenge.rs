//! CHALLENGE_MESSAGE (MS-NLMP 2.2.1.2): the server's nonce, names and selected flags.
//!
//! ```text
//!  0 Signature   8 MessageType = 2   12 TargetNameFields   20 NegotiateFlags   24 ServerChallenge
//! 32 Reserved   40 TargetInfoFields  48 Version            then the payload: TargetName, TargetInfo
//! ```
//!
//! With old servers, the fixed part ends at 32, 40 or 48. The flags do not indicate which, so it is inferred from the
//! smallest payload offset.

use super::flags::NegotiateFlags;
use super::wire::{MessageError, MessageType, PayloadField, Version, read_array, read_u32};

pub(super) const TARGET_NAME_AT: usize = 12;
pub(super) const TARGET_INFO_AT: usize = 40;
const VERSION_AT: usize = 48;
/// The end of ServerChallenge, and of the shortest fixed part.
const SHORTEST: usize = 32;

/// A CHALLENGE_MESSAGE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChallengeMessage<'a> {
    /// The flags that the server selected.
    pub flags: NegotiateFlags,
    /// ServerChallenge.
    pub server_challenge: [u8; 8],
    /// TargetName, in the charset that the flags select.
    pub target_name: &'a [u8],
    /// TargetInfo, an AV_PAIR list, which is not validated here. `None` if absent or empty.
    pub target_info: Option<&'a [u8]>,
    /// Version, for debugging only.
    pub version: Option<Version>,
}

impl<'a> ChallengeMessage<'a> {
    /// Decodes a message with a fixed part of 32, 40, 48 or 56 bytes.
    ///
    /// # Errors
    /// Any [`MessageError`] except `TooLong` and `OddLength`.
    pub fn decode(message: &'a [u8]) -> Result<Self, MessageError> {
        MessageType::Challenge.expect(message)?;
        let target_name = PayloadField::read(message, TARGET_NAME_AT, "TargetName")?;
        let flags = NegotiateFlags::from_bits(read_u32(message, 20, "NegotiateFlags")?);
        let server_challenge = read_array(message, 24, "ServerChallenge")?;
        let mut payload = target_name.start().unwrap_or(message.len()).min(message.len());
        let mut fixed = SHORTEST;
        let mut target_info = None;
        if flags.contains(NegotiateFlags::TARGET_INFO) && payload >= TARGET_INFO_AT + PayloadField::SIZE {
            fixed = TARGET_INFO_AT + PayloadField::SIZE;
            let field = PayloadField::read(message, TARGET_INFO_AT, "TargetInfo")?;
            payload = payload.min(field.start().unwrap_or(message.len()));
            target_info = Some(field.of(message, fixed)?).filter(|info| !info.is_empty());
        }
        let has_version = flags.contains(NegotiateFlags::VERSION) && payload >= VERSION_AT + Version::SIZE;
        Ok(Self {
            flags,
            server_challenge,
            target_name: target_name.of(message, fixed)?,
            target_info,
            version: has_version.then(|| Version::read(message, VERSION_AT)).transpose()?,
        })
    }

    /// TargetName as text.
    ///
    /// # Errors
    /// [`MessageError::OddLength`] if it is UTF-16LE with an odd number of bytes.
    pub fn target_name_text(&self) -> Result<String, MessageError> {
        self.flags.charset().decode(self.target_name, "TargetName")
    }

    /// Encodes the message, with TargetName before TargetInfo. The fixed part has 48 bytes without Version, 56 with it.
    ///
    /// # Errors
    /// [`MessageError::TooLong`] if a value has more than 65,535 bytes.
    pub fn encode(&self) -> Result<Vec<u8>, MessageError> {
        let mut cursor = VERSION_AT + if self.version.is_some() { Version::SIZE } else { 0 };
        let info = self.target_info.unwrap_or_default();
        let mut out = Vec::with_capacity(cursor + self.target_name.len() + info.len());
        MessageType::Challenge.write(&mut out);
        PayloadField::write(&mut out, &mut cursor, self.target_name, "TargetName")?;
        out.extend_from_slice(&self.flags.bits().to_le_bytes());
        out.extend_from_slice(&self.server_challenge);
        out.extend_from_slice(&[0; 8]);
        match self.target_info {
            Some(info) => PayloadField::write(&mut out, &mut cursor, info, "TargetInfo")?,
            None => PayloadField::write_absent(&mut out),
        }
        if let Some(version) = self.version {
            out.extend_from_slice(&version.to_bytes());
        }
        out.extend_from_slice(self.target_name);
        out.extend_from_slice(info);
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message with a fixed part of `fixed` bytes, followed by the OEM target name "T".
    fn old_form(fixed: u8, flags: u32) -> Vec<u8> {
        let mut message = b"NTLMSSP\0\x02\0\0\0\x01\0\x01\0".to_vec();
        message.extend_from_slice(&u32::from(fixed).to_le_bytes());
        message.extend_from_slice(&flags.to_le_bytes());
        message.extend_from_slice(b"12345678");
        message.resize(usize::from(fixed), 0);
        message.push(b'T');
        message
    }

    #[test]
    fn old_forms_without_target_info_and_version_decode() {
        // All flags are set, so the absent fields can only be inferred from the start of the payload.
        for fixed in [32, 40, 48] {
            let message = old_form(fixed, 0xffff_fffe);
            let decoded = ChallengeMessage::decode(&message).unwrap();
            assert_eq!(decoded.target_name_text().as_deref(), Ok("T"), "{fixed}");
            assert_eq!(&decoded.server_challenge, b"12345678");
            assert_eq!((decoded.target_info, decoded.version), (None, None), "{fixed}");
        }
    }

    #[test]
    fn a_message_of_32_bytes_decodes() {
        let mut message = old_form(32, 0x8201);
        message.truncate(32);
        message[12..20].fill(0);
        assert_eq!(ChallengeMessage::decode(&message).unwrap().target_name, b"");
        message.pop();
        assert!(matches!(ChallengeMessage::decode(&message), Err(MessageError::Truncated { .. })));
    }

    #[test]
    fn a_target_info_of_64_kib_round_trips() {
        let info = vec![0; 65_535];
        let message = ChallengeMessage {
            flags: NegotiateFlags::TARGET_INFO | NegotiateFlags::UNICODE,
            server_challenge: [1; 8],
            target_name: b"T\0",
            target_info: Some(&info),
            version: None,
        };
        let bytes = message.encode().unwrap();
        assert_eq!(ChallengeMessage::decode(&bytes), Ok(message));
        assert!(matches!(
            ChallengeMessage::decode(&bytes[..bytes.len() - 1]),
            Err(MessageError::OutOfBounds { field: "TargetInfo", length: 65_535, .. })
        ));
    }

    #[test]
    fn fields_that_point_into_the_fixed_part_are_rejected() {
        let mut message = old_form(48, 0x0080_0002);
        message[TARGET_INFO_AT] = 4;
        message[TARGET_INFO_AT + 4] = 12;
        assert!(matches!(
            ChallengeMessage::decode(&message),
            Err(MessageError::OutOfBounds { field: "TargetInfo", offset: 12, start: 48, .. })
        ));
    }
}
