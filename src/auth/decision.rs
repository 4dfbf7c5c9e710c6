//! What an upstream's answer means in a handshake: pure, a head in, a decision out.

use super::request::Request;
use super::scheme::{Scheme, response_token};
use super::state::{Declined, Leg, fault};
use crate::fault::{At, Cause, Fault};
use crate::forward::HeadPurpose;
use crate::http::{self, BodyFraming, FieldStorage, ResponseHead};

const TRANSPARENT: &str = "the upstream asks with 401 and WWW-Authenticate, as an origin would: it is set up as a transparent proxy \
    (Blue Coat with BCSI cookies does so); use its explicit proxy port";

/// What an answer means, as far as it can be told from the answer and what was sent.
pub(super) enum Decision {
    Skip,
    Answered,
    /// The upstream asks for no proof, and has not seen the client's request.
    NoProof {
        framing: Option<BodyFraming>,
    },
    Established,
    Declined(Declined),
    /// `framing` is `None` when the connection will not go on.
    Challenge {
        token: Vec<u8>,
        framing: Option<BodyFraming>,
        /// The form that the answer is to have.
        scheme: Scheme,
    },
    /// Nothing better than Basic is offered, and the identity allows it.
    AskedForBasic {
        framing: Option<BodyFraming>,
    },
    AskedAgain {
        framing: Option<BodyFraming>,
        /// What to try next.
        scheme: Scheme,
    },
    Refused {
        rechallenged: bool,
        detail: String,
    },
}

/// What an answer is judged by.
pub(super) struct Asked<'a> {
    pub request: &'a Request,
    pub sent: Leg,
    pub scheme: Scheme,
    pub basic: BasicUse,
}

/// What becomes of an offer of Basic where nothing better is offered.
#[derive(Clone, Copy)]
pub(super) enum BasicUse {
    /// The identity does not allow it.
    NotAllowed,
    Allowed,
    /// The identity allows it, and the upstream is known to speak NTLM.
    Withheld,
}

pub(super) fn decide(head: &ResponseHead<'_>, asked: &Asked<'_>) -> Result<Decision, Fault> {
    let framing = head
        .framing(asked.request.response_to(asked.sent.purpose()))
        .map_err(|error| fault(Cause::ResponseMalformed, error.to_string()))?;
    if asked.request.forward().is_some() && (head.status != 407 || !is_of_proxy(head)) {
        return Ok(decide_forward(head, framing, asked));
    }
    match head.status {
        _ if head.is_informational() => Ok(Decision::Skip),
        200..=299 => Ok(Decision::Established),
        401 => Err(fault(Cause::TransparentProxy, TRANSPARENT)),
        407 if is_of_proxy(head) || asked.sent != Leg::Authenticate => decide_407(head, framing, asked),
        status => {
            let mut fields = Vec::new();
            http::copy_end_to_end_fields(&head.fields, &mut fields);
            let reason = String::from_utf8_lossy(head.reason).chars().filter(|letter| !letter.is_control()).collect();
            Ok(Decision::Declined(Declined { status, reason, fields, framing }))
        }
    }
}

/// Whether a 407 is the proxy's own: one without Proxy-Authenticate (RFC 9110 §15.5.8) comes from the origin.
pub fn is_of_proxy(head: &ResponseHead<'_>) -> bool {
    head.fields.get("proxy-authenticate").is_some()
}

/// An answer to a plain HTTP request that asks for no proof, or for no further one.
fn decide_forward(head: &ResponseHead<'_>, framing: BodyFraming, asked: &Asked<'_>) -> Decision {
    let for_challenge = asked.sent.purpose() == HeadPurpose::Challenge;
    match head.is_informational() {
        true if for_challenge => Decision::Skip,
        // An answer to the stand-in: it is not the client's.
        false if for_challenge && asked.request.has_stand_in() => {
            let persists = head.persists() && framing != BodyFraming::CloseDelimited && head.status != 101;
            Decision::NoProof { framing: persists.then_some(framing) }
        }
        _ => Decision::Answered,
    }
}

