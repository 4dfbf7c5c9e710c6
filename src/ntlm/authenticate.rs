//! AUTHENTICATE_MESSAGE (MS-NLMP 2.2.1.3): the client's names and its responses to the challenge.
//!
//! ```text
//! 12 LmChallengeResponse   20 NtChallengeResponse   28 DomainName   36 UserName   44 Workstation
//! 52 EncryptedRandomSessionKey   60 NegotiateFlags   64 Version   72 MIC (16)   88 payload
//! ```
//!
//! Version and MIC may both be absent. No flag indicates that (NTLMSSP_NEGOTIATE_VERSION does not move the payload), so
//! it is inferred from the smallest payload offset.

use std::ops::Range;

use super::file_time::FileTime;
use super::flags::NegotiateFlags;
use super::wire::{MessageError, MessageType, PayloadField, Version, read_array, read_u32};

/// Indices into [`FIELDS`].
pub(super) const LM_RESPONSE: usize = 0;
pub(super) const NT_RESPONSE: usize = 1;
pub(super) const DOMAIN: usize = 2;
pub(super) const USER: usize = 3;
pub(super) const WORKSTATION: usize = 4;
pub(super) const SESSION_KEY: usize = 5;

/// Offsets and names of the six payload fields, in the order of the fixed part.
pub(super) const FIELDS: [(usize, &str); 6] = [
    (12, "LmChallengeResponse"),
    (20, "NtChallengeResponse"),
    (28, "DomainName"),
    (36, "UserName"),
    (44, "Workstation"),
    (52, "EncryptedRandomSessionKey"),
];
const FLAGS_AT: usize = 60;
const VERSION_AT: usize = 64;
/// The offset of the MIC, if present.
pub(super) const MIC_AT: usize = 72;
/// The size of the MIC in bytes.
pub(super) const MIC_SIZE: usize = 16;

/// The size in bytes of the NTLMv1, LMv1 and LMv2 responses.
pub(super) const SHORT_RESPONSE_SIZE: usize = 24;
/// The size in bytes of the shortest NTLMv2 response: NTProofStr (16) and the fixed part of `temp` (28).
const SHORTEST_V2_RESPONSE_SIZE: usize = 44;

/// The order of the values in the payload. Peers follow the offsets and accept any order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PayloadOrder {
    /// DomainName, UserName, Workstation, LM, NT, session key, as Windows does.
    #[default]
    NamesFirst,
    /// LM, NT, DomainName, UserName, Workstation, session key, as other implementations do.
    ResponsesFirst,
}

impl PayloadOrder {
    /// Indices into [`FIELDS`] in payload order.
    pub(super) const fn indices(self) -> [usize; 6] {
        match self {
            Self::NamesFirst => [DOMAIN, USER, WORKSTATION, LM_RESPONSE, NT_RESPONSE, SESSION_KEY],
            Self::ResponsesFirst => [LM_RESPONSE, NT_RESPONSE, DOMAIN, USER, WORKSTATION, SESSION_KEY],
        }
    }
}

/// The kind of an NtChallengeResponse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NtResponseKind {
    /// Empty: the client is anonymous.
    Anonymous,
    /// NTLMv1 without extended session security (MS-NLMP 3.3.1).
    NtlmV1,
    /// NTLMv1 with extended session security, also called "NTLM2 session response" (MS-NLMP 3.3.1).
    NtlmV1Ess,
    /// NTLMv2 (MS-NLMP 3.3.2).
    NtlmV2,
    /// None of these.
    Unknown,
}

impl std::fmt::Display for NtResponseKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "none (anonymous)",
            Self::NtlmV1 => "NTLMv1",
            Self::NtlmV1Ess => "NTLMv1-ESS",
            Self::NtlmV2 => "NTLMv2",
            Self::Unknown => "unknown",
        })
    }
}

/// An NTLMv2 response: NTProofStr, then `temp`, which MS-NLMP 2.2.2.7 calls NTLMv2_CLIENT_CHALLENGE.
pub(super) struct V2Response<'a> {
    pub nt_proof_str: [u8; 16],
    /// Everything that NTProofStr covers, except the ServerChallenge.
    pub temp: &'a [u8],
    pub time: FileTime,
    pub client_challenge: [u8; 8],
    /// An AV_PAIR list, followed by padding.
    pub av_pairs: &'a [u8],
}

