//! The server name of a ClientHello is the same however it is split and fragmented, and it is a host name. The input is
//! a byte that decides about the pieces, and what the client sends.

use super::pieces::Pieces;
use ntlm_gateway::client_protocol::{HelloError, HelloReader, ServerName};
use ntlm_gateway::http::{Authority, Host};

const RECORDED: [&[u8]; 7] = [
    include_bytes!("../../src/client_protocol/transparent/recorded/curl.bin"),
    include_bytes!("../../src/client_protocol/transparent/recorded/java.bin"),
    include_bytes!("../../src/client_protocol/transparent/recorded/node.bin"),
    include_bytes!("../../src/client_protocol/transparent/recorded/openssl.bin"),
    include_bytes!("../../src/client_protocol/transparent/recorded/openssl-noname.bin"),
    include_bytes!("../../src/client_protocol/transparent/recorded/python.bin"),
    include_bytes!("../../src/client_protocol/transparent/recorded/wget.bin"),
];

/// Checks what one client sends.
pub fn check(input: &[u8]) {
    let Some((&seed, bytes)) = input.split_first() else { return };
    let outcome = HelloReader::default().read(bytes);
    assert_eq!(outcome, in_pieces(bytes, seed), "split");
    match &outcome {
        Ok(Some(ServerName::Name(name))) => {
            let authority = format!("{name}:443");
            let host = Authority::parse(&authority).map(|authority| authority.host);
            assert_eq!(host, Ok(Host::Name(name)));
            assert!(bytes.windows(name.len()).any(|window| window == name.as_bytes()) || has_many_records(bytes));
        }
        Ok(_) => {}
        Err(error) => assert!(!error.to_string().chars().any(char::is_control)),
    }
    if let (Ok(Some(name)), Some(message)) = (&outcome, message(bytes)) {
        assert_eq!(HelloReader::default().read(&fragmented(&message, seed)).as_ref(), Ok(&Some(name.clone())));
    }
}

/// The outcome, if the bytes come in pieces.
fn in_pieces(bytes: &[u8], seed: u8) -> Result<Option<ServerName>, HelloError> {
    let mut reader = HelloReader::default();
    let mut pieces = Pieces::new(bytes, seed);
    while pieces.next().is_some() {
        let outcome = reader.read(&bytes[..bytes.len() - pieces.rest().len()]);
        if outcome != Ok(None) {
            return outcome;
        }
    }
    Ok(None)
}

fn has_many_records(bytes: &[u8]) -> bool {
    bytes.len() > 9 && usize::from(u16::from_be_bytes([bytes[3], bytes[4]])) < bytes.len() - 5
}

/// The handshake message of a hello that has one record.
fn message(bytes: &[u8]) -> Option<Vec<u8>> {
    let (header, rest) = bytes.split_at_checked(9)?;
    let length = usize::from(header[7]) << 8 | usize::from(header[8]);
    let body = rest.get(..length)?;
    let is_one_record = usize::from(u16::from_be_bytes([header[3], header[4]])) >= 4 + length && header[6] == 0;
    is_one_record.then(|| [&header[5..], body].concat())
}

/// The message in records as small as the bound on their headers allows.
fn fragmented(message: &[u8], seed: u8) -> Vec<u8> {
    let most = usize::from(seed).max(6);
    let record = |fragment: &[u8]| {
        let [high, low] = u16::try_from(fragment.len()).unwrap_or(u16::MAX).to_be_bytes();
        [&[22, 3, 3, high, low], fragment].concat()
    };
    message.chunks(most).flat_map(record).collect()
}

/// Real hellos: whole, in one-byte pieces, cut, with two names, and fragmented.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = RECORDED.iter().map(|hello| [&[40], *hello].concat()).collect();
    let curl = RECORDED[0];
    seeds.push([&[0], curl].concat());
    seeds.push([&[3], &curl[..curl.len() / 2]].concat());
    seeds.push([&[9], &fragmented(&curl[5..], 100)[..]].concat());
    seeds.push(b"\x07\x16\x03\x01\0\x04\x02\0\0\0".to_vec());
    seeds
}
