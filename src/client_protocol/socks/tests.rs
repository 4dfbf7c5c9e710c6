//! Requests of SOCKS clients, whole and split at every byte.

use std::cell::RefCell;

use super::super::{ClientProtocol, RequestReader, Service};
use super::*;
use crate::auth::{Declined, Request};
use crate::client_protocol::{Logins, Socks5Phase, Verdict};
use crate::forward::ForwardOptions;
use crate::http::BodyFraming;

/// Takes the login of joe, if it takes any.
#[derive(Default)]
struct Joe {
    takes_logins: bool,
    checked: RefCell<usize>,
}

impl Logins for Joe {
    fn are_taken(&self) -> bool {
        self.takes_logins
    }

    fn check(&self, login: &ShownLogin) -> Result<(), Fault> {
        *self.checked.borrow_mut() += 1;
        match login {
            ShownLogin::Login { user, password } if user.as_str() == "joe" && password.as_str() == "secret" => Ok(()),
            _ => Err(At::ReadHead.fault(Cause::LoginRequired, "wrong")),
        }
    }
}

/// What became of a client's bytes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    /// What was answered on the way.
    answers: Vec<u8>,
    /// `host:port`, and the fields that go upstream.
    asked: Option<(String, String)>,
    login: Option<String>,
    fault: Option<(Cause, String)>,
    leftover: Vec<u8>,
    protocol: Option<ClientProtocol>,
}

/// Reads `pieces` as a session does.
fn read_pieces(pieces: &[&[u8]], takes_logins: bool) -> Seen {
    let logins = Joe { takes_logins, ..Joe::default() };
    let forward = ForwardOptions { via: Some("gw") };
    let options = ReadOptions { head_limit_bytes: 64 * 1024, field_limit: 100, forward, logins: &logins };
    let mut reader = RequestReader::first(&Service::default(), || unreachable!("it is not redirected"));
    let (mut held, mut seen) = (Vec::new(), Seen::default());
    for piece in pieces {
        held.extend_from_slice(piece);
        while seen.asked.is_none() && seen.fault.is_none() {
            let (used, reading) = reader.read(&held, &options);
            held.drain(..used);
            match reading {
                Ok(Reading::More) => break,
                Ok(Reading::Client(_)) => panic!("no PROXY header"),
                Ok(Reading::Answer(bytes)) => seen.answers.extend(bytes),
                Ok(Reading::Demand(demand)) => {
                    let Request::Connect { authority, fields } = &demand.request else { panic!("not a tunnel") };
                    let fields = String::from_utf8(fields.to_vec()).unwrap();
                    assert_eq!(demand.target.authority(authority).to_string(), **authority);
                    seen.asked = Some((authority.to_string(), fields));
                    if let ShownLogin::Login { user, .. } = &demand.login {
                        seen.login = Some(user.to_string());
                    }
                }
                Err(rejected) => seen.fault = Some((rejected.fault.cause, rejected.fault.detail.to_string())),
            }
        }
    }
    assert!(*logins.checked.borrow() <= 1, "a login is checked once");
    seen.leftover = held;
    seen.protocol = Some(reader.protocol());
    seen
}

/// Reads `bytes` whole and split at every byte, and in single bytes.
fn read(bytes: &[u8], takes_logins: bool) -> Seen {
    let whole = read_pieces(&[bytes], takes_logins);
    // After a rejection the rest is discarded, so it does not matter how much of it is left.
    let essence = |mut seen: Seen| {
        if seen.fault.is_some() {
            seen.leftover.clear();
        }
        seen
    };
    for at in 1..bytes.len() {
        let (first, second) = bytes.split_at(at);
        let split = read_pieces(&[first, second], takes_logins);
        assert_eq!(essence(split), essence(read_pieces(&[bytes], takes_logins)), "split at {at}");
    }
    let singly: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(essence(read_pieces(&singly, takes_logins)), essence(read_pieces(&[bytes], takes_logins)));
    whole
}

