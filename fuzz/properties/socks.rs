//! What a SOCKS client gets and asks for is the same however its bytes are split, and what it asks for is a valid
//! destination. The input is a byte that decides about the pieces, a byte with the version and whether logins are taken,
//! and what follows the version.

use super::pieces::Pieces;
use ntlm_gateway::auth::Request;
use ntlm_gateway::client_protocol::{
    ClientProtocol, Logins, ReadOptions, Reading, RequestReader, Service, ShownLogin, Verdict,
};
use ntlm_gateway::fault::{At, Cause, Fault};
use ntlm_gateway::forward::ForwardOptions;
use ntlm_gateway::http::Authority;

/// Takes logins whose password is the user's name.
struct SameAsUser {
    takes_logins: bool,
}

impl Logins for SameAsUser {
    fn are_taken(&self) -> bool {
        self.takes_logins
    }

    fn check(&self, login: &ShownLogin) -> Result<(), Fault> {
        match login {
            ShownLogin::Login { user, password } if user == password => Ok(()),
            _ => Err(At::ReadHead.fault(Cause::LoginRequired, "wrong")),
        }
    }
}

/// What became of a client's bytes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    answers: Vec<u8>,
    asked: Option<String>,
    user: Option<String>,
    cause: Option<Cause>,
    leftover: Vec<u8>,
    protocol: Option<ClientProtocol>,
}

/// Checks what one client sends.
pub fn check(input: &[u8]) {
    let Some((&[seed, flags], rest)) = input.split_first_chunk() else { return };
    let bytes = [&[4 | flags & 1][..], rest].concat();
    let takes_logins = flags & 2 != 0;
    let whole = read([&bytes[..]], takes_logins);
    let mut pieces = Pieces::new(&bytes, seed);
    let split = read(std::iter::from_fn(|| pieces.next()), takes_logins);
    assert_eq!(split, whole);
    assert!(bytes.ends_with(&whole.leftover));
    let answers = [&b""[..], b"\x05\x00", b"\x05\x02", b"\x05\x02\x01\x00"];
    assert!(answers.contains(&whole.answers.as_slice()), "{:?}", whole.answers);
    if let Some(asked) = &whole.asked {
        let authority = Authority::parse(asked).expect("a destination");
        assert_eq!(authority.to_string(), *asked);
        assert!(whole.user.is_none() || takes_logins || whole.answers.contains(&2));
    }
    if let (Some(cause), Some(protocol)) = (whole.cause, whole.protocol) {
        let fault = At::ReadHead.fault(cause, "x");
        let mut answer = Vec::new();
        let status = protocol.answer(&Verdict::Failed { fault: &fault, upstream: None, omit_body: false }, &mut answer);
        assert!(status.is_some_and(|status| status >= 400) && (2..=10).contains(&answer.len()));
    }
}

/// Reads pieces as a session does.
fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, takes_logins: bool) -> Seen {
    let logins = SameAsUser { takes_logins };
    let forward = ForwardOptions { via: Some("gw") };
    let options = ReadOptions { head_limit_bytes: 64 * 1024, field_limit: 100, forward, logins: &logins };
    let mut reader = RequestReader::first(&Service::DEFAULT, || panic!("no redirection"));
    let (mut held, mut seen) = (Vec::new(), Seen::default());
    for piece in pieces {
        held.extend_from_slice(piece);
        while seen.asked.is_none() && seen.cause.is_none() {
            let (used, reading) = reader.read(&held, &options);
            held.drain(..used);
            match reading {
                Ok(Reading::More) => break,
                Ok(Reading::Client(_)) => panic!("no PROXY header is awaited"),
                Ok(Reading::Answer(bytes)) => seen.answers.extend(bytes),
                Ok(Reading::Demand(demand)) => {
                    let Request::Connect { authority, fields } = &demand.request else { panic!("not a tunnel") };
                    assert!(fields.starts_with(b"Via: SOCKS/") && fields.ends_with(b" gw\r\n"));
                    seen.asked = Some(authority.to_string());
                    if let ShownLogin::Login { user, .. } = &demand.login {
                        seen.user = Some(user.to_string());
                    }
                }
                Err(rejected) => seen.cause = Some(rejected.fault.cause),
            }
        }
    }
    // After a rejection the rest is discarded, however much of it has come.
    seen.leftover = if seen.cause.is_some() { Vec::new() } else { held };
    seen.protocol = Some(reader.protocol());
    seen
}

/// Requests of every kind, whole and in pieces.
pub fn seeds() -> Vec<Vec<u8>> {
    let socks5 = |flags: u8, rest: &[u8]| [&[40, flags | 1][..], rest].concat();
    let socks4 = |rest: &[u8]| [&[40, 0][..], rest].concat();
    let name = b"\x01\x00\x05\x01\x00\x03\x0bexample.com\x01\xbbearly";
    vec![
        socks5(0, name),
        [&[1, 1], &name[..]].concat(),
        socks5(0, b"\x02\x00\x02\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x50"),
        socks5(0, b"\x01\x00\x05\x01\x00\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x01\xbb"),
        socks5(2, b"\x02\x00\x02\x01\x03joe\x03joe\x05\x01\x00\x03\x05a.com\x00\x50"),
        socks5(2, b"\x01\x02\x01\x03joe\x03jim"),
        socks5(0, b"\x01\x00\x05\x02\x00\x01\xc0\x00\x02\x01\x00\x50"),
        socks5(0, b"\x01\x00\x05\x01\x00\x09"),
        socks5(0, b"\x01\x01"),
        socks4(b"\x01\x00\x50\xc0\x00\x02\x01joe\0early"),
        socks4(b"\x01\x01\xbb\0\0\0\x01joe\0example.com\0early"),
        socks4(b"\x02\x00\x50\xc0\x00\x02\x01\0"),
    ]
}
