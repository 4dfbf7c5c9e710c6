//! Just enough SPNEGO (RFC 4178) to extract an NTLM message or a token of Kerberos, and to wrap one.

const NTLM_SIGNATURE: &[u8] = b"NTLMSSP\0";
/// DER of the object identifier 1.3.6.1.4.1.311.2.2.10, NTLMSSP.
const NTLMSSP_OID: &[u8] = &[0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x02, 0x0a];
/// DER of the object identifier 1.3.6.1.5.5.2, SPNEGO.
const SPNEGO_OID: &[u8] = &[0x06, 0x06, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x02];
/// DER of the object identifiers of Kerberos: 1.2.840.113554.1.2.2, and 1.2.840.48018.1.2.2, which Windows prefers.
const KERBEROS_OIDS: [&[u8]; 2] = [
    &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x02],
    &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x82, 0xf7, 0x12, 0x01, 0x02, 0x02],
];

/// The negState of a NegTokenResp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NegState {
    AcceptCompleted = 0,
    AcceptIncomplete = 1,
    Reject = 2,
}

/// A client's first token, with a token of Kerberos in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct KerberosToken<'a> {
    /// The GSS-API token.
    pub token: &'a [u8],
    /// DER of the mechanism's object identifier as the client wrote it; `None` without SPNEGO.
    pub mechanism: Option<&'a [u8]>,
}

/// The NTLM message in `token`, and whether it was wrapped; `None` if there is none.
///
/// The token is not parsed: the message is found by its signature, and its length by the header of the OCTET STRING
/// before it. That is enough for a well-behaved peer.
pub(super) fn unwrap(token: &[u8]) -> Option<(&[u8], bool)> {
    if token.starts_with(NTLM_SIGNATURE) {
        return Some((token, false));
    }
    let at = token.windows(NTLM_SIGNATURE.len()).position(|window| window == NTLM_SIGNATURE)?;
    let (header, rest) = token.split_at_checked(at)?;
    let length = match header {
        [.., 0x04, 0x82, high, low] => usize::from(u16::from_be_bytes([*high, *low])),
        [.., 0x04, 0x81, length] => usize::from(*length),
        [.., 0x04, length] => usize::from(*length),
        _ => return None,
    };
    Some((rest.get(..length)?, true))
}

/// The token of Kerberos in a NegTokenInit whose preferred mechanism is Kerberos, or the token itself if it is not in
/// SPNEGO; `None` for anything else.
pub(super) fn kerberos_token(token: &[u8]) -> Option<KerberosToken<'_>> {
    let (content, _) = element(token, 0x60)?;
    if KERBEROS_OIDS.iter().any(|oid| content.starts_with(oid)) {
        return Some(KerberosToken { token, mechanism: None });
    }
    let (choice, _) = element(content.strip_prefix(SPNEGO_OID)?, 0xa0)?;
    let (fields, _) = element(choice, 0x30)?;
    let (mechanisms, mut rest) = element(fields, 0xa0)?;
    let (mechanisms, _) = element(mechanisms, 0x30)?;
    let mechanism = KERBEROS_OIDS.iter().find_map(|oid| mechanisms.get(..oid.len()).filter(|first| first == oid))?;
    if let Some((_flags, behind)) = element(rest, 0xa1) {
        rest = behind;
    }
    let (mechanism_token, _) = element(rest, 0xa2)?;
    let (token, _) = element(mechanism_token, 0x04)?;
    Some(KerberosToken { token, mechanism: Some(mechanism) })
}

/// A NegTokenResp (accept-incomplete) that contains an NTLM message.
pub(super) fn wrap(message: &[u8]) -> Vec<u8> {
    response(NegState::AcceptIncomplete, NTLMSSP_OID, Some(message))
}

/// A NegTokenResp. `mechanism` is DER.
pub(super) fn response(state: NegState, mechanism: &[u8], token: Option<&[u8]>) -> Vec<u8> {
    let token = token.map(|token| der(0xa2, &der(0x04, token))).unwrap_or_default();
    let fields = [der(0xa0, &[0x0a, 0x01, state as u8]), der(0xa1, mechanism), token].concat();
    der(0xa1, &der(0x30, &fields))
}

/// The content of the first DER element, which must have this tag, and what follows it. Longer elements than 64 KiB
/// are rejected.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (length, rest) = match bytes {
        [found, short @ 0..=0x7f, rest @ ..] if *found == tag => (usize::from(*short), rest),
        [found, 0x81, length, rest @ ..] if *found == tag => (usize::from(*length), rest),
        [found, 0x82, high, low, rest @ ..] if *found == tag => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        _ => return None,
    };
    rest.split_at_checked(length)
}

/// A DER element of up to 64 KiB. Longer content is truncated; only the stub's own messages could cause that.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap_or(u16::MAX);
    let [high, low] = length.to_be_bytes();
    let mut out = match (high, low) {
        (0, 0..0x80) => vec![tag, low],
        (0, _) => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    out.extend_from_slice(content.get(..usize::from(length)).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrapped_message_of_any_length_is_found() {
        for padding in [0, 100, 200, 1_000] {
            let message = [NTLM_SIGNATURE, &vec![7; padding]].concat();
            let mut token = wrap(&message);
            assert_eq!(unwrap(&message), Some((&message[..], false)));
            assert_eq!(unwrap(&token), Some((&message[..], true)));
            token.extend_from_slice(b"mechListMIC");
            assert_eq!(unwrap(&token), Some((&message[..], true)));
        }
    }

    #[test]
    fn a_token_without_a_complete_message_yields_none() {
        let token = wrap(NTLM_SIGNATURE);
        assert_eq!(unwrap(&token[..token.len() - 1]), None);
        assert_eq!(unwrap(b""), None);
        assert_eq!(unwrap(b"xNTLMSSP\0"), None);
    }

    #[test]
    fn a_token_of_kerberos_is_found_raw_and_behind_its_mechanism() {
        let ntlm_first = [NTLMSSP_OID, KERBEROS_OIDS[0]].concat();
        for oid in KERBEROS_OIDS {
            let raw = der(0x60, &[oid, b"\x01\x00message"].concat());
            assert_eq!(kerberos_token(&raw), Some(KerberosToken { token: &raw, mechanism: None }));
            let in_spnego = |mechanisms: &[u8], flags: &[u8]| {
                let fields = [&der(0xa0, &der(0x30, mechanisms)), flags, &der(0xa2, &der(0x04, &raw))].concat();
                der(0x60, &[SPNEGO_OID, &der(0xa0, &der(0x30, &fields))].concat())
            };
            for flags in [&b""[..], &der(0xa1, &[0x03, 0x02, 0x01, 0x06])] {
                let token = in_spnego(&[oid, NTLMSSP_OID].concat(), flags);
                assert_eq!(kerberos_token(&token), Some(KerberosToken { token: &raw, mechanism: Some(oid) }));
                assert!((0..token.len()).all(|end| kerberos_token(&token[..end]).is_none()));
            }
            // The token belongs to the preferred mechanism.
            assert_eq!(kerberos_token(&in_spnego(&ntlm_first, b"")), None);
        }
        assert_eq!(kerberos_token(&wrap(NTLM_SIGNATURE)), None);
    }
}
