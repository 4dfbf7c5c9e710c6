use super::{get, request};
use crate::forward::{ForwardOptions, ForwardRequest, HeadPurpose, via_names_gateway};
use crate::http::{BodyFraming, FieldStorage, ProxyAuthorization, RequestHead, Version};

fn to_proxy(request: &ForwardRequest) -> String {
    let mut out = Vec::new();
    request.write_head(&mut out, None, HeadPurpose::Answer);
    String::from_utf8(out).unwrap()
}

fn to_origin(request: &ForwardRequest) -> String {
    let mut out = Vec::new();
    request.write_origin_head(&mut out);
    String::from_utf8(out).unwrap()
}

fn rejected(head: &str) -> (u16, String) {
    request(head).map(|_| ()).unwrap_err()
}

#[test]
fn a_request_to_the_proxy_contains_the_credentials() {
    let request = request(
        "GET http://h.example:8080/a?b=c HTTP/1.1\r\nHost: h.example:8080\r\nUser-Agent: u\r\nAccept: */*\r\n\
         Proxy-Connection: Keep-Alive\r\nProxy-Authorization: Basic c2VjcmV0\r\n\r\n",
    )
    .unwrap();
    let mut out = b"before".to_vec();
    request.write_head(&mut out, Some(ProxyAuthorization::of("NTLM", b"NTLMSSP\0")), HeadPurpose::Answer);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "beforeGET http://h.example:8080/a?b=c HTTP/1.1\r\nHost: h.example:8080\r\nUser-Agent: u\r\nAccept: */*\r\n\
         Via: 1.1 ntlm-gateway\r\nProxy-Connection: Keep-Alive\r\nProxy-Authorization: NTLM TlRMTVNTUAA=\r\n\r\n"
    );
    assert_eq!((request.method(), request.origin()), ("GET", "h.example:8080"));
    assert_eq!(request.target(), "http://h.example:8080/a?b=c");
    assert_eq!((request.framing(), request.has_body()), (BodyFraming::None, false));
    assert!(request.client_keeps_alive() && request.is_idempotent() && !request.authenticates_connection());
    assert!(request.pump().is_done());
}

#[test]
fn a_request_to_an_origin_is_in_origin_form_without_proxy_fields() {
    let head = "GET http://h.example/a?b HTTP/1.1\r\nHost: h.example\r\nProxy-Connection: Keep-Alive\r\n\
        Proxy-Authorization: Basic c2VjcmV0\r\nAccept: */*\r\n\r\n";
    assert_eq!(
        to_origin(&request(head).unwrap()),
        "GET /a?b HTTP/1.1\r\nHost: h.example\r\nAccept: */*\r\nVia: 1.1 ntlm-gateway\r\n\
         Connection: keep-alive\r\n\r\n"
    );
}

#[test]
fn an_empty_path_is_completed_for_an_origin_and_unchanged_for_a_proxy() {
    for (method, target, line) in [
        ("GET", "http://h", "GET / HTTP/1.1\r\n"),
        ("GET", "http://h?q", "GET /?q HTTP/1.1\r\n"),
        ("GET", "http://h/", "GET / HTTP/1.1\r\n"),
        ("OPTIONS", "http://h", "OPTIONS * HTTP/1.1\r\n"),
        ("OPTIONS", "http://h/", "OPTIONS / HTTP/1.1\r\n"),
        ("OPTIONS", "http://h?q", "OPTIONS /?q HTTP/1.1\r\n"),
        ("GET", "HTTP://h//a/../b?c://d", "GET //a/../b?c://d HTTP/1.1\r\n"),
    ] {
        let request = request(&format!("{method} {target} HTTP/1.1\r\nHost: h\r\n\r\n")).unwrap();
        assert!(to_origin(&request).starts_with(line), "{target}");
        assert!(to_proxy(&request).starts_with(&format!("{method} {target} HTTP/1.1\r\n")), "{target}");
    }
}

