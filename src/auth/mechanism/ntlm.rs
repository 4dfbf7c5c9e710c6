//! NTLM (MS-NLMP, MS-NTHT): under the scheme NTLM, or under Negotiate, raw or in SPNEGO (RFC 4559).

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{FinalToken, Mechanism, Scheme, TokenInputs};
use crate::auth::{fault, spnego};
use crate::fault::{Cause, Fault};
use crate::http::{self, Fields};
use crate::ntlm::{self, AuthenticateInputs, ChallengeMessage, Identity, NegotiateOptions};

/// Every NTLM message begins with it.
const SIGNATURE: &[u8] = b"NTLMSSP\0";

/// The names under which a challenge may come.
pub(in crate::auth) const CHALLENGE_SCHEMES: [&str; 2] = ["NTLM", "Negotiate"];

/// NTLM for one identity at one upstream.
#[derive(Debug)]
pub(in crate::auth) struct Ntlm {
    /// The NEGOTIATE_MESSAGE, the same in every handshake.
    negotiate: Vec<u8>,
    /// The same in base64, as it is and in SPNEGO.
    first_tokens: [String; 2],
    /// MsvAvTargetName: the service that is asked, `HTTP/<upstream host>`.
    target_name: String,
    speaks_ntlm: Arc<SpeaksNtlm>,
}

impl Ntlm {
    pub(in crate::auth) fn new(identity: &Identity, upstream_host: &str, speaks_ntlm: &Arc<SpeaksNtlm>) -> Ntlm {
        let negotiate = ntlm::negotiate(identity, &NegotiateOptions::default());
        Ntlm {
            first_tokens: first_tokens(&negotiate),
            negotiate,
            target_name: format!("HTTP/{upstream_host}"),
            speaks_ntlm: Arc::clone(speaks_ntlm),
        }
    }

    /// The same with another NEGOTIATE_MESSAGE.
    #[cfg(test)]
    pub(in crate::auth) fn with_negotiate(self, negotiate: Vec<u8>) -> Ntlm {
        Ntlm { first_tokens: first_tokens(&negotiate), negotiate, ..self }
    }

    /// The NTLM message in a token, and the scheme of the answer: that of the challenge.
    ///
    /// Some proxies send SPNEGO under the name NTLM. It is unknown which answer they would accept, so that is a fault
    /// with its own text.
    fn message_in(scheme: Scheme, token: Vec<u8>) -> Result<(Vec<u8>, Scheme), Fault> {
        if token.starts_with(SIGNATURE) {
            let raw = if scheme == Scheme::Ntlm { Scheme::Ntlm } else { Scheme::NegotiateRaw };
            return Ok((token, raw));
        }
        if scheme == Scheme::Ntlm {
            if spnego::resembles(&token) {
                return Err(fault(
                    Cause::ChallengeMalformed,
                    "the upstream sends a SPNEGO token under the scheme NTLM",
                ));
            }
        } else if let Some(message) = spnego::response_token(&token).filter(|message| message.starts_with(SIGNATURE)) {
            return Ok((message.to_vec(), Scheme::NegotiateSpnego));
        }
        Err(fault(Cause::ChallengeMalformed, format!("the token under {} holds no NTLM message", scheme.name())))
    }
}