/// A SOCKS5 request without its greeting.
fn request5(command: u8, kind: u8, address: &[u8], port: u16) -> Vec<u8> {
    [&[5, command, 0, kind][..], address, &port.to_be_bytes()].concat()
}

fn by_name5(name: &[u8], port: u16) -> Vec<u8> {
    request5(1, 3, &[&[u8::try_from(name.len()).unwrap()][..], name].concat(), port)
}

/// The same, with a greeting before it and data after it.
fn session5(request: &[u8]) -> Vec<u8> {
    [b"\x05\x01\x00", request, b"early"].concat()
}

fn request4(command: u8, address: [u8; 4], port: u16, rest: &[u8]) -> Vec<u8> {
    [&[4, command][..], &port.to_be_bytes(), &address, rest].concat()
}

fn asked(seen: &Seen) -> &str {
    seen.asked.as_ref().map_or_else(|| panic!("{seen:?}"), |(authority, _)| authority)
}

#[test]
fn socks5_connects_to_names_and_addresses_and_keeps_early_data() {
    let v6 = "2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let mapped = "::ffff:192.0.2.1".parse::<std::net::Ipv6Addr>().unwrap().octets();
    for (request, expected) in [
        (by_name5(b"Example.COM.", 443), "Example.COM.:443"),
        (by_name5(b"192.0.2.1", 80), "192.0.2.1:80"),
        (by_name5(b"2001:db8::1", 80), "[2001:db8::1]:80"),
        (request5(1, 1, &[192, 0, 2, 1], 8080), "192.0.2.1:8080"),
        (request5(1, 4, &v6, 443), "[2001:db8::1]:443"),
        (request5(1, 4, &mapped, 443), "[::ffff:192.0.2.1]:443"),
    ] {
        let seen = read(&session5(&request), false);
        assert_eq!(asked(&seen), expected);
        assert_eq!(seen.asked.as_ref().map(|(_, fields)| fields.as_str()), Some("Via: SOCKS/5 gw\r\n"));
        assert_eq!((seen.answers.as_slice(), seen.leftover.as_slice()), (&b"\x05\x00"[..], &b"early"[..]));
        assert_eq!(seen.protocol, Some(ClientProtocol::Socks5(Socks5Phase::Request)));
    }
}

#[test]
fn socks4_connects_to_addresses_and_socks4a_to_names() {
    for (request, expected) in [
        (request4(1, [192, 0, 2, 1], 80, b"joe\0early"), "192.0.2.1:80"),
        (request4(1, [192, 0, 2, 1], 80, b"\0early"), "192.0.2.1:80"),
        (request4(1, [0, 0, 0, 0], 80, b"\0early"), "0.0.0.0:80"),
        (request4(1, [0, 0, 0, 1], 443, b"joe\0example.com\0early"), "example.com:443"),
        (request4(1, [0, 0, 0, 255], 443, b"\0[192.0.2.1\0early"), ""),
        (request4(1, [0, 0, 0, 9], 443, b"\x00192.0.2.1\0early"), "192.0.2.1:443"),
    ] {
        let seen = read(&request, true);
        assert_eq!(seen.protocol, Some(ClientProtocol::Socks4));
        if expected.is_empty() {
            assert_eq!(seen.fault.as_ref().map(|(cause, _)| *cause), Some(Cause::RequestMalformed), "{seen:?}");
            continue;
        }
        assert_eq!(asked(&seen), expected);
        assert_eq!(seen.asked.as_ref().map(|(_, fields)| fields.as_str()), Some("Via: SOCKS/4 gw\r\n"));
        assert_eq!((seen.answers.as_slice(), seen.leftover.as_slice(), seen.login), (&b""[..], &b"early"[..], None));
    }
}