#[test]
fn the_host_field_is_taken_from_the_target() {
    for (target, host, origin) in [
        ("http://real.example/", "real.example", "real.example:80"),
        ("http://real.example:80/", "real.example:80", "real.example:80"),
        ("http://[::1]/", "[::1]", "[::1]:80"),
        ("http://10.0.0.1:8080?q", "10.0.0.1:8080", "10.0.0.1:8080"),
    ] {
        for field in ["Host: other.example\r\n", "Host:\r\n"] {
            let request = request(&format!("GET {target} HTTP/1.1\r\n{field}\r\n")).unwrap();
            let expected = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nVia: 1.1 ntlm-gateway\r\n");
            assert!(to_proxy(&request).starts_with(&expected), "{target}");
            assert!(to_origin(&request).contains(&format!("\r\nHost: {host}\r\n")), "{target}");
            assert_eq!(request.origin(), origin);
        }
    }
    // An HTTP/1.0 client need not send Host.
    assert!(to_proxy(&request("GET http://h/ HTTP/1.0\r\n\r\n").unwrap()).contains("\r\nHost: h\r\n"));
}

#[test]
fn hop_by_hop_fields_are_not_forwarded() {
    let request = get(
        "Connection: close, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\nTrailer: X\r\n\
         Proxy-Authenticate: x\r\nProxy-Authorization: x\r\nUpgrade: websocket\r\nHTTP2-Settings: x\r\nCookie: a=b\r\n",
    );
    assert_eq!(
        to_proxy(&request),
        "GET http://h/ HTTP/1.1\r\nHost: h\r\nCookie: a=b\r\nVia: 1.1 ntlm-gateway\r\nProxy-Connection: Keep-Alive\r\n\r\n"
    );
    assert!(!request.client_keeps_alive());
}

#[test]
fn via_is_added_after_existing_ones_with_the_received_version() {
    let head = "GET http://h/ HTTP/1.0\r\nVia: 1.1 a, 1.1 NTLM-Gateway (x)\r\n\r\n";
    let mut storage = FieldStorage::new();
    let parsed = RequestHead::parse(head.as_bytes(), &mut storage).unwrap();
    for (via, lines, names_gateway) in [
        (Some("ntlm-gateway"), "Via: 1.1 a, 1.1 NTLM-Gateway (x)\r\nVia: 1.0 ntlm-gateway\r\n", true),
        (Some("other"), "Via: 1.1 a, 1.1 NTLM-Gateway (x)\r\nVia: 1.0 other\r\n", false),
        (None, "Via: 1.1 a, 1.1 NTLM-Gateway (x)\r\nProxy-Connection", false),
    ] {
        let request = ForwardRequest::of(&parsed, &ForwardOptions { via }).unwrap();
        assert!(to_proxy(&request).contains(lines), "{via:?}");
        assert_eq!(via_names_gateway(&parsed.fields, &ForwardOptions { via }), names_gateway);
        assert_eq!(request.client_version(), Version::Http10);
    }
}

#[test]
fn the_framing_is_written_as_it_was_parsed() {
    for (fields, framing, line) in [
        ("Content-Length: 007\r\n", BodyFraming::Length(7), "Content-Length: 7\r\n"),
        ("Content-Length: 7, 7\r\n", BodyFraming::Length(7), "Content-Length: 7\r\n"),
        ("Content-Length: 0\r\n", BodyFraming::Length(0), "Content-Length: 0\r\n"),
        ("Transfer-Encoding: , Chunked\r\n", BodyFraming::Chunked, "Transfer-Encoding: chunked\r\n"),
        ("", BodyFraming::None, ""),
    ] {
        let request = request(&format!("POST http://h/ HTTP/1.1\r\nHost: h\r\n{fields}\r\n")).unwrap();
        assert_eq!(request.framing(), framing);
        assert_eq!(request.has_body(), !matches!(framing, BodyFraming::None | BodyFraming::Length(0)));
        assert!(!request.is_idempotent());
        let expected = format!("Via: 1.1 ntlm-gateway\r\n{line}Proxy-Connection: Keep-Alive\r\n\r\n");
        assert!(to_proxy(&request).ends_with(&expected), "{fields}");
    }
}

