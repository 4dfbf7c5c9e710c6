//! What clients say to their origins, split at every byte, and what becomes of it.

use std::net::SocketAddr;

use super::RequestReader;
use crate::auth::Request;
use crate::client_protocol::{
    ClientProtocol, Demand, DestinationSource, Logins, ReadOptions, Reading, Redirected, Rejected, ShownLogin, Verdict,
};
use crate::fault::{At, Cause, Fault};
use crate::forward::{ForwardOptions, HeadPurpose};

const HELLO: &[u8] = include_bytes!("recorded/curl.bin");
const NAMELESS: &[u8] = include_bytes!("recorded/openssl-noname.bin");

struct NoLogins;

impl Logins for NoLogins {
    fn are_taken(&self) -> bool {
        false
    }

    fn check(&self, _login: &ShownLogin) -> Result<(), Fault> {
        Ok(())
    }
}

fn options() -> ReadOptions<'static> {
    ReadOptions {
        head_limit_bytes: 64 * 1024,
        field_limit: 100,
        forward: ForwardOptions { via: Some("gw-1") },
        logins: &NoLogins,
    }
}

fn redirected(original: &str) -> Redirected {
    Redirected { original: original.parse().unwrap(), is_gateway: false }
}

/// The outcome of bytes that come one at a time after the first `at_once`: how many were needed, how many of them were
/// used, and what they are.
fn read(reader: &mut RequestReader, bytes: &[u8], at_once: usize) -> (usize, usize, Result<Demand, Box<Rejected>>) {
    for length in at_once..=bytes.len() {
        match reader.read(&bytes[..length], &options()) {
            (0, Ok(Reading::More)) => {}
            (used, Ok(Reading::Demand(demand))) => return (length, used, Ok(demand)),
            (used, Err(rejected)) => return (length, used, Err(rejected)),
            (used, other) => panic!("{used} {other:?}"),
        }
    }
    panic!("{} is not enough", bytes.escape_ascii());
}

/// The demand for bytes to `original`, which must be the same however they are split.
fn demand(original: &str, bytes: &[u8]) -> (usize, Demand) {
    let (needed, used, expected) = read(&mut RequestReader::first(redirected(original)), bytes, 0);
    let expected = expected.unwrap();
    for at_once in 0..=bytes.len() {
        let (_, same, demand) = read(&mut RequestReader::first(redirected(original)), bytes, at_once);
        let demand = demand.unwrap();
        assert_eq!((same, demand.source, demand.target), (used, expected.source, expected.target), "{at_once}");
        assert_eq!(demand.request.origin(), expected.request.origin());
    }
    assert!(used == 0 || used == needed);
    (used, expected)
}

fn rejected(original: &str, bytes: &[u8]) -> Fault {
    read(&mut RequestReader::first(redirected(original)), bytes, 0).2.unwrap_err().fault
}

fn via(demand: &Demand) -> String {
    match &demand.request {
        Request::Connect { fields, .. } => String::from_utf8_lossy(fields).into_owned(),
        Request::Forward(_) => panic!("not a tunnel"),
    }
}

#[test]
fn tls_goes_to_its_server_name_at_the_original_port() {
    let (used, demand) = demand("192.0.2.1:8443", HELLO);
    assert_eq!(used, 0, "the origin must get the hello");
    assert_eq!((demand.request.method(), demand.request.origin()), ("CONNECT", "curl.example.com:8443"));
    assert_eq!(demand.source, DestinationSource::Sni);
    assert_eq!(demand.original, Some("192.0.2.1:8443".parse::<SocketAddr>().unwrap()));
    assert_eq!(via(&demand), "Via: TLS/1 gw-1\r\n");
}

#[test]
fn tls_without_a_name_goes_to_the_original_address() {
    for (original, origin) in [("192.0.2.1:443", "192.0.2.1:443"), ("[2001:db8::1]:443", "[2001:db8::1]:443")] {
        let (used, demand) = demand(original, NAMELESS);
        assert_eq!((used, demand.request.origin(), demand.source), (0, origin, DestinationSource::Address));
    }
}

#[test]
fn other_protocols_go_to_the_original_address_with_what_they_said() {
    for bytes in [&b"SSH-2.0-x\r\n"[..], b"\0\0\0\x08\x04\xd2\x16\x2f", b"EHLO me\r\n", b"PRI * HTTP/2.0\r\n\r\n"] {
        let (used, demand) = demand("192.0.2.1:22", bytes);
        assert_eq!((used, demand.request.origin(), demand.source), (0, "192.0.2.1:22", DestinationSource::Address));
        assert_eq!(via(&demand), "Via: TCP/1 gw-1\r\n");
    }
}

#[test]
fn a_silent_client_goes_to_the_original_address_except_where_clients_speak_first() {
    for (original, may_wait) in [("192.0.2.1:25", true), ("192.0.2.1:443", false), ("[2001:db8::1]:80", false)] {
        let mut reader = RequestReader::first(redirected(original));
        assert!(matches!(reader.read(b"", &options()), (0, Ok(Reading::More))));
        assert_eq!(reader.is_sniffing(), may_wait, "{original}");
        if may_wait {
            let demand = reader.after_silence(&options()).unwrap();
            assert_eq!((demand.request.origin(), demand.source), (original, DestinationSource::Address));
            assert_eq!(reader.protocol(), ClientProtocol::Tcp);
        }
    }
    let mut reader = RequestReader::first(redirected("192.0.2.1:25"));
    assert!(matches!(reader.read(b"GET /", &options()), (0, Ok(Reading::More))));
    assert!(!reader.is_sniffing(), "it speaks");
}

