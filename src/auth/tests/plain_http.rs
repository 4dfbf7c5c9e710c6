//! Handshakes for plain HTTP requests, with and without a body.

use super::*;
use crate::forward::{ForwardOptions, ForwardRequest};
use crate::http::{FieldStorage, RequestHead};

#[test]
fn a_body_follows_once_the_upstream_has_shown_that_it_asks_for_no_credentials() {
    let head = b"POST http://h/ HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n";
    let mut storage = FieldStorage::new();
    let head = RequestHead::parse(head, &mut storage).unwrap();
    let request = ForwardRequest::of(&head, &ForwardOptions::default()).unwrap();
    let request = Arc::new(request);
    for first_leg in [FirstLeg::Negotiate, FirstLeg::Plain] {
        let request = Request::Forward(Arc::clone(&request));
        let mut handshake = Handshake::new(request, credentials(first_leg), HEAD_LIMIT_BYTES);
        let mut out = Vec::new();
        handshake.begin(&mut out);
        let sent = String::from_utf8_lossy(&out);
        assert!(sent.starts_with("POST http://h/ ") && sent.contains("\r\nContent-Length: 0\r\n"), "{sent}");
        assert!(!handshake.awaits_body());
        out.clear();
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        let (used, progress) = handshake.receive(answer, &mut out).unwrap();
        assert!(matches!(progress, Progress::Send) && used == answer.len());
        let sent = String::from_utf8_lossy(&out);
        assert!(sent.contains("\r\nContent-Length: 5\r\n") && !sent.contains("Proxy-Authorization"), "{sent}");
        assert!(handshake.awaits_body());
    }
}

fn plain_http(method: &str, fields: &str) -> Handshake {
    let head = format!("{method} http://h/ HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
    let mut storage = FieldStorage::new();
    let head = RequestHead::parse(head.as_bytes(), &mut storage).unwrap();
    let request = Request::Forward(Arc::new(ForwardRequest::of(&head, &ForwardOptions::default()).unwrap()));
    Handshake::new(request, credentials(FirstLeg::Negotiate), HEAD_LIMIT_BYTES)
}

#[test]
fn a_request_for_an_exempt_destination_is_sent_at_once_with_its_body() {
    for (method, fields, has_body) in
        [("POST", "Content-Length: 5\r\n", true), ("DELETE", "", false), ("HEAD", "", true), ("POST", "", false)]
    {
        let mut handshake = plain_http(method, fields);
        handshake.ask_plainly();
        let mut out = Vec::new();
        handshake.begin(&mut out);
        assert!(out.starts_with(format!("{method} ").as_bytes()), "{method}");
        assert_eq!(handshake.awaits_body(), has_body, "{method}");
        let whole = String::from_utf8(std::mem::take(&mut out)).unwrap();
        assert!(whole.contains(fields) && !whole.contains("Proxy-Authorization"), "{whole}");
        if method == "POST" && !has_body {
            assert!(handshake.closed().is_err(), "it may have been carried out");
            continue;
        }
        // A connection that closes asks for no credentials.
        assert!(matches!(handshake.closed(), Ok(Progress::Redial)), "{method}");
        handshake.begin(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), whole, "{method}");
    }
}

#[test]
fn after_a_407_to_a_held_back_body_the_request_is_made_with_credentials() {
    let mut handshake = plain_http("POST", "Content-Length: 5\r\n");
    handshake.ask_tentatively();
    let mut out = Vec::new();
    handshake.begin(&mut out);
    assert!(handshake.awaits_body() && handshake.is_trial());
    out.clear();
    handshake.begin(&mut out);
    let sent = String::from_utf8(out).unwrap();
    assert!(sent.contains("\r\nContent-Length: 0\r\n") && sent.contains("Proxy-Authorization: NTLM "), "{sent}");
    assert!(!handshake.awaits_body() && !handshake.is_trial());
}

#[test]
fn a_request_that_must_not_be_made_twice_is_not_repeated_after_a_close() {
    for (method, fields, may_be_again) in
        [("POST", "", false), ("PATCH", "", false), ("POST", "Content-Length: 5\r\n", true), ("PUT", "", true)]
    {
        let mut handshake = plain_http(method, fields);
        handshake.begin(&mut Vec::new());
        assert_eq!(handshake.may_be_under_way(), !may_be_again, "{method} {fields}");
        assert_eq!(handshake.closed().is_ok(), may_be_again, "{method} {fields}");
    }
}

/// Some proxies send a page after their 407 to a HEAD.
#[test]
fn the_challenge_for_a_head_request_is_obtained_with_a_get() {
    let mut handshake = plain_http("HEAD", "");
    let mut out = Vec::new();
    handshake.begin(&mut out);
    assert!(out.starts_with(b"GET http://h/ HTTP/1.1\r\n"));
    out.clear();
    let answer = challenged("Content-Length: 4\r\n", "page");
    let (used, progress) = handshake.receive(answer.as_bytes(), &mut out).unwrap();
    assert!(used == answer.len() && matches!(progress, Progress::Challenged), "{progress:?}");
    handshake.authenticate(&NONCES, &mut out).unwrap();
    assert!(out.starts_with(b"HEAD http://h/ HTTP/1.1\r\n"));
}

#[test]
fn an_overlong_answer_to_a_stand_in_costs_one_connection_only() {
    for fields in ["Content-Length: 99999999\r\n", "", "Content-Length: 5\r\nConnection: close\r\n"] {
        let mut handshake = plain_http("POST", "Content-Length: 5\r\n");
        handshake.begin(&mut Vec::new());
        let answer = format!("HTTP/1.1 200 OK\r\n{fields}\r\nx");
        let (_, progress) = handshake.receive(answer.as_bytes(), &mut Vec::new()).unwrap();
        assert!(matches!(progress, Progress::Redial), "{fields}: {progress:?}");
        let mut out = Vec::new();
        handshake.begin(&mut out);
        let sent = String::from_utf8(out).unwrap();
        assert!(sent.contains("\r\nContent-Length: 5\r\n") && !sent.contains("Proxy-Authorization"), "{sent}");
    }
}