impl Mechanism for Ntlm {
    fn schemes(&self) -> &'static [Scheme] {
        &[Scheme::Ntlm, Scheme::NegotiateRaw, Scheme::NegotiateSpnego]
    }

    fn first_token(&self, scheme: Scheme) -> Option<&str> {
        let [raw, in_spnego] = &self.first_tokens;
        Some(if scheme == Scheme::NegotiateSpnego { in_spnego } else { raw })
    }

    fn read_challenge(&self, scheme: Scheme, token: Vec<u8>) -> Result<(Vec<u8>, Scheme), Fault> {
        let (message, scheme) = Ntlm::message_in(scheme, token)?;
        if !self.speaks_ntlm.is_known() && ChallengeMessage::decode(&message).is_ok() {
            self.speaks_ntlm.note();
        }
        Ok((message, scheme))
    }

    fn final_token<'a>(&'a self, inputs: &TokenInputs<'a>) -> Result<FinalToken<'a>, Fault> {
        let TokenInputs { scheme, secrets, challenge, nonces, channel_bindings } = inputs;
        let authenticate_inputs = AuthenticateInputs {
            client_challenge: nonces.client_challenge,
            exported_session_key: nonces.exported_session_key,
            now: nonces.now,
            target_name: Some(&self.target_name),
            channel_bindings: *channel_bindings,
        };
        let challenge = challenge.unwrap_or_default();
        let message = ntlm::authenticate(&secrets.identity, &self.negotiate, challenge, &authenticate_inputs)
            .map_err(|error| fault(Cause::ChallengeMalformed, format!("the challenge cannot be answered: {error}")))?;
        let token = match scheme {
            Scheme::NegotiateSpnego => spnego::response(&message),
            _ => message,
        };
        Ok(FinalToken::from(Cow::Owned(token)))
    }

    fn counts_as_logon(&self) -> bool {
        true
    }

    /// NTLM is kept while it is offered. Negotiate is tried raw first, then in SPNEGO.
    fn choose(&self, last: Scheme, offers: &Fields<'_>) -> Result<Option<Scheme>, Fault> {
        let [ntlm, negotiate] = CHALLENGE_SCHEMES.map(|name| http::find_challenge(offers, name).is_some());
        Ok((ntlm || negotiate).then(|| next_scheme(last, ntlm, negotiate)))
    }

    fn share(&mut self, speaks_ntlm: &Arc<SpeaksNtlm>) {
        self.speaks_ntlm = Arc::clone(speaks_ntlm);
    }
}

fn first_tokens(negotiate: &[u8]) -> [String; 2] {
    [http::encode_token(negotiate), http::encode_token(&spnego::first_token(spnego::NTLMSSP_OID, negotiate))]
}

/// The scheme to use after `last`, if at least one of the two is offered.
fn next_scheme(last: Scheme, ntlm: bool, negotiate: bool) -> Scheme {
    match last {
        Scheme::NegotiateRaw if negotiate => Scheme::NegotiateSpnego,
        _ if ntlm => Scheme::Ntlm,
        Scheme::NegotiateSpnego => Scheme::NegotiateSpnego,
        _ => Scheme::NegotiateRaw,
    }
}

/// Whether an upstream has ever sent a CHALLENGE_MESSAGE, for whichever identity.
///
/// Somebody between the gateway and the upstream can strip the offers of a 407 down to Basic and would get the password
/// in clear text. So an upstream that has once sent a CHALLENGE_MESSAGE is not sent Basic any more. This outlives the
/// identities, and the reloads that carry the upstream over.
#[derive(Debug, Default)]
pub struct SpeaksNtlm(AtomicBool);

impl SpeaksNtlm {
    fn note(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it has.
    pub fn is_known(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ntlm_is_kept_while_it_is_offered_and_negotiate_is_tried_raw_first() {
        assert_eq!(next_scheme(Scheme::Ntlm, true, true), Scheme::Ntlm);
        assert_eq!(next_scheme(Scheme::Ntlm, false, true), Scheme::NegotiateRaw);
        assert_eq!(next_scheme(Scheme::NegotiateRaw, false, true), Scheme::NegotiateSpnego);
        assert_eq!(next_scheme(Scheme::NegotiateSpnego, true, false), Scheme::Ntlm);
        assert_eq!(next_scheme(Scheme::NegotiateSpnego, false, true), Scheme::NegotiateSpnego);
    }

    #[test]
    fn an_upstream_that_now_offers_something_better_is_sent_no_basic() {
        assert_eq!(next_scheme(Scheme::Basic, true, true), Scheme::Ntlm);
        assert_eq!(next_scheme(Scheme::Basic, false, true), Scheme::NegotiateRaw);
    }
}
