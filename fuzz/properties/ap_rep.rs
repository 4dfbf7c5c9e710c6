//! Nobody but the service can make the token that authenticates it. The input is the service's GSS-API token.

use ntlm_gateway::kerberos::{ApInputs, Keytab, ServiceToken, Timestamp, accept, read_token};

use super::kdc_reply;

/// The service's keys, recorded.
const KEYTAB: &[u8] = include_bytes!("../../src/kerberos/tests/recorded/http.keytab");

fn now() -> Timestamp {
    Timestamp::from_seconds(1_795_858_407)
}

fn token() -> ServiceToken {
    kdc_reply::service_ticket().token(&ApInputs {
        time: now(),
        confounder: [1; 16],
        subkey: [2; 32],
        sequence_number: 3,
        channel_bindings: None,
    })
}

/// The service's token, with a confounder of its own.
fn reply(confounder: u8) -> Vec<u8> {
    let keytab = Keytab::parse(KEYTAB).expect("the recorded keytab");
    let accepted = accept(&token().bytes, &keytab, now(), &[confounder; 16]).expect("the service accepts the token");
    accepted.reply.expect("the token asks for it")
}

/// Checks one token.
pub fn check(input: &[u8]) {
    let verdict = token().expected.verify(input);
    if let Ok((_, message)) = read_token(input) {
        assert!(message.len() < input.len());
    }
    match verdict {
        // What is encrypted has 40 bytes at least, and only the service can make it. Bytes behind it are ignored.
        Ok(()) => {
            let is_of_service = |part: &[u8]| seeds()[..2].iter().any(|seed| seed.ends_with(part));
            assert!(input.windows(40).any(is_of_service));
        }
        Err(error) => assert!(!error.to_string().chars().any(char::is_control)),
    }
    let keytab = Keytab::parse(KEYTAB).expect("the recorded keytab");
    if let Ok(accepted) = accept(input, &keytab, now(), &[1; 16]) {
        assert_eq!(accepted.client.to_string(), "alice@EXAMPLE.TEST");
    }
}

/// Answers of the service, and the token that they answer.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut cut = reply(1);
    cut.pop();
    let more = [reply(1), b"more".to_vec()].concat();
    vec![reply(1), reply(2), token().bytes, cut, Vec::new(), more]
}
