//! The base64 of a token68: decoded like the simple decoder in this file. The input is the text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ntlm_gateway::http::{TOKEN_LIMIT_BYTES, TokenError, decode_token};

/// Checks one text, and the encoding of the same bytes.
pub fn check(input: &[u8]) {
    let encoded = STANDARD.encode(input);
    if encoded.len() <= TOKEN_LIMIT_BYTES {
        assert_eq!(decode_token(&encoded).as_deref(), Ok(input));
        assert_eq!(decode_token(encoded.trim_end_matches('=')).as_deref(), Ok(input));
        assert_eq!(decode_token(&format!(" \t{encoded}\t ")).as_deref(), Ok(input));
    }
    let Ok(text) = str::from_utf8(input) else {
        return;
    };
    match decode_token(text) {
        Err(TokenError::TooLong { bytes }) => assert!(bytes > TOKEN_LIMIT_BYTES),
        outcome => assert_eq!(outcome.ok(), simple_decode(text)),
    }
}

/// RFC 4648 section 4; padding is optional and leftover bits are ignored.
fn simple_decode(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_matches([' ', '\t']);
    let digits = text.trim_end_matches('=');
    let padding = text.len() - digits.len();
    let (mut bits, mut held, mut bytes) = (0u32, 0, Vec::new());
    for digit in digits.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            let [.., byte] = (bits >> held).to_be_bytes();
            bytes.push(byte);
        }
    }
    let needed = match digits.len() % 4 {
        0 => 0,
        1 => return None,
        rest => 4 - rest,
    };
    (padding <= needed).then_some(bytes)
}

/// Decodes a text that is known to be base64.
pub fn decoded(text: &str) -> Vec<u8> {
    decode_token(text).expect("a constant of the tests")
}

/// Tokens with padding, without it, and invalid ones.
pub fn seeds() -> Vec<Vec<u8>> {
    let texts =
        [super::trace::NEGOTIATE, super::trace::AUTHENTICATE, "TlRMTVNTUAA=", "TlRMTVNTUAA", "TlR=", "Tl==", "T"];
    let mut seeds: Vec<Vec<u8>> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    seeds.extend([b" TlRM\t".to_vec(), b"TlRM=".to_vec(), b"TlRN===".to_vec(), b"Tl-_".to_vec(), vec![0xff; 10]]);
    seeds
}
