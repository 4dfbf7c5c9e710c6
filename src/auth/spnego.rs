//! SPNEGO (RFC 4178), as far as it carries one mechanism: no choice between several, no mechListMIC.

use std::fmt;

/// DER of 1.3.6.1.5.5.2, SPNEGO.
const SPNEGO_OID: &[u8] = &[0x06, 0x06, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x02];
/// DER of 1.3.6.1.4.1.311.2.2.10, NTLMSSP.
pub(super) const NTLMSSP_OID: &[u8] = &[0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x02, 0x0a];

/// negState (RFC 4178 §4.2.2): how far the server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NegState {
    /// accept-completed.
    AcceptCompleted,
    /// accept-incomplete.
    AcceptIncomplete,
    /// reject.
    Reject,
    /// request-mic.
    RequestMic,
}

/// What a NegTokenResp (RFC 4178 §4.2.2) says.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct NegTokenResp<'a> {
    /// How far the server is.
    pub state: Option<NegState>,
    /// The DER of the mechanism that the server has chosen.
    pub mechanism: Option<&'a [u8]>,
    /// The mechanism's own token.
    pub token: Option<&'a [u8]>,
}

/// Without the token, which may be secret.
impl fmt::Debug for NegTokenResp<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("NegTokenResp").field("state", &self.state).finish_non_exhaustive()
    }
}

/// Reads a NegTokenResp; `None` if it is malformed. Fields that are not known are skipped.
pub fn read_response(token: &[u8]) -> Option<NegTokenResp<'_>> {
    let (sequence, _) = element(token, 0xa1)?;
    let (mut fields, _) = element(sequence, 0x30)?;
    let mut response = NegTokenResp::default();
    while let Some(tag) = fields.first().copied() {
        let (content, rest) = element(fields, tag)?;
        match tag {
            0xa0 => {
                response.state = Some(match element(content, 0x0a)?.0 {
                    [0] => NegState::AcceptCompleted,
                    [1] => NegState::AcceptIncomplete,
                    [2] => NegState::Reject,
                    [3] => NegState::RequestMic,
                    _ => return None,
                });
            }
            0xa1 => {
                element(content, 0x06)?;
                response.mechanism = Some(content);
            }
            0xa2 => response.token = Some(element(content, 0x04)?.0),
            _ => {}
        }
        fields = rest;
    }
    Some(response)
}

/// The first mechanism's token in a NegTokenInit (RFC 4178 §4.2.1); `None` if it is malformed or has none.
pub fn initial_token(token: &[u8]) -> Option<&[u8]> {
    let (body, _) = element(token, 0x60)?;
    let (init, _) = element(body.strip_prefix(SPNEGO_OID)?, 0xa0)?;
    let (mut fields, _) = element(init, 0x30)?;
    while let Some(tag) = fields.first().copied() {
        let (content, rest) = element(fields, tag)?;
        if tag == 0xa2 {
            return element(content, 0x04).map(|(token, _)| token);
        }
        fields = rest;
    }
    None
}

/// A NegTokenInit (RFC 4178 §4.2.1) that offers one mechanism, with that mechanism's first token.
pub(super) fn first_token(mechanism_oid: &[u8], token: &[u8]) -> Vec<u8> {
    // A ticket may have many kilobytes, so the token is copied once. The headers are made from the inside out.
    let (octets, size) = enclosed(0x04, token.len());
    let (mechanism_token, size) = enclosed(0xa2, size);
    let (mechanisms, mechanisms_size) = enclosed(0x30, mechanism_oid.len());
    let (mechanism_list, mechanisms_size) = enclosed(0xa0, mechanisms_size);
    let (fields, size) = enclosed(0x30, mechanisms_size + size);
    let (choice, size) = enclosed(0xa0, size);
    let (initial, size) = enclosed(0x60, SPNEGO_OID.len() + size);
    let mut out = Vec::with_capacity(size);
    out.extend_from_slice(initial.bytes());
    out.extend_from_slice(SPNEGO_OID);
    for header in [choice, fields, mechanism_list, mechanisms] {
        out.extend_from_slice(header.bytes());
    }
    out.extend_from_slice(mechanism_oid);
    out.extend_from_slice(mechanism_token.bytes());
    out.extend_from_slice(octets.bytes());
    out.extend_from_slice(token);
    out
}

/// A NegTokenResp (RFC 4178 §4.2.2) with a further token of the mechanism.
pub(super) fn response(token: &[u8]) -> Vec<u8> {
    der(0xa1, &der(0x30, &der(0xa2, &der(0x04, token))))
}

/// Whether a token begins like one of SPNEGO.
pub(super) fn resembles(token: &[u8]) -> bool {
    matches!(token.first(), Some(0x60 | 0xa1))
}

/// The responseToken of a NegTokenResp (RFC 4178 §4.2.2); `None` for anything else.
pub(super) fn response_token(token: &[u8]) -> Option<&[u8]> {
    let (sequence, _) = element(token, 0xa1)?;
    let (mut fields, _) = element(sequence, 0x30)?;
    while let Some(tag) = fields.first().copied() {
        let (content, rest) = element(fields, tag)?;
        if tag == 0xa2 {
            return element(content, 0x04).map(|(message, _)| message);
        }
        fields = rest;
    }
    None
}

