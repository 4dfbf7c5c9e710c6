//! The same requests directly to an origin and through the gateway and a real Squid get the same responses.

use crate::support;

use std::net::SocketAddr;

use support::bytes::pseudo_random;
use support::gateway::{Gateway, GatewayOptions};
use support::squid::{LoggedCredentials, Squid, SquidOptions};
use support::web::Web;
use support::wire::{HttpMessage, Wire};

/// Hop-by-hop fields, and fields that every proxy rewrites.
const HOP_BY_HOP: [&str; 11] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "via",
    "x-cache",
    "x-cache-lookup",
    "age",
    "trailer",
    "cache-status",
    "content-length",
];

/// Method, path, fields, body.
struct Case(&'static str, String, String, Vec<u8>);

fn cases() -> Vec<Case> {
    let case = |method, path: &str| Case(method, path.to_owned(), String::new(), Vec::new());
    let mut cases = Vec::new();
    for length in [0, 1, 100, 16_384, 65_536, 1_000_000] {
        for kind in ["bytes", "chunked", "close"] {
            cases.push(case("GET", &format!("/{kind}/{length}?seed=7")));
        }
        let body = pseudo_random(11, length);
        let fields = format!("Content-Length: {length}\r\n");
        for method in ["POST", "PUT", "PATCH"] {
            cases.push(Case(method, "/sink".to_owned(), fields.clone(), body.clone()));
        }
        let mut chunked: Vec<u8> = Vec::new();
        for piece in body.chunks(7000) {
            chunked.extend([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat());
        }
        chunked.extend(b"0\r\n\r\n");
        cases.push(Case("POST", "/sink".to_owned(), "Transfer-Encoding: chunked\r\n".to_owned(), chunked));
    }
    for status in [200, 201, 202, 204, 206, 300, 301, 304, 400, 401, 403, 404, 410, 418, 429, 500, 502, 503, 504] {
        cases.push(case("GET", &format!("/status/{status}")));
    }
    for (method, path) in [
        ("HEAD", "/bytes/1000"),
        ("HEAD", "/status/404"),
        ("DELETE", "/sink"),
        ("OPTIONS", "/sink"),
        ("GET", "/encoded"),
    ] {
        cases.push(case(method, path));
    }
    cases.push(case("GET", "/bytes/10?seed=3&q=%20%2f..%2e/;,'()"));
    cases.push(case("GET", "/trailers"));
    cases.push(case("PROPFIND", "/sink"));
    cases.push(Case("DELETE", "/sink".to_owned(), "Content-Length: 3\r\n".to_owned(), b"abc".to_vec()));
    cases
}

/// The status, the end-to-end fields and the body.
fn essence(answer: &HttpMessage) -> (u16, Vec<String>, &[u8]) {
    let mut fields: Vec<String> =
        answer.head.lines().skip(1).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    fields.retain(|line| {
        let name = line.split(':').next().unwrap_or_default();
        !HOP_BY_HOP.iter().any(|own| own.eq_ignore_ascii_case(name))
    });
    fields.sort();
    (answer.status(), fields, &answer.body)
}

fn ask(wire: &mut Option<Wire>, to: SocketAddr, case: &Case, target: &str, host: SocketAddr) -> HttpMessage {
    let Case(method, _, fields, body) = case;
    let mut bytes = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n").into_bytes();
    bytes.extend_from_slice(body);
    let open = wire.get_or_insert_with(|| Wire::connect(to));
    let answer = open.ask(&bytes).unwrap_or_else(|error| panic!("{method} {target}: {error}"));
    if answer.field("connection") == Some("close") {
        *wire = None;
    }
    answer
}

#[test]
fn responses_are_the_same_directly_and_through_gateway_and_squid() {
    require_tools!("squid", "ntlm_auth");
    let squid = Squid::start(&SquidOptions::default());
    let gateway = Gateway::start(&GatewayOptions::through(squid.address()));
    let origin = Web::origin();
    let (mut straight, mut through) = (None, None);
    let cases = cases();
    assert!(cases.len() >= 40);
    for case in &cases {
        let expected = ask(&mut straight, origin.address(), case, &case.1, origin.address());
        let got = ask(&mut through, gateway.address(), case, &origin.url(&case.1), origin.address());
        let (expected, got) = (essence(&expected), essence(&got));
        assert_eq!((expected.0, &expected.1), (got.0, &got.1), "{} {}", case.0, case.1);
        assert!(expected.2 == got.2, "{} {}: {} and {} bytes", case.0, case.1, expected.2.len(), got.2.len());
    }
    let (requests, authenticates) = (squid.log().len(), squid.count(LoggedCredentials::Authenticate));
    assert!(requests >= cases.len() && authenticates * 5 < requests, "{authenticates} of {requests}");
}