fn decide_407(head: &ResponseHead<'_>, framing: BodyFraming, asked: &Asked<'_>) -> Result<Decision, Fault> {
    let Asked { sent, scheme, basic, .. } = *asked;
    let persists = head.persists() && framing != BodyFraming::CloseDelimited;
    let framing = persists.then_some(framing);
    let of = |name| http::find_challenge(&head.fields, name);
    let token = of(scheme.name()).and_then(|challenge| challenge.token68);
    match (sent, token) {
        (Leg::Authenticate, token) => {
            let status_line = format!("407 {}", String::from_utf8_lossy(head.reason).escape_debug());
            Ok(Decision::Refused {
                rechallenged: token.is_some(),
                detail: format!("the upstream refused the credentials: {status_line}"),
            })
        }
        (Leg::Negotiate, Some(token)) => {
            let token = http::decode_token(token).map_err(|error| {
                fault(
                    Cause::ChallengeMalformed,
                    format!("the challenge under {} is not base64: {error}", scheme.name()),
                )
            })?;
            let (token, scheme) = ntlm_message(token, scheme)?;
            Ok(Decision::Challenge { token, framing, scheme })
        }
        _ => {
            let (ntlm, negotiate) = (of("NTLM").is_some(), of("Negotiate").is_some());
            if ntlm || negotiate {
                return Ok(Decision::AskedAgain { framing, scheme: scheme.after_refusal(ntlm, negotiate) });
            }
            let offered = http::offered_schemes(&head.fields);
            match basic {
                BasicUse::Allowed if of("Basic").is_some() => return Ok(Decision::AskedForBasic { framing }),
                BasicUse::Withheld if of("Basic").is_some() => return Err(downgraded(&offered)),
                _ => {}
            }
            Err(fault(
                Cause::SchemeNotOffered,
                format!("the upstream offers neither NTLM nor Negotiate; it offers: {offered}"),
            ))
        }
    }
}

/// The NTLM message in a token. Some proxies send SPNEGO under NTLM's name; what they would take for an answer is anybody's
/// guess, so that is a fault of its own.
///
/// The second is the form that the answer is to have: that of the challenge.
fn ntlm_message(token: Vec<u8>, scheme: Scheme) -> Result<(Vec<u8>, Scheme), Fault> {
    const SIGNATURE: &[u8] = b"NTLMSSP\0";
    if token.starts_with(SIGNATURE) {
        let raw = if scheme == Scheme::Ntlm { Scheme::Ntlm } else { Scheme::NegotiateRaw };
        return Ok((token, raw));
    }
    let looks_like_spnego = matches!(token.first(), Some(0x60 | 0xa1));
    match (scheme, response_token(&token)) {
        (Scheme::Ntlm, _) if looks_like_spnego => {
            Err(fault(Cause::ChallengeMalformed, "the upstream sends a SPNEGO token under the scheme NTLM"))
        }
        (Scheme::NegotiateRaw | Scheme::NegotiateSpnego, Some(message)) if message.starts_with(SIGNATURE) => {
            Ok((message.to_vec(), Scheme::NegotiateSpnego))
        }
        _ => Err(fault(Cause::ChallengeMalformed, format!("the token under {} holds no NTLM message", scheme.name()))),
    }
}

/// The upstream spoke NTLM before and now offers only what would give the password away.
pub(super) fn downgraded(offered: &str) -> Fault {
    let detail = format!(
        "the upstream authenticated with NTLM before and now offers: {offered}; the password is not sent as Basic, because the \
         offer may have been altered on the way. If the upstream gave NTLM up, restart the gateway or rename the upstream"
    );
    fault(Cause::SchemeDowngraded, detail)
}

/// Parses a head, unfolding its lines where that is what it takes.
pub(super) fn with_head<T>(
    bytes: &[u8],
    field_limit: usize,
    look: impl Fn(&ResponseHead<'_>) -> T,
) -> Result<T, Fault> {
    let refused = match ResponseHead::parse(bytes, &mut FieldStorage::with_limit(field_limit)) {
        Ok(head) => return Ok(look(&head)),
        Err(error) => error,
    };
    let mut unfolded = bytes.to_vec();
    if http::unfold_field_lines(&mut unfolded)
        && let Ok(head) = ResponseHead::parse(&unfolded, &mut FieldStorage::with_limit(field_limit))
    {
        return Ok(look(&head));
    }
    Err(Fault::malformed_response(At::Authenticate, &refused))
}
