//! Just enough SPNEGO (RFC 4178) to extract an NTLM message from a token, and to wrap one.

const NTLM_SIGNATURE: &[u8] = b"NTLMSSP\0";
/// DER of the object identifier 1.3.6.1.4.1.311.2.2.10, NTLMSSP.
const NTLMSSP_OID: &[u8] = &[0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x02, 0x0a];
/// DER of the negState accept-incomplete.
const ACCEPT_INCOMPLETE: &[u8] = &[0x0a, 0x01, 0x01];

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

/// A NegTokenResp (accept-incomplete) that contains `message`.
pub(super) fn wrap(message: &[u8]) -> Vec<u8> {
    let fields = [der(0xa0, ACCEPT_INCOMPLETE), der(0xa1, NTLMSSP_OID), der(0xa2, &der(0x04, message))].concat();
    der(0xa1, &der(0x30, &fields))
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
}
