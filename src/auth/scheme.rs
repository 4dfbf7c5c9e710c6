//! How NTLM messages travel: under the scheme NTLM, or under Negotiate, raw or in SPNEGO (RFC 4178, RFC 4559).
//!
//! Only as much of SPNEGO is spoken as carries NTLM: one mechanism, no mechListMIC.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// The form in which NTLM messages go out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// `NTLM <message>`.
    #[default]
    Ntlm,
    /// `Negotiate <message>`, as browsers send it where no Kerberos ticket is to be had.
    NegotiateRaw,
    /// `Negotiate <SPNEGO token with the message>`.
    NegotiateSpnego,
    /// `Basic <user:password>`: no NTLM at all, for an upstream that offers nothing better and an identity that allows it.
    Basic,
}

/// What an upstream took the last time, so that the next handshake begins with it.
#[derive(Debug, Default)]
pub(super) struct KnownScheme(AtomicU8);

impl KnownScheme {
    pub(super) fn recall(&self) -> Scheme {
        match self.0.load(Ordering::Relaxed) {
            1 => Scheme::NegotiateRaw,
            2 => Scheme::NegotiateSpnego,
            3 => Scheme::Basic,
            _ => Scheme::Ntlm,
        }
    }

    /// An upstream that refused Basic is to say anew what it offers.
    pub(super) fn forget_basic(&self) {
        let _ = self.0.compare_exchange(3, 0, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(super) fn remember(&self, scheme: Scheme) {
        let number = match scheme {
            Scheme::Ntlm => 0,
            Scheme::NegotiateRaw => 1,
            Scheme::NegotiateSpnego => 2,
            Scheme::Basic => 3,
        };
        self.0.store(number, Ordering::Relaxed);
    }
}

/// Whether an upstream has ever challenged with NTLM, whichever identity it was for.
///
/// Whoever stands between can strip the offers of a 407 down to Basic and would get the password in clear text. So an
/// upstream that has once sent a CHALLENGE_MESSAGE gets no Basic any more. This outlives the identities and the reloads
/// that carry the upstream over.
#[derive(Debug, Default)]
pub struct SpeaksNtlm(AtomicBool);

impl SpeaksNtlm {
    /// It has sent a CHALLENGE_MESSAGE.
    pub(super) fn note(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it is known to.
    pub fn is_known(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Scheme {
    /// The scheme's name in Proxy-Authorization and Proxy-Authenticate.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Ntlm => "NTLM",
            Scheme::NegotiateRaw | Scheme::NegotiateSpnego => "Negotiate",
            Scheme::Basic => "Basic",
        }
    }

    /// What to try when the upstream asks again: it offers NTLM and/or Negotiate, and did not take what was sent.
    pub(super) fn after_refusal(self, ntlm: bool, negotiate: bool) -> Scheme {
        match self {
            // Not Basic again, be it remembered: it is for upstreams that offer nothing better.
            Scheme::Ntlm | Scheme::Basic if ntlm => Scheme::Ntlm,
            Scheme::Ntlm | Scheme::Basic if negotiate => Scheme::NegotiateRaw,
            Scheme::NegotiateRaw if negotiate => Scheme::NegotiateSpnego,
            _ if ntlm => Scheme::Ntlm,
            other => other,
        }
    }

    /// The token that carries a NEGOTIATE_MESSAGE.
    pub(super) fn wrap_first(self, message: &[u8]) -> Option<Vec<u8>> {
        (self == Scheme::NegotiateSpnego).then(|| {
            let mechanisms = der(0xa0, &der(0x30, NTLMSSP_OID));
            let token = der(0xa2, &der(0x04, message));
            let init = der(0xa0, &der(0x30, &[mechanisms, token].concat()));
            der(0x60, &[SPNEGO_OID, &init].concat())
        })
    }

    /// The token that carries an AUTHENTICATE_MESSAGE.
    pub(super) fn wrap_answer(self, message: &[u8]) -> Option<Vec<u8>> {
        (self == Scheme::NegotiateSpnego).then(|| der(0xa1, &der(0x30, &der(0xa2, &der(0x04, message)))))
    }
}

/// DER of 1.3.6.1.5.5.2, SPNEGO.
const SPNEGO_OID: &[u8] = &[0x06, 0x06, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x02];
/// DER of 1.3.6.1.4.1.311.2.2.10, NTLMSSP.
const NTLMSSP_OID: &[u8] = &[0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x02, 0x0a];

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

/// Splits one DER element of a tag off; `None` when there is none or its length lies.
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

/// One DER element; NTLM messages and their wrappings are far below 16 MiB.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let [_, _, _, _, _, high, middle, low] = (content.len() as u64).to_be_bytes();
    let mut out = Vec::with_capacity(content.len() + 5);
    match (high, middle, low) {
        (0, 0, 0..0x80) => out.extend_from_slice(&[tag, low]),
        (0, 0, _) => out.extend_from_slice(&[tag, 0x81, low]),
        (0, _, _) => out.extend_from_slice(&[tag, 0x82, middle, low]),
        _ => out.extend_from_slice(&[tag, 0x83, high, middle, low]),
    }
    out.extend_from_slice(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_any_length_is_found_in_its_wrapping() {
        for length in [0, 1, 0x7f, 0x80, 0xff, 0x100, 0xffff, 0x1_0000] {
            let message = vec![7; length];
            let token = Scheme::NegotiateSpnego.wrap_answer(&message).unwrap();
            assert_eq!(response_token(&token), Some(message.as_slice()), "{length}");
        }
    }

    #[test]
    fn fields_before_the_token_are_passed_over() {
        let state = der(0xa0, &[0x0a, 0x01, 0x01]);
        let fields = [state, der(0xa1, NTLMSSP_OID), der(0xa2, &der(0x04, b"NTLMSSP\0"))].concat();
        assert_eq!(response_token(&der(0xa1, &der(0x30, &fields))), Some(&b"NTLMSSP\0"[..]));
    }

    #[test]
    fn what_is_cut_or_lies_about_its_length_yields_nothing_and_no_panic() {
        let token = Scheme::NegotiateSpnego.wrap_answer(b"NTLMSSP\0 and more").unwrap();
        for end in 0..token.len() {
            assert_eq!(response_token(&token[..end]), None);
        }
        for at in 0..token.len() {
            let mut broken = token.clone();
            broken[at] ^= 0x80;
            let _ = response_token(&broken);
        }
        assert_eq!(response_token(&Scheme::NegotiateSpnego.wrap_first(b"x").unwrap()), None);
    }

    #[test]
    fn the_first_token_names_its_one_mechanism() {
        let token = Scheme::NegotiateSpnego.wrap_first(b"NTLMSSP\0").unwrap();
        assert_eq!(token[..2], [0x60, u8::try_from(token.len() - 2).unwrap()]);
        assert!(token.windows(SPNEGO_OID.len()).any(|window| window == SPNEGO_OID));
        assert!(token.windows(NTLMSSP_OID.len()).any(|window| window == NTLMSSP_OID));
        assert!(token.ends_with(b"NTLMSSP\0"));
    }

    #[test]
    fn ntlm_is_kept_while_it_is_offered_and_negotiate_is_tried_raw_first() {
        assert_eq!(Scheme::Ntlm.after_refusal(true, true), Scheme::Ntlm);
        assert_eq!(Scheme::Ntlm.after_refusal(false, true), Scheme::NegotiateRaw);
        assert_eq!(Scheme::NegotiateRaw.after_refusal(false, true), Scheme::NegotiateSpnego);
        assert_eq!(Scheme::NegotiateSpnego.after_refusal(true, false), Scheme::Ntlm);
    }

    #[test]
    fn an_upstream_that_offers_something_better_by_now_gets_no_basic() {
        assert_eq!(Scheme::Basic.after_refusal(true, true), Scheme::Ntlm);
        assert_eq!(Scheme::Basic.after_refusal(false, true), Scheme::NegotiateRaw);
    }
}
