//! Plain HTTP that two parsers could interpret differently, and upstreams that break the rules: all of it is rejected.

use crate::support;

use std::io::ErrorKind;
use std::sync::atomic::Ordering;
use std::time::Duration;

use support::in_process::{self, ACCOUNT};
use support::plain::PlainHttpGateway;
use support::wire::Wire;

use ntlm_gateway::stub::{StubOptions, StubServer};

/// What no client may send. `U` stands for a URL of the origin.
const REFUSED: &[(&str, u16)] = &[
    ("POST U HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("POST U HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n", 400),
    ("POST U HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", 400),
    ("POST U HTTP/1.1\r\nHost: h\r\nContent-Length: 5, 6\r\n\r\nabcdef", 400),
    ("POST U HTTP/1.1\r\nHost: h\r\nContent-Length: +5\r\n\r\nabcde", 400),
    ("POST U HTTP/1.1\r\nHost: h\r\nContent-Length: 0x5\r\n\r\nabcde", 400),
    ("POST U HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n", 400),
    ("POST U HTTP/1.1\r\nHost: h\r\nContent-Length: 5 5\r\n\r\nabcde", 400),
    ("POST U HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999\r\n\r\n", 400),
    ("POST U HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n\r\n", 400),
    ("POST U HTTP/1.1\r\nHost: h\r\nContent_Length: 5\r\n\r\n", 400),
    ("POST U HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\ncontent_length: 0\r\n\r\nabcde", 400),
    ("POST U HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer_Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("GET U HTTP/1.1\r\nHost: h\r\nTransfer.Encoding: chunked\r\n\r\n", 400),
    ("CONNECT h:80 HTTP/1.1\r\nHost: h\r\nTransfer~Encoding: chunked\r\n\r\n", 400),
    ("POST U HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: identity\r\n\r\n", 400),
    ("POST U HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    ("POST U HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
    ("POST U HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    ("POST U HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    ("POST U HTTP/1.1\r\nHost: h\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    ("POST U HTTP/1.1\r\nHost: h\r\nTransfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n", 400),
    ("POST U HTTP/1.1\r\nHost: h\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("POST U HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400),
    ("POST U HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("GET U HTTP/1.1\nHost: h\n\n", 400),
    ("GET U HTTP/1.1\r\nHost: h\nX: y\r\n\r\n", 400),
    ("GET U HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n", 400),
    ("GET U HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n", 400),
    ("GET U HTTP/1.1\r\nHost: h\r\nX\0: ab\r\n\r\n", 400),
    ("GET U HTTP/1.1\r\nHost: h\r\nX: folded\r\n line\r\n\r\n", 400),
    ("GET U HTTP/1.1\r\nHost: h\r\nno colon\r\n\r\n", 400),
    ("GET U HTTP/1.1\r\nHost: h\r\n: no name\r\n\r\n", 400),
    ("GET U HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n", 400),
    ("GET U HTTP/1.1\r\n\r\n", 400),
    ("GET U#x HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET U x HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET U\x0b HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET U\0 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET U\r HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET  U HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET\tU\tHTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("G\0T U HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET U HTTP/2.0\r\nHost: h\r\n\r\n", 505),
    ("GET U\r\n\r\n", 400),
    ("GET /path HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("CONNECT U HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET h:80 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("connect U HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET http://user:secret@h/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET http://h:99999/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET http:///path HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("CONNECT h:80 HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ("POST U HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 200-ok\r\n\r\nabc", 417),
    ("TRACE U HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc", 400),
];

/// Malformed chunked bodies. The head may already have been forwarded; the final chunk must not be.
const BAD_CHUNKS: &[&str] = &[
    "zz\r\nabc\r\n0\r\n\r\n",
    "-3\r\nabc\r\n0\r\n\r\n",
    "0x3\r\nabc\r\n0\r\n\r\n",
    " 3\r\nabc\r\n0\r\n\r\n",
    "3\nabc\n0\n\n",
    "3\r\nabcd\r\n0\r\n\r\n",
    "3\r\nabc0\r\n\r\n",
    "ffffffffffffffffff\r\nabc",
    "3;\rx\r\nabc\r\n0\r\n\r\n",
    "0\r\nno colon\r\n\r\n",
    "0\r\nX: a\0b\r\n\r\n",
    "\r\n0\r\n\r\n",
];

#[test]
fn ambiguous_requests_are_rejected_and_never_forwarded() {
    let (domain, user, password) = ACCOUNT;
    let stub = StubServer::start(StubOptions::default().account(domain, user, password)).unwrap();
    // No connections are opened in advance, so every connection to the stub belongs to a request.
    let gateway = in_process::gateway(&stub.address().to_string(), &[("warm", "0")]);
    let mut wrong = Vec::new();
    for (text, status) in REFUSED {
        let mut client = Wire::connect(in_process::address(&gateway));
        client.wait_at_most(Duration::from_secs(10));
        client.send(text.replace('U', "http://hello.test/")).unwrap();
        let answer = client.answer("GET").unwrap_or_else(|error| panic!("{text:?}: {error}"));
        let closes = answer.field("connection") == Some("close") && client.some().is_ok_and(|rest| rest.is_empty());
        if answer.status() != *status || !closes {
            wrong.push(format!("{text:?}: {} instead of {status}, closes: {closes}", answer.status()));
        }
    }
    let counts = stub.counters();
    in_process::stop(gateway);
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!((counts.connections_opened, counts.requests), (0, 0), "{counts}");
}

#[test]
fn a_malformed_chunk_aborts_the_upload_without_a_final_chunk() {
    let setup = PlainHttpGateway::new(&[]);
    // Until the identity is accepted, an upload that breaks off counts as an attempt that may have failed.
    assert_eq!(setup.client().ask(setup.get("/bytes/5")).unwrap().body.len(), 5);
    for chunks in BAD_CHUNKS {
        let mut client = setup.client();
        client.send(format!("{}{chunks}", setup.head("POST", "/sink", "Transfer-Encoding: chunked\r\n"))).unwrap();
        let answer = client.answer("POST").unwrap_or_else(|error| panic!("{chunks:?}: {error}"));
        assert_eq!(answer.status(), 400, "{chunks:?}: {}", answer.text());
        assert!(client.rest().is_ok_and(|rest| rest.is_empty()), "{chunks:?}: the connection is closed");
    }
    assert_eq!(setup.client().ask(setup.get("/bytes/5")).unwrap().body.len(), 5, "others are still served");
    setup.stop();
}

#[test]
fn a_request_smuggled_after_a_valid_one_is_rejected_on_its_own() {
    let setup = PlainHttpGateway::new(&[]);
    for (text, status) in REFUSED {
        let mut client = setup.client();
        client.send(format!("{}{}", setup.get("/bytes/5"), text.replace('U', &setup.proxy.url("/bytes/6")))).unwrap();
        assert_eq!(client.answer("GET").unwrap().body.len(), 5, "{text:?}");
        assert_eq!(client.answer("GET").unwrap().status(), *status, "{text:?}");
        assert!(client.rest().is_ok_and(|rest| rest.is_empty()), "{text:?}");
    }
    assert_eq!(setup.proxy.seen.requests(), REFUSED.len(), "only the valid ones arrive");
    setup.stop();
}

/// Malformed responses.
const BAD_ANSWERS: &[&str] = &[
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    "HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nabcdef",
    "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nabcde",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/3.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "ICY 200 OK\r\n\r\n",
    "SSH-2.0-OpenSSH_9.2p1\r\n\r\n",
];

#[test]
fn a_malformed_response_gets_502_and_its_connection_is_closed() {
    let setup = PlainHttpGateway::playing(&[("timeouts.response", "10s")], |wire, asked| {
        let number: usize = asked.path.trim_start_matches('/').parse().unwrap_or(0);
        wire.send(BAD_ANSWERS.get(number).copied().unwrap_or("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"))?;
        Ok(true)
    });
    let mut wrong = Vec::new();
    for (number, bad) in BAD_ANSWERS.iter().enumerate() {
        let answer =
            setup.client().ask(setup.get(&format!("/{number}"))).unwrap_or_else(|error| panic!("{bad:?}: {error}"));
        if answer.status() != 502 || answer.field("proxy-status").is_none_or(|reported| !reported.contains("error=")) {
            wrong.push(format!("{bad:?}: {}", answer.head));
        }
        assert_eq!(setup.client().ask(setup.get("/999")).unwrap().text(), "good", "after {bad:?}");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(
        setup.metric("ntlm_gateway_upstream_up", &[]),
        1.0,
        "an origin's fault is not counted against the upstream"
    );
    setup.stop();
}

#[test]
fn bytes_after_a_response_are_never_taken_as_the_next_response() {
    let setup = PlainHttpGateway::playing(&[], |wire, asked| {
        let stray = if asked.path == "/stray" { "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged" } else { "" };
        wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood{stray}"))?;
        Ok(true)
    });
    let mut client = setup.client();
    for path in ["/stray", "/a", "/stray", "/stray", "/b"] {
        assert_eq!(client.ask(setup.get(path)).unwrap().text(), "good", "{path}");
    }
    setup.stop();
}

#[test]
fn a_truncated_body_never_ends_cleanly() {
    let setup = PlainHttpGateway::playing(&[], |wire, asked| {
        wire.send(match asked.path {
            "/length" => "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
            _ => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n",
        })?;
        wire.send(vec![b'x'; 500])?;
        Ok(false)
    });
    for path in ["/length", "/chunked"] {
        for version in ["1.0", "1.1"] {
            let mut client = setup.client();
            client.send(format!("GET {} HTTP/{version}\r\nHost: h\r\n\r\n", setup.proxy.url(path))).unwrap();
            let error = client.rest().expect_err("a reset");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{path} {version}");
        }
    }
    assert_eq!(
        setup.metric("ntlm_gateway_upstream_up", &[]),
        1.0,
        "an origin's fault is not counted against the upstream"
    );
    setup.stop();
}

#[test]
fn heads_are_limited_in_both_directions() {
    let setup = PlainHttpGateway::playing(&[("limits.head", "8KiB")], |wire, _| {
        wire.send(format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 0\r\n\r\n", "y".repeat(20_000)))?;
        Ok(true)
    });
    let long = setup.head("GET", "/", &format!("X: {}\r\n", "y".repeat(20_000)));
    assert_eq!(setup.client().ask(long).unwrap().status(), 431);
    assert_eq!(setup.proxy.seen.connections.load(Ordering::Relaxed), 0);
    let answer = setup.client().ask(setup.get("/")).unwrap();
    assert_eq!(answer.status(), 502);
    assert!(answer.head.contains("http_response_header_section_size"), "{}", answer.head);
    setup.stop();
}