/// Splits off one DER element with this tag; `None` if there is none, or if its length is wrong.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (length, rest) = match bytes {
        [found, short @ 0..=0x7f, rest @ ..] if *found == tag => (usize::from(*short), rest),
        [found, 0x81, length, rest @ ..] if *found == tag => (usize::from(*length), rest),
        [found, 0x82, high, low, rest @ ..] if *found == tag => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        [found, 0x83, high, middle, low, rest @ ..] if *found == tag => {
            (usize::try_from(u32::from_be_bytes([0, *high, *middle, *low])).ok()?, rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

/// One DER element of less than 16 MiB.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let (header, size) = enclosed(tag, content.len());
    let mut out = Vec::with_capacity(size);
    out.extend_from_slice(header.bytes());
    out.extend_from_slice(content);
    out
}

/// The header of an element with so many bytes of content, and the size of the whole element in bytes.
fn enclosed(tag: u8, length: usize) -> (Header, usize) {
    let header = Header::new(tag, length);
    (header, header.used + length)
}

/// Tag and length of an element of less than 16 MiB.
#[derive(Clone, Copy)]
struct Header {
    array: [u8; 5],
    /// How many bytes of the array they are.
    used: usize,
}

impl Header {
    fn new(tag: u8, length: usize) -> Header {
        let [.., high, middle, low] = (length as u64).to_be_bytes();
        let (array, used) = match (high, middle, low) {
            (0, 0, 0..0x80) => ([tag, low, 0, 0, 0], 2),
            (0, 0, _) => ([tag, 0x81, low, 0, 0], 3),
            (0, _, _) => ([tag, 0x82, middle, low, 0], 4),
            _ => ([tag, 0x83, high, middle, low], 5),
        };
        Header { array, used }
    }

    fn bytes(&self) -> &[u8] {
        &self.array[..self.used]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// DER of 1.2.840.113554.1.2.2, Kerberos 5.
    const KRB5_OID: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x02];

    #[test]
    fn a_token_of_any_length_is_unwrapped() {
        for length in [0, 1, 0x7f, 0x80, 0xff, 0x100, 0xffff, 0x1_0000] {
            let message = vec![7; length];
            let token = response(&message);
            assert_eq!(response_token(&token), Some(message.as_slice()), "{length}");
        }
    }

    #[test]
    fn fields_before_the_token_are_skipped() {
        let state = der(0xa0, &[0x0a, 0x01, 0x01]);
        let fields = [state, der(0xa1, NTLMSSP_OID), der(0xa2, &der(0x04, b"NTLMSSP\0"))].concat();
        assert_eq!(response_token(&der(0xa1, &der(0x30, &fields))), Some(&b"NTLMSSP\0"[..]));
    }

    #[test]
    fn a_truncated_or_wrong_length_yields_no_token_and_no_panic() {
        let token = response(b"NTLMSSP\0 and more");
        for end in 0..token.len() {
            assert_eq!(response_token(&token[..end]), None);
        }
        for at in 0..token.len() {
            let mut broken = token.clone();
            broken[at] ^= 0x80;
            let _ = response_token(&broken);
        }
        assert_eq!(response_token(&first_token(NTLMSSP_OID, b"x")), None);
    }

    #[test]
    fn a_response_is_read_with_its_state_and_mechanism() {
        for (number, state) in [
            (0, NegState::AcceptCompleted),
            (1, NegState::AcceptIncomplete),
            (2, NegState::Reject),
            (3, NegState::RequestMic),
        ] {
            let state_field = der(0xa0, &[0x0a, 0x01, number]);
            let fields = [state_field, der(0xa1, KRB5_OID), der(0xa2, &der(0x04, b"token")), der(0xa3, b"x")].concat();
            let token = der(0xa1, &der(0x30, &fields));
            let expected = NegTokenResp { state: Some(state), mechanism: Some(KRB5_OID), token: Some(b"token") };
            assert!(read_response(&token) == Some(expected));
            for end in 0..token.len() {
                assert!(read_response(&token[..end]).is_none(), "{end}");
            }
        }
        assert!(read_response(&der(0xa1, &der(0x30, &der(0xa0, &[0x0a, 1, 4])))).is_none());
        assert!(read_response(&der(0xa1, &der(0x30, b""))) == Some(NegTokenResp::default()));
    }

    #[test]
    fn the_first_token_names_its_one_mechanism() {
        let token = first_token(NTLMSSP_OID, b"NTLMSSP\0");
        assert_eq!(token[..2], [0x60, u8::try_from(token.len() - 2).unwrap()]);
        assert!(token.windows(SPNEGO_OID.len()).any(|window| window == SPNEGO_OID));
        assert!(token.windows(NTLMSSP_OID.len()).any(|window| window == NTLMSSP_OID));
        assert!(token.ends_with(b"NTLMSSP\0"));
        assert_eq!(initial_token(&token), Some(&b"NTLMSSP\0"[..]));
        assert!((0..token.len()).all(|end| initial_token(&token[..end]).is_none()));
        for length in [0, 0x40, 0x7f, 0x80, 0xff, 0x100, 0xffff, 0x1_0000] {
            let message = vec![7; length];
            assert_eq!(initial_token(&first_token(KRB5_OID, &message)), Some(message.as_slice()), "{length}");
        }
    }
}