#[test]
fn socks5_asks_for_a_login_only_if_one_is_taken_or_nothing_else_is_offered() {
    let target = by_name5(b"a.test", 1);
    let login = |user: &[u8], password: &[u8]| {
        let counted = |text: &[u8]| [&[u8::try_from(text.len()).unwrap()][..], text].concat();
        [&[1][..], &counted(user), &counted(password)].concat()
    };
    let both = [b"\x05\x02\x00\x02", &target[..]].concat();
    let seen = read(&both, false);
    assert_eq!((seen.answers.as_slice(), seen.login.as_deref()), (&b"\x05\x00"[..], None));
    let right = [b"\x05\x02\x00\x02", &login(b"joe", b"secret")[..], &target].concat();
    let seen = read(&right, true);
    assert_eq!(asked(&seen), "a.test:1");
    assert_eq!((seen.answers.as_slice(), seen.login.as_deref()), (&b"\x05\x02\x01\x00"[..], Some("joe")));
    let forced = [b"\x05\x01\x02", &login(b"joe", b"secret")[..], &target].concat();
    assert_eq!(read(&forced, false).login.as_deref(), Some("joe"), "egress ignores it, as it does with HTTP");
    for (user, password) in [(&b"joe"[..], &b"wrong"[..]), (b"", b""), (b"joe", b""), (b"\xff", b"secret")] {
        let wrong = [b"\x05\x01\x02", &login(user, password)[..], &target].concat();
        let seen = read(&wrong, true);
        assert_eq!(seen.fault.as_ref().map(|(cause, _)| *cause), Some(Cause::LoginRequired), "{seen:?}");
        assert_eq!(seen.answers, b"\x05\x02");
        assert_eq!(seen.protocol, Some(ClientProtocol::Socks5(Socks5Phase::Login)));
    }
    for greeting in [&b"\x05\x00"[..], b"\x05\x01\x01", b"\x05\x02\x01\x80"] {
        let seen = read(greeting, true);
        assert_eq!(seen.fault.as_ref().map(|(cause, _)| *cause), Some(Cause::MethodNotSupported), "{seen:?}");
        assert_eq!(seen.protocol, Some(ClientProtocol::Socks5(Socks5Phase::Greeting)));
    }
}

#[test]
fn names_that_are_no_host_names_are_rejected_in_both_versions() {
    let names = [
        &b""[..],
        b"a\0b",
        b"a b",
        b"a@b",
        b"a:1",
        b"a/b",
        b"..",
        b".a",
        b"a..b",
        b"[::1]",
        b"::1%eth0",
        b"127.1",
        b"0x7f.1",
        b"2130706433",
        b"\xc3\xa9.test",
        b"\xff",
        b"a\r\nX: y",
    ];
    for name in names {
        let seen = read(&session5(&by_name5(name, 443)), false);
        let shown = name.escape_ascii();
        assert_eq!(seen.fault.as_ref().map(|(cause, _)| *cause), Some(Cause::RequestMalformed), "{shown}: {seen:?}");
        // A NUL ends the name there.
        if !name.contains(&0) {
            let seen = read(&request4(1, [0, 0, 0, 1], 443, &[b"\0", name, b"\0"].concat()), false);
            assert_eq!(seen.fault.as_ref().map(|(cause, _)| *cause), Some(Cause::RequestMalformed), "{shown}");
        }
    }
    for request in [session5(&by_name5(b"a.test", 0)), request4(1, [192, 0, 2, 1], 0, b"\0")] {
        assert_eq!(read(&request, false).fault.map(|(cause, _)| cause), Some(Cause::RequestMalformed));
    }
}

#[test]
fn only_connect_and_known_address_types_are_served() {
    for (command, name) in [(2, "BIND"), (3, "UDP ASSOCIATE"), (0, "command 0"), (0xff, "command 255")] {
        let seen = read(&session5(&request5(command, 1, &[192, 0, 2, 1], 80)), false);
        let (cause, detail) = seen.fault.unwrap();
        assert!(cause == Cause::MethodNotSupported && detail.contains(name), "{detail}");
        let seen = read(&request4(command, [192, 0, 2, 1], 80, b"\0"), false);
        assert_eq!(seen.fault.map(|(cause, _)| cause), Some(Cause::MethodNotSupported));
    }
    for kind in [0, 2, 5, 0xff] {
        let seen = read(&session5(&request5(1, kind, b"x", 80)), false);
        assert_eq!(seen.fault.map(|(cause, _)| cause), Some(Cause::AddressTypeNotSupported));
    }
    for wrong in [&b"\x05\x01\x00\x04"[..], b"\x05\x01\x02\x05"] {
        let seen = read(wrong, true);
        assert_eq!(seen.fault.map(|(cause, _)| cause), Some(Cause::RequestMalformed), "another version in the middle");
    }
}

