//! NEGOTIATE_MESSAGE: the same after encoding, and answered by a decodable challenge. The input is the message.

use ntlm_gateway::ntlm::{ChallengeMessage, MessageType, NegotiateMessage, VerifyOptions, challenge, describe, verify};

use super::parties;

/// Checks one message.
pub fn check(input: &[u8]) {
    let Ok(message) = NegotiateMessage::decode(input) else {
        for options in [parties::server(None), parties::server(Some(parties::TIME))] {
            assert!(challenge(input, &options).is_err(), "an undecodable message is answered");
        }
        return;
    };
    assert_eq!(MessageType::of(input), Ok(MessageType::Negotiate));
    assert!(describe(input).is_ok());
    let written = message.encode().expect("a decoded message can be encoded");
    let again = NegotiateMessage::decode(&written).expect("an encoded message can be decoded");
    assert_eq!(again.domain.unwrap_or_default(), message.domain.unwrap_or_default());
    assert_eq!(again.workstation.unwrap_or_default(), message.workstation.unwrap_or_default());
    assert_eq!(again.version, message.version);
    assert!(again.flags.contains(message.flags));
    for options in [parties::server(None), parties::server(Some(parties::TIME))] {
        let answer = challenge(input, &options).expect("a decodable message is answered");
        let read = ChallengeMessage::decode(&answer).expect("the answer can be decoded");
        assert_eq!(read.server_challenge, options.server_challenge);
        assert_eq!(read.target_info, options.target_info.as_deref());
        let verified = verify(input, input, &answer, |_, _| None, &VerifyOptions::default());
        assert!(verified.is_err(), "a NEGOTIATE_MESSAGE authenticates");
    }
}

/// Messages of various clients.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = parties::negotiates();
    seeds.push(super::base64_token::decoded(super::trace::NEGOTIATE));
    seeds.extend(parties::negotiates().iter().map(|message| message.iter().copied().take(32).collect()));
    seeds.extend(parties::negotiates().iter().map(|message| message.iter().copied().take(16).collect()));
    seeds
}