/// An AUTHENTICATE_MESSAGE. Names are in the charset that the flags select.
///
/// It has no `Debug`, because passwords can be guessed offline from the responses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AuthenticateMessage<'a> {
    /// The flags that both sides agreed on.
    pub flags: NegotiateFlags,
    /// LmChallengeResponse.
    pub lm_response: &'a [u8],
    /// NtChallengeResponse.
    pub nt_response: &'a [u8],
    /// DomainName.
    pub domain: &'a [u8],
    /// UserName.
    pub user: &'a [u8],
    /// Workstation.
    pub workstation: &'a [u8],
    /// EncryptedRandomSessionKey; empty unless NTLMSSP_NEGOTIATE_KEY_EXCH is set.
    pub encrypted_session_key: &'a [u8],
    /// Version, for debugging only. If it is `None`, the field is omitted, or written as zeros if there is a MIC.
    pub version: Option<Version>,
    /// MIC. If it is `None`, the field is omitted.
    pub mic: Option<[u8; MIC_SIZE]>,
}

impl<'a> AuthenticateMessage<'a> {
    /// Decodes a message, with or without Version and MIC.
    ///
    /// # Errors
    /// Any [`MessageError`] except `TooLong` and `OddLength`.
    pub fn decode(message: &'a [u8]) -> Result<Self, MessageError> {
        MessageType::Authenticate.expect(message)?;
        let flags = NegotiateFlags::from_bits(read_u32(message, FLAGS_AT, "NegotiateFlags")?);
        let mut fields = [None; FIELDS.len()];
        let mut payload = message.len();
        for (slot, (at, name)) in fields.iter_mut().zip(FIELDS) {
            let field = PayloadField::read(message, at, name)?;
            payload = payload.min(field.start().unwrap_or(payload));
            *slot = Some(field);
        }
        let mut values = [&message[..0]; FIELDS.len()];
        for (value, field) in values.iter_mut().zip(fields.iter().flatten()) {
            *value = field.of(message, VERSION_AT)?;
        }
        let [lm_response, nt_response, domain, user, workstation, encrypted_session_key] = values;
        let version = (payload >= MIC_AT).then(|| Version::read(message, VERSION_AT)).transpose()?;
        let mic = (payload >= MIC_AT + MIC_SIZE).then(|| read_array(message, MIC_AT, "MIC")).transpose()?;
        Ok(Self { flags, lm_response, nt_response, domain, user, workstation, encrypted_session_key, version, mic })
    }

    /// Encodes the message.
    ///
    /// # Errors
    /// [`MessageError::TooLong`] if a value has more than 65,535 bytes.
    pub fn encode(&self, order: PayloadOrder) -> Result<Vec<u8>, MessageError> {
        let values =
            [self.lm_response, self.nt_response, self.domain, self.user, self.workstation, self.encrypted_session_key];
        let fixed = match (self.mic, self.version) {
            (Some(_), _) => MIC_AT + MIC_SIZE,
            (None, Some(_)) => MIC_AT,
            (None, None) => VERSION_AT,
        };
        let mut encoder = Encoder::new(fixed, values.iter().map(|value| value.len()).sum());
        for index in order.indices() {
            encoder.value(index, |payload| payload.extend_from_slice(values[index]));
        }
        let mut message = encoder.finish(self.flags, self.version)?;
        if let (Some(mic), Some(room)) = (self.mic, message.get_mut(MIC_AT..fixed)) {
            room.copy_from_slice(&mic);
        }
        Ok(message)
    }

    /// The kind of the NT response, determined by sizes and flags only.
    #[must_use]
    pub fn response_kind(&self) -> NtResponseKind {
        match self.nt_response {
            [] => NtResponseKind::Anonymous,
            nt if nt.len() == SHORT_RESPONSE_SIZE => {
                let padded = self.lm_response.len() == SHORT_RESPONSE_SIZE
                    && self.lm_response.iter().skip(8).all(|byte| *byte == 0);
                if padded && self.flags.contains(NegotiateFlags::EXTENDED_SESSIONSECURITY) {
                    NtResponseKind::NtlmV1Ess
                } else {
                    NtResponseKind::NtlmV1
                }
            }
            nt if nt.len() >= SHORTEST_V2_RESPONSE_SIZE && nt.get(16..18) == Some(&[1, 1]) => NtResponseKind::NtlmV2,
            _ => NtResponseKind::Unknown,
        }
    }