#[test]
fn each_request_to_an_origin_goes_upstream_by_its_own_host() {
    let requests = "GET /a?b=c HTTP/1.1\r\nHost: a.example\r\nAccept: */*\r\n\r\n";
    let (used, first) = demand("192.0.2.1:80", requests.as_bytes());
    assert_eq!(used, requests.len());
    assert_eq!((first.request.origin(), first.source), ("a.example:80", DestinationSource::Host));
    let Request::Forward(request) = &first.request else { panic!("a tunnel") };
    let mut head = Vec::new();
    request.write_head(&mut head, None, HeadPurpose::Answer);
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("GET http://a.example/a?b=c HTTP/1.1\r\nHost: a.example\r\n"), "{head}");
    assert!(head.contains("\r\nAccept: */*\r\n") && head.contains("\r\nVia: 1.1 gw-1\r\n"), "{head}");

    let next = "\r\nPOST /d HTTP/1.1\r\nHost: b.example:80\r\nContent-Length: 3\r\n\r\n";
    let (_, used, second) = read(&mut RequestReader::next(redirected("192.0.2.1:80")), next.as_bytes(), 0);
    let second = second.unwrap();
    assert_eq!((used, second.request.origin(), second.source), (next.len(), "b.example:80", DestinationSource::Host));
}

#[test]
fn requests_to_a_proxy_are_served_as_on_other_listeners() {
    let connect = b"CONNECT c.example:443 HTTP/1.1\r\n\r\n";
    let (used, demand_) = demand("192.0.2.9:3128", connect);
    assert_eq!((used, demand_.request.origin()), (connect.len(), "c.example:443"));
    let absolute = b"GET http://d.example/ HTTP/1.1\r\nHost: d.example\r\n\r\n";
    let (_, demand_) = demand("192.0.2.9:3128", absolute);
    assert_eq!((demand_.request.origin(), demand_.source), ("d.example:80", DestinationSource::Request));
    assert!(demand_.original.is_some(), "the rules about addresses hold as well");
}

#[test]
fn a_request_without_one_valid_host_is_rejected() {
    for fields in ["", "Host: a.example\r\nHost: b.example\r\n", "Host: a b\r\n", "Host: a.example:81\r\n", "Host:\r\n"]
    {
        let fault = rejected("192.0.2.1:80", format!("GET / HTTP/1.1\r\n{fields}\r\n").as_bytes());
        assert_eq!(fault.cause, Cause::RequestMalformed, "{fields}");
    }
}

#[test]
fn a_malformed_hello_is_rejected_and_not_sent_on() {
    let fault = rejected("192.0.2.1:443", b"\x16\x03\x01\0\x04\x02\0\0\0");
    assert_eq!(fault.cause, Cause::RequestMalformed);
    let mut two_dots = HELLO.to_vec();
    let place = two_dots.windows(5).position(|window| window == b".exam").unwrap();
    two_dots[place + 1] = b'.';
    let rejected = read(&mut RequestReader::first(redirected("192.0.2.1:443")), &two_dots, 0).2.unwrap_err();
    assert!(rejected.fault.detail.contains("not a host name"), "{}", rejected.fault);
    assert_eq!((&*rejected.asked.method, &*rejected.asked.target), ("CONNECT", "192.0.2.1:443"));
}

#[test]
fn a_connection_to_the_gateway_itself_is_a_loop_once_the_client_speaks() {
    let redirected = Redirected { is_gateway: true, ..redirected("192.0.2.1:15001") };
    for bytes in [HELLO, b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", b"SSH-2.0-x\r\n"] {
        let rejected = read(&mut RequestReader::first(redirected), bytes, 0).2.unwrap_err();
        assert_eq!(rejected.fault.cause, Cause::ForwardLoop);
    }
    let rejected = RequestReader::first(redirected).after_silence(&options()).unwrap_err();
    assert_eq!(rejected.fault.cause, Cause::ForwardLoop);
}

#[test]
fn clients_are_told_in_their_own_protocol() {
    let told = |protocol: ClientProtocol, cause: Cause| {
        let fault = At::Dial.fault(cause, "why");
        let mut out = Vec::new();
        let status = protocol.answer(&Verdict::Failed { fault: &fault, upstream: None, omit_body: false }, &mut out);
        (status, out)
    };
    let alert = |number: u8| vec![21, 3, 3, 0, 2, 2, number];
    assert_eq!(told(ClientProtocol::Tls, Cause::DestinationDenied), (Some(403), alert(49)));
    assert_eq!(told(ClientProtocol::Tls, Cause::RequestMalformed), (Some(400), alert(50)));
    assert_eq!(told(ClientProtocol::Tls, Cause::ConnectTimeout), (Some(504), alert(80)));
    assert_eq!(told(ClientProtocol::Tls, Cause::ClientGone), (None, vec![]));
    assert_eq!(told(ClientProtocol::Tcp, Cause::DestinationDenied), (Some(403), vec![]));
    let mut out = Vec::new();
    assert_eq!(ClientProtocol::Tls.answer(&Verdict::Established, &mut out), Some(200));
    assert_eq!(out, b"", "the origin answers");
}
