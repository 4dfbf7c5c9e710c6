//! AUTHENTICATE_MESSAGE: decodes to the same message after encoding, and is rejected once it is modified. The input is
//! the message; the server's challenges are fixed.

use ntlm_gateway::ntlm::{
    AuthenticateMessage, MessageType, Method, NegotiateOptions, NtHash, PayloadOrder, ServerChallengeOptions, Verified,
    VerifyError, VerifyOptions, authenticate, challenge, describe, negotiate, verify,
};

use super::parties;

/// A genuine handshake.
struct Genuine {
    negotiate: Vec<u8>,
    challenge: Vec<u8>,
    authenticate: Vec<u8>,
}

/// Handshakes with a MIC, without one, and with NTLMv1-ESS.
fn handshakes() -> Vec<Genuine> {
    [(Method::NtlmV2, Some(parties::TIME)), (Method::NtlmV2, None), (Method::NtlmV1Ess, None)]
        .into_iter()
        .zip(1..)
        .map(|((method, time), nonce)| {
            let identity = parties::identity(method, false);
            let offer = negotiate(&identity, &NegotiateOptions::default());
            let server = ServerChallengeOptions { server_challenge: [nonce; 8], ..parties::server(time) };
            let asked = challenge(&offer, &server).expect("our own server answers");
            let proof =
                authenticate(&identity, &offer, &asked, &parties::inputs()).expect("our own challenge can be answered");
            Genuine { negotiate: offer, challenge: asked, authenticate: proof }
        })
        .collect()
}

/// Checks one message.
pub fn check(input: &[u8]) {
    if let Ok(message) = AuthenticateMessage::decode(input) {
        for order in [PayloadOrder::NamesFirst, PayloadOrder::ResponsesFirst] {
            let written = message.encode(order).expect("a decoded message can be encoded");
            let again = AuthenticateMessage::decode(&written).expect("an encoded message can be decoded");
            assert!(again == message, "the message changes when encoded {order:?}");
            assert_eq!(again.response_kind(), message.response_kind());
        }
    } else {
        let described = MessageType::of(input) == Ok(MessageType::Authenticate) && describe(input).is_ok();
        assert!(!described, "an undecodable message is described");
    }
    let _ = describe(input);
    for genuine in handshakes() {
        for (allow_v1_ess, require_mic) in [(false, false), (true, false), (true, true)] {
            let options = VerifyOptions { allow_v1_ess, require_mic };
            let Ok(verified) = genuine.verify_input(input, &parties::right_hash(), &options) else {
                continue;
            };
            assert!(genuine.verify_input(input, &parties::wrong_hash(), &options).is_err(), "any password is accepted");
            assert!(verified.user.eq_ignore_ascii_case("User") && verified.domain == "Domain");
            assert!(allow_v1_ess || verified.method == Method::NtlmV2, "NTLMv1-ESS is opt-in");
            assert!(!require_mic || verified.mic || verified.method == Method::NtlmV1Ess);
            genuine.rejects_modified(input, verified.mic, &options);
        }
    }
}

impl Genuine {
    fn verify_input(&self, input: &[u8], hash: &NtHash, options: &VerifyOptions) -> Result<Verified, VerifyError> {
        let known = |user: &str, domain: &str| user.eq_ignore_ascii_case("User") && domain == "Domain";
        let lookup = |user: &str, domain: &str| known(user, domain).then_some(hash);
        verify(input, &self.negotiate, &self.challenge, lookup, options)
    }

    /// No bit of the response in an accepted message can be changed, and with a MIC no bit at all. (That nobody could
    /// have made it without the password cannot be asserted: a fuzzer sees the values in every comparison.)
    fn rejects_modified(&self, input: &[u8], mic: bool, options: &VerifyOptions) {
        let message = AuthenticateMessage::decode(input).expect("an accepted message can be decoded");
        let response = message.nt_response.as_ptr_range();
        let sum: usize = input.iter().map(|byte| usize::from(*byte)).sum();
        for at in (0..input.len()).step_by(1 + input.len() / 512) {
            if mic || response.contains(&input[at..].as_ptr()) {
                let mut changed = input.to_vec();
                changed[at] ^= 1 << (sum % 8);
                let outcome = self.verify_input(&changed, &parties::right_hash(), options);
                assert!(outcome.is_err(), "byte {at} can be changed");
            }
        }
    }
}

/// Genuine messages, in both payload orders, and the message from the trace.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = handshakes().into_iter().map(|genuine| genuine.authenticate).collect();
    let other_order: Vec<Vec<u8>> = seeds
        .iter()
        .filter_map(|message| AuthenticateMessage::decode(message).ok()?.encode(PayloadOrder::ResponsesFirst).ok())
        .collect();
    seeds.extend(other_order);
    seeds.push(super::base64_token::decoded(super::trace::AUTHENTICATE));
    seeds
}