#[test]
fn a_stand_in_has_no_body_expectation_trailer_or_upgrade() {
    for framing in ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\nTrailer: Digest\r\n"] {
        let request = request(&format!(
            "POST http://h/ HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue\r\nConnection: upgrade\r\nUpgrade: foo\r\n{framing}\r\n"
        ))
        .unwrap();
        assert!(request.expects_continue());
        let mut out = Vec::new();
        request.write_head(&mut out, Some(ProxyAuthorization::of("NTLM", b"abc")), HeadPurpose::Challenge);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "POST http://h/ HTTP/1.1\r\nHost: h\r\nVia: 1.1 ntlm-gateway\r\nContent-Length: 0\r\n\
             Proxy-Connection: Keep-Alive\r\nProxy-Authorization: NTLM YWJj\r\n\r\n"
        );
        let real = to_proxy(&request);
        assert!(real.contains("\r\nExpect: 100-continue\r\nConnection: Upgrade\r\nUpgrade: foo\r\n"), "{real}");
        assert_eq!(real.contains("\r\nTrailer: Digest\r\n"), framing.contains("Trailer"));
    }
}

#[test]
fn a_request_without_a_body_has_no_stand_in() {
    let request = get("Connection: Upgrade\r\nUpgrade: websocket\r\n");
    let mut out = Vec::new();
    request.write_head(&mut out, None, HeadPurpose::Challenge);
    assert_eq!(String::from_utf8(out).unwrap(), to_proxy(&request));
}

#[test]
fn a_trailer_field_that_connection_lists_is_not_forwarded() {
    let head = |connection: &str| {
        format!(
            "POST http://h/ HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: Digest\r\n{connection}\r\n"
        )
    };
    assert!(to_proxy(&request(&head("")).unwrap()).contains("\r\nTrailer: Digest\r\n"));
    assert!(!to_proxy(&request(&head("Connection: Trailer\r\n")).unwrap()).contains("Trailer"));
}

#[test]
fn an_expectation_counts_only_for_an_http_1_1_request_with_a_body() {
    let expects = |head: &str| request(head).map(|request| (request.expects_continue(), to_proxy(&request)));
    for (head, expected) in [
        ("POST http://h/ HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n", true),
        ("POST http://h/ HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nExpect: 100-continue\r\n\r\n", false),
        ("GET http://h/ HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\r\n", false),
        ("POST http://h/ HTTP/1.0\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n", false),
    ] {
        let (expects, written) = expects(head).unwrap();
        assert_eq!((expects, written.contains("Expect")), (expected, expected), "{head}");
    }
    let head = "POST http://h/ HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nExpect: 100-continue, tea\r\n\r\n";
    assert_eq!(rejected(head).0, 417);
}

#[test]
fn an_upgrade_is_requested_on_the_next_connection() {
    let request = get("Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket, foo/2\r\nSec-WebSocket-Key: k\r\n");
    assert_eq!(request.upgrade(), Some("WebSocket, foo/2"));
    assert_eq!(
        to_proxy(&request),
        "GET http://h/ HTTP/1.1\r\nHost: h\r\nSec-WebSocket-Key: k\r\nVia: 1.1 ntlm-gateway\r\nConnection: Upgrade\r\n\
         Upgrade: WebSocket, foo/2\r\nProxy-Connection: Keep-Alive\r\n\r\n"
    );
    assert!(to_origin(&request).ends_with("Connection: Upgrade\r\nUpgrade: WebSocket, foo/2\r\n\r\n"));
}

#[test]
fn an_invalid_or_unsupported_upgrade_is_omitted() {
    for fields in [
        "Upgrade: websocket\r\n",
        "Connection: Upgrade\r\n",
        "Connection: Upgrade\r\nUpgrade: ,\r\n",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c, TLS/1.2, HTTP/2.0\r\nHTTP2-Settings: x\r\n",
    ] {
        let request = get(fields);
        assert_eq!(request.upgrade(), None, "{fields}");
        assert!(!to_proxy(&request).contains("Upgrade"), "{fields}");
    }
    let old = request("GET http://h/ HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").unwrap();
    assert_eq!(old.upgrade(), None);
    assert_eq!(get("Connection: Upgrade\r\nUpgrade: h2c, websocket\r\n").upgrade(), Some("websocket"));
}

