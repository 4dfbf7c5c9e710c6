//! The GSS-API tokens of Kerberos (RFC 4121 §4.1): how messages are framed, and the checksum in the first one.

use super::der::{OBJECT_IDENTIFIER, Reader, Writer, application};
use super::error::DecodeError;

/// 1.2.840.113554.1.2.2, the content of its DER.
const KRB5_OID: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x02];
/// 1.2.840.48018.1.2.2, under which Windows 2000 offered the same mechanism.
const MS_KRB5_OID: &[u8] = &[0x2a, 0x86, 0x48, 0x82, 0xf7, 0x12, 0x01, 0x02, 0x02];

/// The number of the checksum in an authenticator for GSS-API.
pub(super) const CHECKSUM_NUMBER: i64 = 0x8003;

/// GSS_C_MUTUAL_FLAG: the service authenticates too.
pub(super) const MUTUAL: u32 = 2;
/// GSS_C_REPLAY_FLAG.
pub(super) const REPLAY: u32 = 4;

/// What a token contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// AP-REQ.
    ApReq,
    /// AP-REP.
    ApRep,
    /// KRB-ERROR.
    Error,
}

impl TokenKind {
    fn number(self) -> [u8; 2] {
        match self {
            TokenKind::ApReq => [1, 0],
            TokenKind::ApRep => [2, 0],
            TokenKind::Error => [3, 0],
        }
    }
}

/// The token with this message.
pub(super) fn token(kind: TokenKind, message: &[u8]) -> Vec<u8> {
    let mut out = Writer::with_capacity(message.len() + 32);
    out.element(application(0), |out| {
        out.bytes(OBJECT_IDENTIFIER, KRB5_OID);
        out.raw(&kind.number());
        out.raw(message);
    });
    out.into_bytes()
}

/// The message in a token.
///
/// # Errors
/// [`DecodeError`] if it is no token of Kerberos.
pub fn read_token(token: &[u8]) -> Result<(TokenKind, &[u8]), DecodeError> {
    let mut reader = Reader::new(token).enter(application(0))?;
    let oid = reader.element(OBJECT_IDENTIFIER)?;
    if oid != KRB5_OID && oid != MS_KRB5_OID {
        return Err(DecodeError::NoToken);
    }
    let (number, message) = reader.rest().split_first_chunk::<2>().ok_or(DecodeError::Length)?;
    let kinds = [TokenKind::ApReq, TokenKind::ApRep, TokenKind::Error];
    let kind = kinds.into_iter().find(|kind| kind.number() == *number).ok_or(DecodeError::NoToken)?;
    Ok((kind, message))
}

/// The checksum of RFC 4121 §4.1.1: no checksum, but the channel bindings and the flags.
pub(super) fn checksum(channel_bindings: Option<[u8; 16]>, flags: u32) -> [u8; 24] {
    let mut out = [0; 24];
    out[0] = 16;
    out[4..20].copy_from_slice(&channel_bindings.unwrap_or_default());
    out[20..].copy_from_slice(&flags.to_le_bytes());
    out
}

/// The channel bindings and the flags in a checksum.
pub(super) fn read_checksum(bytes: &[u8]) -> Result<([u8; 16], u32), DecodeError> {
    let (&[16, 0, 0, 0], rest) = bytes.split_first_chunk::<4>().ok_or(DecodeError::Length)? else {
        return Err(DecodeError::Length);
    };
    let (bindings, rest) = rest.split_first_chunk::<16>().ok_or(DecodeError::Length)?;
    let flags = rest.first_chunk::<4>().ok_or(DecodeError::Length)?;
    Ok((*bindings, u32::from_le_bytes(*flags)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_back_and_others_are_rejected() {
        for kind in [TokenKind::ApReq, TokenKind::ApRep, TokenKind::Error] {
            let framed = token(kind, b"message");
            assert_eq!(read_token(&framed), Ok((kind, &b"message"[..])));
            for end in 0..framed.len() {
                assert!(read_token(&framed[..end]).is_err());
            }
        }
        let mut other = token(TokenKind::ApReq, b"");
        other[12] ^= 1;
        assert_eq!(read_token(&other), Err(DecodeError::NoToken));
    }

    #[test]
    fn the_checksum_has_the_layout_of_rfc_4121() {
        let bytes = checksum(Some([7; 16]), MUTUAL | REPLAY);
        assert_eq!((&bytes[..4], &bytes[4..20], &bytes[20..]), (&[16, 0, 0, 0][..], &[7; 16][..], &[6, 0, 0, 0][..]));
        assert_eq!(read_checksum(&bytes), Ok(([7; 16], 6)));
        assert!(read_checksum(&bytes[..23]).is_err());
    }
}
