//! A PROXY header has one reading however it is split, and the client that it names is named again by a header that is
//! written for it. The input is a byte that decides about the pieces, and what the load balancer sends.

use super::pieces::Pieces;
use ntlm_gateway::client_protocol::{Logins, NamedClient, ReadOptions, Reading, RequestReader, Service, ShownLogin};
use ntlm_gateway::fault::{Cause, Fault};
use ntlm_gateway::forward::ForwardOptions;
use std::net::IpAddr;

/// The longest header, in bytes.
const LIMIT_BYTES: usize = 4096;

/// Nobody logs on in a PROXY header.
struct NoLogins;

impl Logins for NoLogins {
    fn are_taken(&self) -> bool {
        panic!("a PROXY header has no login")
    }

    fn check(&self, _: &ShownLogin) -> Result<(), Fault> {
        panic!("a PROXY header has no login")
    }
}

/// How many bytes the header has, and whom it names.
type Outcome = Result<Option<(usize, Option<NamedClient>)>, Cause>;

/// Checks what one load balancer sends.
pub fn check(input: &[u8]) {
    let Some((&seed, bytes)) = input.split_first() else { return };
    let whole = read(bytes);
    let mut pieces = Pieces::new(bytes, seed);
    let mut outcome = read(b"");
    while outcome == Ok(None) && pieces.next().is_some() {
        outcome = read(&bytes[..bytes.len() - pieces.rest().len()]);
    }
    assert_eq!(outcome, whole);
    if let Ok(Some((used, client))) = whole {
        assert!((15..=LIMIT_BYTES).contains(&used) && used <= bytes.len());
        if let Some(client) = client {
            for header in [version_1(client), version_2(client)] {
                assert_eq!(read(&header), Ok(Some((header.len(), Some(client)))));
            }
        }
    }
}

fn read(bytes: &[u8]) -> Outcome {
    let options = ReadOptions {
        head_limit_bytes: LIMIT_BYTES,
        field_limit: 100,
        forward: ForwardOptions { via: None },
        logins: &NoLogins,
    };
    let (used, reading) = RequestReader::proxy_header(&Service::DEFAULT).read(bytes, &options);
    match reading {
        Ok(Reading::More) => Ok(None),
        Ok(Reading::Client(client)) => Ok(Some((used, client))),
        Ok(other) => panic!("{other:?} instead of a header"),
        Err(rejected) => Err(rejected.fault.cause),
    }
}

fn version_1((address, port): NamedClient) -> Vec<u8> {
    let family = if address.is_ipv4() { "TCP4" } else { "TCP6" };
    format!("PROXY {family} {address} {address} {port} 1\r\n").into_bytes()
}

fn version_2((address, port): NamedClient) -> Vec<u8> {
    let (family, octets) = match address {
        IpAddr::V4(address) => (0x11, address.octets().to_vec()),
        IpAddr::V6(address) => (0x21, address.octets().to_vec()),
    };
    let addresses = [&octets[..], &octets, &port.to_be_bytes(), &[0, 1]].concat();
    let length = u16::try_from(addresses.len()).unwrap_or(u16::MAX).to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n\x21", &[family][..], &length, &addresses].concat()
}

/// Headers of both versions, with and without further fields.
pub fn seeds() -> Vec<Vec<u8>> {
    let v4: NamedClient = (IpAddr::from([192, 0, 2, 1]), 40000);
    let v6: NamedClient = (IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]), 40000);
    let checked =
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x13\xc0\x00\x02\x01\xc6\x33\x64\x07\x9c\x40\x01\xbb\x03\x00\x04\0\0\0\0";
    let mut seeds: Vec<Vec<u8>> = [version_1(v4), version_1(v6), version_2(v4), version_2(v6), checked.to_vec()].into();
    seeds.push(b"PROXY UNKNOWN\r\n".to_vec());
    seeds.push(b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00".to_vec());
    seeds.push(
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x11\xc0\x00\x02\x01\xc6\x33\x64\x07\x9c\x40\x01\xbb\x01\x00\x02h2".to_vec(),
    );
    seeds.into_iter().zip([40, 0, 3, 40, 40, 1, 40, 9]).map(|(bytes, seed)| [&[seed], &bytes[..]].concat()).collect()
}