#[test]
fn max_forwards_is_decremented_for_trace_and_options() {
    let request_with = |method: &str, value: &str| {
        request(&format!("{method} http://h/ HTTP/1.1\r\nHost: h\r\nMax-Forwards: {value}\r\n\r\n"))
    };
    for (method, sent) in [("TRACE", "9"), ("OPTIONS", "9"), ("GET", "10")] {
        let written = to_proxy(&request_with(method, "10").unwrap());
        assert!(written.contains(&format!("\r\nMax-Forwards: {sent}\r\n")), "{method}");
    }
    assert_eq!(request_with("OPTIONS", "0").map(|_| ()).unwrap_err().0, 501);
    assert!(request_with("GET", "0").is_ok());
    for value in ["", "-1", "+1", "x", "1, 2", "99999999999999999999", "1\r\nMax-Forwards: 1"] {
        assert_eq!(request_with("TRACE", value).map(|_| ()).unwrap_err().0, 400, "{value}");
    }
}

#[test]
fn requests_that_are_not_for_a_proxy_are_rejected_with_a_helpful_text() {
    for (head, status, word) in [
        ("GET / HTTP/1.1\r\nHost: h\r\n\r\n", 400, "HTTP_PROXY"),
        ("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", 400, "HTTP_PROXY"),
        ("GET https://h/ HTTP/1.1\r\nHost: h\r\n\r\n", 501, "scheme"),
        ("GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n", 501, "scheme"),
        ("GET h:80 HTTP/1.1\r\nHost: h\r\n\r\n", 400, "request target"),
        ("GET http://u:p@h/ HTTP/1.1\r\nHost: h\r\n\r\n", 400, "user information"),
        ("CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n", 400, "CONNECT"),
        ("connect http://h/ HTTP/1.1\r\nHost: h\r\n\r\n", 400, "CONNECT"),
        ("TRACE http://h/ HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n", 400, "TRACE"),
    ] {
        let (got, text) = rejected(head);
        assert_eq!(got, status, "{head}");
        assert!(text.contains(word), "{text}");
    }
}

#[test]
fn ambiguous_requests_are_rejected() {
    for (fields, status) in [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400),
        ("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", 400),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", 400),
        ("Content-Length: 5, 6\r\n", 400),
        ("Content-Length: +5\r\n", 400),
        ("Content-Length: 9223372036854775808\r\n", 400),
        ("Transfer-Encoding: xchunked\r\n", 400),
        ("Transfer-Encoding: identity\r\n", 400),
        ("Transfer-Encoding: chunked, chunked\r\n", 400),
        ("Transfer-Encoding: chunked, identity\r\n", 400),
        ("Transfer-Encoding: gzip, chunked\r\n", 501),
        ("Transfer-Encoding: \x0bchunked\r\n", 400),
        ("Transfer-Encoding\t: chunked\r\n", 400),
        ("Transfer-Encoding : chunked\r\n", 400),
        ("A: b\r\n Content-Length: 5\r\n", 400),
        ("A: b\nContent-Length: 5\r\n", 400),
        ("A: b\rContent-Length: 5\r\n", 400),
        ("A: b\0c\r\n", 400),
        ("\0A: b\r\n", 400),
        ("Host: h\r\n", 400),
    ] {
        let head = format!("POST http://h/ HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        assert_eq!(rejected(&head).0, status, "{fields:?}");
    }
    let old = "POST http://h/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(rejected(old).0, 400);
    for line in ["POST http://h/ HTTP/1.1\n", "POST  http://h/ HTTP/1.1\r\n", "POST http://h/\0 HTTP/1.1\r\n"] {
        assert_eq!(rejected(&format!("{line}Host: h\r\n\r\n")).0, 400, "{line:?}");
    }
}

#[test]
fn connection_based_authentication_to_the_origin_is_detected() {
    for (value, expected) in
        [("NTLM TlRM", true), ("negotiate YII=", true), ("Basic x", false), ("Bearer NTLM", false), ("NTLMv2 x", false)]
    {
        assert_eq!(get(&format!("Authorization: {value}\r\n")).authenticates_connection(), expected, "{value}");
    }
    assert!(to_proxy(&get("Authorization: NTLM TlRM\r\n")).contains("\r\nAuthorization: NTLM TlRM\r\n"));
}

#[test]
fn debug_output_contains_neither_values_nor_the_path() {
    let head = "GET http://h/sekrit HTTP/1.1\r\nHost: h\r\nAuthorization: Basic sekrit\r\n\r\n";
    let text = format!("{:?}", request(head).unwrap());
    assert!(text.contains("h:80") && !text.contains("sekrit"), "{text}");
}
