//! CHALLENGE_MESSAGE: the same after encoding, and every answer to it is accepted. The input is the message.

use ntlm_gateway::ntlm::{
    AuthenticateMessage, AvId, AvPairs, ChallengeMessage, MessageType, Method, NegotiateOptions, VerifyError,
    VerifyOptions, authenticate, describe, negotiate, verify,
};

use super::parties;

/// Checks one message.
pub fn check(input: &[u8]) {
    match ChallengeMessage::decode(input) {
        Ok(message) => {
            let written = message.encode().expect("a decoded message can be encoded");
            assert_eq!(ChallengeMessage::decode(&written), Ok(message));
            // The only decodable messages that cannot be described have a UTF-16 name of odd length.
            assert_eq!(describe(input).is_ok(), message.target_name_text().is_ok());
        }
        Err(_) => {
            let described = MessageType::of(input) == Ok(MessageType::Challenge) && describe(input).is_ok();
            assert!(!described, "an undecodable message is described");
        }
    }
    for (method, target_domain) in
        [(Method::NtlmV2, false), (Method::NtlmV2, true), (Method::NtlmV1Ess, false), (Method::NtlmV1Ess, true)]
    {
        check_answer(input, method, target_domain);
    }
}

fn check_answer(input: &[u8], method: Method, target_domain: bool) {
    let identity = parties::identity(method, target_domain);
    let offer = negotiate(&identity, &NegotiateOptions::default());
    let Ok(answer) = authenticate(&identity, &offer, input, &parties::inputs()) else {
        return;
    };
    let read = ChallengeMessage::decode(input).expect("an answered challenge can be decoded");
    let sent = AuthenticateMessage::decode(&answer).expect("the answer can be decoded");
    assert!(describe(&answer).is_ok());
    assert!(answer.len() <= 2 * input.len() + 1024, "an answer of {} bytes to {}", answer.len(), input.len());
    let mut pairs = read.target_info.map(AvPairs::new).into_iter().flatten().flatten();
    let server_time = pairs.find(|pair| pair.id == AvId::Timestamp).and_then(|pair| pair.file_time().ok());
    if method == Method::NtlmV2 {
        let time = server_time.unwrap_or(parties::inputs().now).0.to_le_bytes();
        assert_eq!(sent.nt_response.get(24..32), Some(&time[..]), "the server's time must be used, or else ours");
    }
    let options = VerifyOptions { allow_v1_ess: true, require_mic: method == Method::NtlmV2 && server_time.is_some() };
    let (right, wrong) = (parties::right_hash(), parties::wrong_hash());
    let verified = verify(&answer, &offer, input, |_, _| Some(&right), &options).expect("the answer is accepted");
    assert_eq!((verified.user.as_str(), verified.method), ("User", method));
    assert!(target_domain || verified.domain == "Domain");
    assert_eq!(verified.mic, options.require_mic, "there must be a MIC if the server sent its time, and only then");
    let refused = verify(&answer, &offer, input, |_, _| Some(&wrong), &options);
    assert_eq!(refused, Err(VerifyError::WrongPassword));
}

/// Challenges of various servers.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> =
        parties::negotiates().iter().flat_map(|message| parties::challenges_to(message)).collect();
    seeds.push(super::base64_token::decoded(super::trace::CHALLENGE));
    let mut short = seeds.first().cloned().unwrap_or_default();
    short.truncate(32);
    seeds.push(short);
    seeds
}
