//! What an upstream's answer means for a handshake: pure, a head in, its meaning out.

use super::credentials::Credentials;
use super::fallback::Fallback;
use super::fault;
use super::mechanism::{CHALLENGE_SCHEMES, Refusal, Scheme};
use super::progress::Declined;
use super::request::Request;
use super::state::Leg;
use crate::fault::{Cause, Fault};
use crate::forward::HeadPurpose;
use crate::http::{self, BodyFraming, ResponseHead};
use crate::limits;
use crate::ntlm::FileTime;

const TRANSPARENT: &str = "the upstream asks with 401 and WWW-Authenticate, as an origin would: it is set up as a transparent proxy \
    (Blue Coat with BCSI cookies does so); use its explicit proxy port";

/// What an answer means, as far as the answer and the request tell.
pub(super) enum ProxyAnswer {
    /// 1xx: the answer is still to come.
    Interim,
    /// The upstream answers the client's own plain HTTP request.
    Answered,
    /// The upstream does not ask for authentication, and has not seen the client's own request.
    NotAsked {
        /// `None` if the connection does not persist; the same below.
        framing: Option<BodyFraming>,
    },
    /// The tunnel is established.
    Established,
    Declined(Declined),
    /// A challenge for the first token.
    Challenge {
        challenge: Vec<u8>,
        framing: Option<BodyFraming>,
        /// The scheme of the final token.
        scheme: Scheme,
    },
    /// 407 without a challenge.
    AskedAgain {
        framing: Option<BodyFraming>,
        /// What to try next.
        scheme: Scheme,
        /// Why, if that is another mechanism.
        fallback: Fallback,
    },
    /// The final token was refused.
    Refused {
        /// With a new challenge.
        rechallenged: bool,
        detail: String,
    },
}

/// The request that is answered.
pub(super) struct SentRequest<'a> {
    pub request: &'a Request,
    pub leg: Leg,
    pub scheme: Scheme,
    pub credentials: &'a Credentials,
    /// When its final token was made, if it carries one.
    pub token_made_at: FileTime,
    /// See [`Handshake::retries`](super::Handshake).
    pub retries: u8,
}

impl ProxyAnswer {
    /// Reads a 407 to a final token.
    pub(super) fn read_refusal(head: &ResponseHead<'_>, sent: &SentRequest<'_>) -> Result<ProxyAnswer, Fault> {
        ProxyAnswer::of_407(head, BodyFraming::CloseDelimited, sent)
    }

    pub(super) fn read(head: &ResponseHead<'_>, sent: &SentRequest<'_>) -> Result<ProxyAnswer, Fault> {
        let framing = head
            .framing(sent.request.response_to(sent.leg.purpose()))
            .map_err(|error| fault(Cause::ResponseMalformed, error.to_string()))?;
        if sent.request.forward().is_some() && (head.status != 407 || !is_of_proxy(head)) {
            return Ok(ProxyAnswer::of_forward(head, framing, sent));
        }
        match head.status {
            _ if head.is_informational() => Ok(ProxyAnswer::Interim),
            200..=299 => Ok(ProxyAnswer::Established),
            401 => Err(fault(Cause::TransparentProxy, TRANSPARENT)),
            407 if is_of_proxy(head) || sent.leg != Leg::FinalToken => ProxyAnswer::of_407(head, framing, sent),
            status => {
                let mut fields = Vec::new();
                http::copy_end_to_end_fields(&head.fields, &mut fields);
                let is_printable = |letter: &char| !letter.is_control();
                let reason = String::from_utf8_lossy(head.reason).chars().filter(is_printable).collect();
                Ok(ProxyAnswer::Declined(Declined { status, reason, fields, framing }))
            }
        }
    }

