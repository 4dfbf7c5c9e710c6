//! Whole messages: published test vectors byte for byte, both sides against each other, and hostile input.

mod handshake;
mod hostile;
mod proxy_example;
mod spec_vectors;
mod timestamp_vector;

use super::*;

/// Decodes hexadecimal text. White space is ignored.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter(|c| !c.is_whitespace()).map(|c| u8::try_from(c.to_digit(16).unwrap()).unwrap()).collect();
    assert!(digits.len().is_multiple_of(2), "odd number of digits");
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn hex_array<const N: usize>(text: &str) -> [u8; N] {
    hex(text).try_into().unwrap()
}

const WINDOWS_XP: Version = Version { major: 5, minor: 1, build: 2600, revision: 15 };

/// The identity of MS-NLMP 4.2.1.
fn spec_identity(method: Method) -> Identity {
    let account = Account { domain: "Domain".to_owned(), user: "User".to_owned() };
    Identity::new(account, "COMPUTER", NtHash::from_password("Password"), method, false)
}

/// The nonces and the time of MS-NLMP 4.2.1.
fn spec_inputs() -> AuthenticateInputs<'static> {
    AuthenticateInputs {
        client_challenge: [0xaa; 8],
        exported_session_key: [0x55; 16],
        now: FileTime(0),
        target_name: None,
        channel_bindings: None,
    }
}

/// A NEGOTIATE_MESSAGE that offers these flags. Section 4.2 does not contain one.
fn spec_negotiate(flags: u32, identity: &Identity) -> Vec<u8> {
    let options = NegotiateOptions {
        flags: NegotiateFlags::from_bits(flags),
        version: Some(WINDOWS_XP),
        ..NegotiateOptions::default()
    };
    negotiate(identity, &options)
}

/// Decodes a message and encodes it again.
fn recoded_authenticate(bytes: &[u8], order: PayloadOrder) -> Vec<u8> {
    AuthenticateMessage::decode(bytes).and_then(|message| message.encode(order)).unwrap()
}

fn recoded_challenge(bytes: &[u8]) -> Vec<u8> {
    ChallengeMessage::decode(bytes).and_then(|message| message.encode()).unwrap()
}