    /// The parts of an NTLMv2 response; `None` for every other kind.
    pub(super) fn v2_response(&self) -> Option<V2Response<'a>> {
        if self.response_kind() != NtResponseKind::NtlmV2 {
            return None;
        }
        let (nt_proof_str, temp) = self.nt_response.split_first_chunk::<16>()?;
        Some(V2Response {
            nt_proof_str: *nt_proof_str,
            temp,
            time: FileTime(u64::from_le_bytes(*temp.get(8..)?.first_chunk()?)),
            client_challenge: *temp.get(16..)?.first_chunk()?,
            av_pairs: temp.get(28..)?,
        })
    }

    pub(super) fn text(&self, value: &[u8], field: &'static str) -> Result<String, MessageError> {
        self.flags.charset().decode(value, field)
    }
}

/// Writes a message whose values are written one after the other, each directly into the payload.
pub(super) struct Encoder {
    message: Vec<u8>,
    /// Where each value is, in the order of [`FIELDS`].
    values: [Range<usize>; FIELDS.len()],
    /// The size of the fixed part.
    fixed: usize,
}

impl Encoder {
    /// A message with a fixed part of `fixed` bytes, and with room for a payload of `payload` bytes.
    pub(super) fn new(fixed: usize, payload: usize) -> Self {
        let mut message = Vec::with_capacity(fixed + payload);
        message.resize(fixed, 0);
        Self { message, values: [const { 0..0 }; FIELDS.len()], fixed }
    }

    /// Appends the value of one of [`FIELDS`]; `write` appends it to the message.
    pub(super) fn value<T>(&mut self, index: usize, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let start = self.message.len();
        let written = write(&mut self.message);
        self.values[index] = start..self.message.len();
        written
    }

    /// Writes the fixed part, in which the MIC remains zero.
    ///
    /// # Errors
    /// [`MessageError::TooLong`] if a value has more than 65,535 bytes.
    pub(super) fn finish(self, flags: NegotiateFlags, version: Option<Version>) -> Result<Vec<u8>, MessageError> {
        let Self { mut message, values, fixed } = self;
        let head = &mut message[..fixed];
        let beginning = MessageType::Authenticate.beginning();
        head[..beginning.len()].copy_from_slice(&beginning);
        for (value, (at, name)) in values.iter().zip(FIELDS) {
            let field = PayloadField::encoded(value.len(), value.start, name)?;
            head[at..at + PayloadField::SIZE].copy_from_slice(&field);
        }
        head[FLAGS_AT..VERSION_AT].copy_from_slice(&flags.bits().to_le_bytes());
        if let Some(room) = head.get_mut(VERSION_AT..MIC_AT) {
            room.copy_from_slice(&version.unwrap_or_default().to_bytes());
        }
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: AuthenticateMessage<'_> = AuthenticateMessage {
        flags: NegotiateFlags::OEM,
        lm_response: b"LM",
        nt_response: b"NT",
        domain: b"D",
        user: b"U",
        workstation: b"W",
        encrypted_session_key: b"",
        version: None,
        mic: None,
    };

    #[test]
    fn every_form_of_the_fixed_part_round_trips() {
        let with_version = AuthenticateMessage { version: Some(Version::WINDOWS_10), ..MESSAGE };
        let with_mic = AuthenticateMessage { mic: Some([7; 16]), ..with_version };
        for (message, fixed) in [(MESSAGE, 64), (with_version, 72), (with_mic, 88)] {
            for order in [PayloadOrder::NamesFirst, PayloadOrder::ResponsesFirst] {
                let bytes = message.encode(order).unwrap();
                assert_eq!(bytes.len(), fixed + 7);
                assert!(AuthenticateMessage::decode(&bytes).is_ok_and(|decoded| decoded == message));
            }
        }
    }

    #[test]
    fn the_payload_is_written_in_the_given_order() {
        let names = MESSAGE.encode(PayloadOrder::NamesFirst).unwrap();
        let responses = MESSAGE.encode(PayloadOrder::ResponsesFirst).unwrap();
        assert_eq!(&names[64..], b"DUWLMNT");
        assert_eq!(&responses[64..], b"LMNTDUW");
    }

    #[test]
    fn the_kind_of_response_depends_on_its_size() {
        assert_eq!(MESSAGE.response_kind(), NtResponseKind::Unknown);
        let plain = AuthenticateMessage { nt_response: &[1; 24], lm_response: &[1; 24], ..MESSAGE };
        assert_eq!(plain.response_kind(), NtResponseKind::NtlmV1);
        let anonymous = AuthenticateMessage { nt_response: &[], ..MESSAGE };
        assert_eq!(anonymous.response_kind(), NtResponseKind::Anonymous);
    }
}