    /// An answer to a plain HTTP request that does not ask for authentication.
    fn of_forward(head: &ResponseHead<'_>, framing: BodyFraming, sent: &SentRequest<'_>) -> ProxyAnswer {
        let for_challenge = sent.leg.purpose() == HeadPurpose::Challenge;
        match head.is_informational() {
            true if for_challenge => ProxyAnswer::Interim,
            // An answer to the stand-in: it is not the client's.
            false if for_challenge && sent.request.has_stand_in() => {
                let persists = head.persists() && framing != BodyFraming::CloseDelimited && head.status != 101;
                ProxyAnswer::NotAsked { framing: persists.then_some(framing) }
            }
            _ => ProxyAnswer::Answered,
        }
    }

    fn of_407(head: &ResponseHead<'_>, framing: BodyFraming, sent: &SentRequest<'_>) -> Result<ProxyAnswer, Fault> {
        let SentRequest { leg, scheme, credentials, .. } = *sent;
        let persists = head.persists() && framing != BodyFraming::CloseDelimited;
        let framing = persists.then_some(framing);
        let mechanism = credentials.mechanism(scheme);
        let token = token_under(scheme.name(), head);
        let not_offered = || Fallback::not_offered(scheme, &head.fields);
        if leg == Leg::FinalToken {
            let mut said = format!("407 {}", String::from_utf8_lossy(head.reason).escape_debug());
            if !mechanism.counts_as_logon() {
                let decoded = token.and_then(|token| http::decode_token(token).ok());
                let is_offered = http::find_challenge(&head.fields, scheme.name()).is_some();
                let made_at = sent.token_made_at;
                let refused = mechanism.refused(&Refusal { token: decoded.as_deref(), is_offered, made_at });
                if let Some(why) = refused.why {
                    said.push_str(&format!("; {why}"));
                }
                let fallback = match is_offered {
                    true => Fallback::refused(scheme, &said, &head.fields),
                    false => not_offered(),
                };
                // On another connection: Squid answers 407 to whatever follows a refused token on this one.
                if refused.may_retry && sent.retries < limits::TOKEN_RETRIES {
                    return Ok(ProxyAnswer::AskedAgain { framing: None, scheme, fallback });
                }
                match credentials.choose(scheme, true, &head.fields) {
                    Ok(scheme) => {
                        mechanism.give_way();
                        return Ok(ProxyAnswer::AskedAgain { framing: None, scheme, fallback });
                    }
                    Err(fault) if !is_offered => return Err(fault),
                    Err(_) => {}
                }
                let offered = http::offered_schemes(&head.fields);
                said.push_str(&format!("; it was sent a {} token and offers: {offered}", scheme.mechanism()));
            }
            let detail = format!("the upstream refused the credentials: {said}");
            return Ok(ProxyAnswer::Refused { rechallenged: token.is_some(), detail });
        }
        if leg == Leg::FirstToken
            && let Some(token) = token
        {
            let token = http::decode_token(token).map_err(|error| {
                let detail = format!("the challenge under {} is not base64: {error}", scheme.name());
                fault(Cause::ChallengeMalformed, detail)
            })?;
            let (challenge, scheme) = mechanism.read_challenge(scheme, token)?;
            return Ok(ProxyAnswer::Challenge { challenge, framing, scheme });
        }
        let fallback = not_offered();
        let scheme = credentials.choose(scheme, leg == Leg::FirstToken, &head.fields)?;
        Ok(ProxyAnswer::AskedAgain { framing, scheme, fallback })
    }
}

/// Whether a 407 is the proxy's own: one without Proxy-Authenticate (RFC 9110 §15.5.8) comes from the origin.
pub fn is_of_proxy(head: &ResponseHead<'_>) -> bool {
    head.fields.has(http::FieldName::ProxyAuthenticate)
}

/// Whether a 407 carries a challenge, and not only offers.
pub fn carries_challenge(head: &ResponseHead<'_>) -> bool {
    CHALLENGE_SCHEMES.iter().any(|name| token_under(name, head).is_some())
}

pub(super) fn token_under<'b>(name: &str, head: &ResponseHead<'b>) -> Option<&'b str> {
    http::find_challenge(&head.fields, name).and_then(|challenge| challenge.token68)
}