#[test]
fn the_texts_of_a_socks4_request_are_bounded() {
    let longest = [&[b'u'; 255][..], b"\0"].concat();
    assert_eq!(asked(&read(&request4(1, [192, 0, 2, 1], 80, &longest), false)), "192.0.2.1:80");
    let endless = request4(1, [192, 0, 2, 1], 80, &[b'u'; 256]);
    assert_eq!(read(&endless, false).fault.map(|(cause, _)| cause), Some(Cause::RequestHeadTooLarge));
    let endless_name = request4(1, [0, 0, 0, 1], 80, &[&b"\0"[..], &[b'a'; 256]].concat());
    assert_eq!(read(&endless_name, false).fault.map(|(cause, _)| cause), Some(Cause::RequestHeadTooLarge));
}

fn answers(protocol: ClientProtocol, verdict: &Verdict<'_>) -> (Option<u16>, Vec<u8>) {
    let mut out = Vec::new();
    (protocol.answer(verdict, &mut out), out)
}

#[test]
fn every_cause_has_a_reply_code_where_it_has_a_status() {
    for cause in Cause::ALL {
        let fault = At::Dial.fault(*cause, "x");
        let failed = Verdict::Failed { fault: &fault, upstream: None, omit_body: false };
        let status = super::super::status(*cause);
        let code = reply(*cause);
        assert_eq!(code.is_some(), status.is_some(), "{}", cause.label());
        assert!(code.is_none_or(|code| (1..=8).contains(&code)));
        let (told, bytes) = answers(ClientProtocol::Socks5(Socks5Phase::Request), &failed);
        assert_eq!(told, status);
        assert_eq!(bytes, code.map_or(Vec::new(), |code| vec![5, code, 0, 1, 0, 0, 0, 0, 0, 0]));
        let (_, bytes) = answers(ClientProtocol::Socks4, &failed);
        assert_eq!(bytes, code.map_or(Vec::new(), |_| vec![0, 91, 0, 0, 0, 0, 0, 0]));
        let (_, bytes) = answers(ClientProtocol::Socks5(Socks5Phase::Login), &failed);
        assert_eq!(bytes, code.map_or(Vec::new(), |_| vec![1, 1]));
        let (_, bytes) = answers(ClientProtocol::Socks5(Socks5Phase::Greeting), &failed);
        assert_eq!(bytes, code.map_or(Vec::new(), |_| vec![5, 0xff]));
    }
}

#[test]
fn success_and_an_upstreams_own_refusal_have_their_codes() {
    let request = ClientProtocol::Socks5(Socks5Phase::Request);
    assert_eq!(answers(request, &Verdict::Established), (Some(200), vec![5, 0, 0, 1, 0, 0, 0, 0, 0, 0]));
    assert_eq!(answers(ClientProtocol::Socks4, &Verdict::Established), (Some(200), vec![0, 90, 0, 0, 0, 0, 0, 0]));
    for (status, code) in [(403, 2), (407, 2), (404, 4), (502, 4), (503, 4), (504, 6), (500, 1), (302, 1)] {
        let declined = Declined { status, reason: "x".into(), fields: Vec::new(), framing: BodyFraming::Length(0) };
        let verdict = Verdict::Declined { declined: &declined, body: b"page", upstream: "u" };
        assert_eq!(answers(request, &verdict), (Some(status), vec![5, code, 0, 1, 0, 0, 0, 0, 0, 0]));
        assert_eq!(answers(ClientProtocol::Socks4, &verdict).1[1], 91);
    }
}
