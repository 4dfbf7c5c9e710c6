//! A redirected client has the same destination however its bytes are split, and that destination is a valid one at the
//! port that it connected to. The input is a byte that decides about the pieces, one that decides about the port, and
//! what the client says.

use super::pieces::Pieces;
use ntlm_gateway::client_protocol::{
    Demand, DestinationSource, Logins, ReadOptions, Reading, Redirected, Redirection, RequestReader, Service,
    ShownLogin,
};
use ntlm_gateway::fault::Fault;
use ntlm_gateway::forward::ForwardOptions;
use ntlm_gateway::http::Authority;

const HELLO: &[u8] = include_bytes!("../../src/client_protocol/transparent/recorded/curl.bin");
const NAMELESS: &[u8] = include_bytes!("../../src/client_protocol/transparent/recorded/openssl-noname.bin");
const PORTS: [u16; 4] = [443, 80, 25, 0];

struct NoLogins;

impl Logins for NoLogins {
    fn are_taken(&self) -> bool {
        false
    }

    fn check(&self, _login: &ShownLogin) -> Result<(), Fault> {
        Ok(())
    }
}

/// Checks what one client says.
pub fn check(input: &[u8]) {
    let Some(([seed, port], bytes)) = input.split_first_chunk() else { return };
    let port = PORTS[usize::from(*port) % PORTS.len()];
    let whole = read(bytes, port, bytes.len().max(1), u8::MAX);
    let split = read(bytes, port, 0, *seed);
    match (&whole, &split) {
        (Outcome::Demand(used, demand), Outcome::Demand(same, other)) => {
            assert_eq!((used, demand.request.origin()), (same, other.request.origin()));
            assert_eq!((demand.source, demand.request.method()), (other.source, other.request.method()));
            sound(*used, demand, port);
        }
        (Outcome::More, Outcome::More) | (Outcome::Rejected, Outcome::Rejected) => {}
        // What cannot become a request is rejected as soon as that shows.
        (Outcome::More, Outcome::Rejected) => {}
        _ => panic!("{whole:?} in one piece, {split:?} in several"),
    }
}

#[derive(Debug)]
enum Outcome {
    More,
    Rejected,
    Demand(usize, Demand),
}

fn read(bytes: &[u8], port: u16, at_once: usize, seed: u8) -> Outcome {
    let options = ReadOptions {
        head_limit_bytes: 64 * 1024,
        field_limit: 100,
        forward: ForwardOptions { via: Some("gw-1") },
        logins: &NoLogins,
    };
    let original = ([192, 0, 2, 1], port).into();
    let redirected = || Redirected { original, is_gateway: false };
    let mut reader = RequestReader::first(&Service::Transparent(Redirection::Redirect), redirected);
    let mut pieces = Pieces::new(&bytes[at_once.min(bytes.len())..], seed);
    loop {
        let come = &bytes[..bytes.len() - pieces.rest().len()];
        match reader.read(come, &options) {
            (_, Err(_)) => return Outcome::Rejected,
            (used, Ok(Reading::Demand(demand))) => return Outcome::Demand(used, demand),
            (used, Ok(_)) => assert_eq!(used, 0, "nothing is lost"),
        }
        if pieces.next().is_none() {
            return Outcome::More;
        }
    }
}

/// What goes upstream is a destination, and what its client does not say to the gateway stays for the origin.
fn sound(used: usize, demand: &Demand, port: u16) {
    let authority = Authority::parse(demand.request.origin()).expect("a valid destination");
    assert_eq!(demand.target.authority(demand.request.origin()), authority);
    let is_tunnel = demand.request.method() == "CONNECT" && demand.source != DestinationSource::Request;
    assert_eq!(used == 0, is_tunnel);
    match demand.source {
        DestinationSource::Request => {}
        _ => assert_eq!(authority.port, port),
    }
}

/// Hellos, requests in both forms, other protocols, and words that resemble HTTP.
pub fn seeds() -> Vec<Vec<u8>> {
    let said: [&[u8]; 12] = [
        HELLO,
        NAMELESS,
        b"GET /a?b HTTP/1.1\r\nHost: a.example\r\n\r\nGET",
        b"GET / HTTP/1.1\r\nHost: a.example:25\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"POST http://b.example/ HTTP/1.1\r\nHost: b.example\r\nContent-Length: 1\r\n\r\nx",
        b"CONNECT c.example:443 HTTP/1.1\r\n\r\nx",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"SET http 1\r\n",
        b"SSH-X http://b.example/ HTTP/1.1\r\nHost: b.example\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\r\nGET / HTTP/1.0\r\n\r\n",
    ];
    said.iter().zip(0_u8..).map(|(bytes, number)| [&[number * 7, number], *bytes].concat()).collect()
}
