//! A token under the scheme Negotiate is answered if, and only if, it contains an NTLM message, and in the same form. The
//! input is the token.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ntlm_gateway::auth::{Credentials, FirstLeg, Handshake, Nonces, Progress, Request};
use ntlm_gateway::fault::Cause;
use ntlm_gateway::http::decode_token;
use ntlm_gateway::ntlm::{Method, NegotiateOptions, VerifyOptions, authenticate, negotiate, verify};

use super::parties;

const SIGNATURE: &[u8] = b"NTLMSSP\0";
const HEAD_LIMIT_BYTES: usize = 128 * 1024;
const ASKED: &[u8] = b"HTTP/1.1 407 Denied\r\nProxy-Authenticate: Negotiate\r\nContent-Length: 0\r\n\r\n";

/// Checks one token.
pub fn check(input: &[u8]) {
    let identity = parties::identity(Method::NtlmV2, false);
    let offer = negotiate(&identity, &NegotiateOptions::default());
    let credentials = Arc::new(Credentials::new(identity.clone(), "proxy.test", FirstLeg::Negotiate));
    let request = Request::connect("origin.test:443", Vec::new());
    let mut handshake = Handshake::new(request, credentials, HEAD_LIMIT_BYTES);
    let mut out = Vec::new();
    handshake.begin(&mut out);
    out.clear();
    let asked = handshake.receive(ASKED, &mut out);
    assert!(matches!(asked, Ok((_, Progress::Send))), "{asked:?}");
    assert_eq!(sent_token(&out, "Negotiate").as_ref(), Some(&offer), "it is sent raw at first");
    out.clear();
    let answer = format!(
        "HTTP/1.1 407 Denied\r\nProxy-Authenticate: Negotiate {}\r\nContent-Length: 0\r\n\r\n",
        STANDARD.encode(input)
    );
    let raw = input.starts_with(SIGNATURE);
    let message = if raw { Some(input) } else { response_token(input).filter(|token| token.starts_with(SIGNATURE)) };
    match handshake.receive(answer.as_bytes(), &mut out) {
        Ok((used, Progress::Challenged)) => {
            assert_eq!(used, answer.len());
            assert!(message.is_some(), "a challenge was found in a token that has none");
        }
        // An empty token is no challenge: the next form is tried.
        Ok((_, Progress::Send)) => return assert!(input.is_empty(), "a token was ignored"),
        Ok((_, progress)) => panic!("{progress:?}"),
        Err(fault) => {
            assert_eq!(fault.cause, Cause::ChallengeMalformed);
            return assert!(message.is_none(), "a message was not found: {fault:?}");
        }
    }
    let nonces =
        Nonces { client_challenge: [1; 8], exported_session_key: [2; 16], subkey: [3; 32], now: parties::TIME };
    let challenge = message.unwrap_or_default();
    if handshake.authenticate(&nonces, &mut out).is_err() {
        let answer = authenticate(&identity, &offer, challenge, &parties::inputs());
        return assert!(out.is_empty() && answer.is_err(), "a challenge that can be answered was not");
    }
    let token = sent_token(&out, "Negotiate").expect("the answer has credentials");
    let proof = if raw { &token[..] } else { response_token(&token).expect("the answer has the challenge's form") };
    let hash = parties::right_hash();
    let options = VerifyOptions::default();
    assert!(verify(proof, &offer, challenge, |_, _| Some(&hash), &options).is_ok());
}

/// The decoded credentials of a request, if they are of this scheme; `None` otherwise.
pub fn sent_token(request: &[u8], scheme: &str) -> Option<Vec<u8>> {
    let request = str::from_utf8(request).expect("what the gateway sends is text");
    let (_, credentials) = request.split_once("\r\nProxy-Authorization: ")?;
    let token = credentials.strip_prefix(scheme)?.strip_prefix(' ')?.strip_suffix("\r\n\r\n")?;
    Some(decode_token(token).expect("what the gateway sends is base64"))
}

/// The responseToken of a NegTokenResp (RFC 4178 section 4.2.2), read by a DER reader that shares nothing with the gateway's:
/// lengths first, then the tree.
pub fn response_token(token: &[u8]) -> Option<&[u8]> {
    let (tag, response, _) = element(token)?;
    let (sequence, mut fields, _) = element(response)?;
    if (tag, sequence) != (0xa1, 0x30) {
        return None;
    }
    while !fields.is_empty() {
        let (tag, content, rest) = element(fields)?;
        if tag == 0xa2 {
            return element(content).filter(|(tag, _, _)| *tag == 0x04).map(|(_, message, _)| message);
        }
        fields = rest;
    }
    None
}

/// Tag, content and what follows. Lengths have up to three bytes, in any form and not only DER's shortest.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = bytes.split_first_chunk::<2>()?;
    let count = usize::from(first.saturating_sub(0x80));
    if first == 0x80 || count > 3 {
        return None;
    }
    let (number, rest) = rest.split_at_checked(count)?;
    let length = if first < 0x80 {
        usize::from(first)
    } else {
        number.iter().fold(0, |length, byte| length << 8 | usize::from(*byte))
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// A NegTokenResp with `message`, between the fields that servers send with it.
pub fn wrapped(message: &[u8]) -> Vec<u8> {
    const NTLMSSP: &[u8] = &[0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x02, 0x0a];
    let token = der(0xa2, &der(0x04, message));
    let fields = [der(0xa0, &[0x0a, 0x01, 0x01]), der(0xa1, NTLMSSP), token, der(0xa3, &der(0x04, b"mic"))].concat();
    der(0xa1, &der(0x30, &fields))
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let [.., high, low] = content.len().to_be_bytes();
    let header = match (high, low) {
        (0, 0..0x80) => vec![tag, low],
        (0, _) => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    [&header, content].concat()
}

/// Challenges, raw and wrapped, and malformed wrappings.
pub fn seeds() -> Vec<Vec<u8>> {
    let challenges = super::challenge_message::seeds();
    let mut seeds: Vec<Vec<u8>> = challenges.iter().take(2).cloned().collect();
    seeds.extend(challenges.iter().map(|message| wrapped(message)));
    if let Some(message) = challenges.first() {
        let fields = [der(0xa3, &der(0x04, b"NTLMSSP\0mic")), der(0xa2, &der(0x04, message))].concat();
        seeds.push(der(0xa1, &der(0x30, &fields)));
    }
    let mut cut = wrapped(SIGNATURE);
    cut.pop();
    let long_form = [&[0xa1, 0x83, 0, 0, 16, 0x30, 14, 0xa2, 12, 0x04, 0x82, 0, 8][..], SIGNATURE].concat();
    seeds.extend([Vec::new(), wrapped(b""), cut, der(0x60, SIGNATURE), der(0xa1, &der(0x30, b"")), long_form]);
    seeds
}
