//! Plain HTTP messages: what clients of either version receive, and what upstreams are sent.

use crate::support;

use std::io;
use std::time::Duration;

use support::bytes::{assert_same, pseudo_random};
use support::gateway::{Gateway, GatewayOptions};
use support::in_process;
use support::plain::PlainHttpGateway;
use support::squid::{Squid, SquidOptions};
use support::web::{Web, checksum};
use support::wire::{HttpMessage, Wire, fields};

/// Whether the connection was closed cleanly.
fn is_closed(wire: &mut Wire) -> bool {
    wire.wait_at_most(Duration::from_secs(10));
    wire.some().is_ok_and(|rest| rest.is_empty())
}

#[test]
fn connections_persist_by_the_rules_of_each_http_version() {
    let setup = PlainHttpGateway::new(&[]);
    let url = setup.proxy.url("/bytes/100");
    for (version, fields, persists) in [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: keep-alive, close\r\n", false),
        ("1.0", "", false),
        ("1.0", "Connection: keep-alive\r\n", true),
        ("1.0", "Proxy-Connection: Keep-Alive\r\n", true),
    ] {
        let mut client = setup.client();
        let request = format!("GET {url} HTTP/{version}\r\nHost: x\r\n{fields}\r\n");
        for _ in 0..3 {
            let answer = client.ask(&request).unwrap();
            assert_eq!((answer.status(), answer.body.len()), (200, 100), "{version} {fields}");
            let said = answer.field("connection").unwrap_or_default();
            assert_eq!(said == "close", !persists, "{version} {fields}: {}", answer.head);
            assert_eq!(said == "keep-alive", persists && version == "1.0", "{version} {fields}: {}", answer.head);
            if !persists {
                assert!(is_closed(&mut client), "{version} {fields}");
                break;
            }
        }
    }
    setup.stop();
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let setup = PlainHttpGateway::new(&[]);
    let body = pseudo_random(5, 30_000);
    let mut requests: Vec<u8> = Vec::new();
    for round in 0..10 {
        requests.extend(setup.get(&format!("/bytes/{}?seed={round}", 10 + 1000 * round)).into_bytes());
        requests.extend(setup.head("POST", "/sink", &format!("Content-Length: {}\r\n", body.len())).into_bytes());
        requests.extend(&body);
        requests.extend(setup.head("POST", "/sink", "Transfer-Encoding: chunked\r\n").into_bytes());
        requests.extend(b"3;x=y\r\nabc\r\n0\r\nX: y\r\n\r\n");
        requests.extend(setup.head("HEAD", "/bytes/77", "").into_bytes());
    }
    for step in [usize::MAX, 997, 4096] {
        let mut client = setup.client();
        let mut writer = client.stream.try_clone().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for piece in requests.chunks(step.min(requests.len())) {
                    io::Write::write_all(&mut writer, piece).unwrap();
                }
            });
            for round in 0..10 {
                let got = client.answer("GET").unwrap();
                assert_same(&got.body, &pseudo_random(round, 10 + 1000 * usize::try_from(round).unwrap()), "GET");
                assert_eq!(client.answer("POST").unwrap().text(), format!("POST 30000 {:016x}\n", checksum(&body)));
                assert_eq!(client.answer("POST").unwrap().text(), format!("POST 3 {:016x}\n", checksum(b"abc")));
                assert_eq!(client.answer("HEAD").unwrap().field("content-length"), Some("77"));
            }
        });
    }
    setup.stop();
}

#[test]
fn an_empty_line_before_a_request_is_ignored() {
    let setup = PlainHttpGateway::new(&[]);
    let mut client = setup.client();
    let posted = format!("{}ab\r\n{}", setup.head("POST", "/sink", "Content-Length: 2\r\n"), setup.get("/bytes/5"));
    client.send(posted).unwrap();
    assert_eq!(client.answer("POST").unwrap().status(), 200);
    assert_eq!(client.answer("GET").unwrap().body.len(), 5);
    setup.stop();
}

#[test]
fn responses_without_a_body_end_with_their_head() {
    let setup = PlainHttpGateway::new(&[]);
    let mut client = setup.client();
    for _ in 0..3 {
        let head = client.ask(setup.head("HEAD", "/bytes/100", "")).unwrap();
        assert_eq!((head.status(), head.field("content-length")), (200, Some("100")));
        let head = client.ask(setup.head("HEAD", "/chunked/100", "")).unwrap();
        assert_eq!((head.status(), head.field("content-length")), (200, None));
        for status in [204, 304] {
            let answer = client.ask(setup.get(&format!("/status/{status}"))).unwrap();
            assert_eq!((answer.status(), answer.field("content-length")), (status, None), "{}", answer.head);
        }
        assert_eq!(client.ask(setup.get("/status/205")).unwrap().status(), 205);
    }
    assert_eq!(setup.proxy.seen.authenticates.load(std::sync::atomic::Ordering::Relaxed), 1, "one connection for all");
    setup.stop();
}

#[test]
fn early_hints_reach_only_http_1_1_clients() {
    let setup = PlainHttpGateway::new(&[]);
    let mut client = setup.client();
    client.send(setup.get("/hints")).unwrap();
    let hints = client.answer("GET").unwrap();
    assert_eq!((hints.status(), hints.field("link")), (103, Some("</style.css>; rel=preload")));
    assert_eq!(client.answer("GET").unwrap().text(), "hinted\n");
    let mut old = setup.client();
    old.send(format!("GET {} HTTP/1.0\r\n\r\n", setup.proxy.url("/hints"))).unwrap();
    let answer = old.answer("GET").unwrap();
    assert_eq!((answer.status(), answer.text()), (200, "hinted\n".to_owned()));
    setup.stop();
}

#[test]
fn interim_responses_up_to_the_head_limit_all_reach_the_client() {
    const COUNT: usize = 400;
    let setup = PlainHttpGateway::playing(&[], |wire, asked| {
        for number in 0..COUNT {
            wire.send(format!("HTTP/1.1 103 Early Hints\r\nLink: </{number}>\r\n\r\n"))?;
            // Occasional pauses, so that they arrive both one by one and many at once.
            if number % 40 == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        let text = asked.path;
        wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()))?;
        Ok(true)
    });
    let mut client = setup.client();
    for path in ["/a", "/b"] {
        client.send(setup.get(path)).unwrap();
        for number in 0..COUNT {
            let hint = client.answer("GET").unwrap();
            assert_eq!((hint.status(), hint.field("link")), (103, Some(&*format!("</{number}>"))));
        }
        assert_eq!(client.answer("GET").unwrap().text(), path, "on the same connection");
    }
    setup.stop();
}

#[test]
fn endless_interim_responses_end_in_a_502_not_a_reset() {
    let setup = PlainHttpGateway::playing(&[("limits.head", "4KiB")], |wire, asked| {
        if asked.path == "/good" {
            wire.send("HTTP/1.1 204 No Content\r\n\r\n")?;
            return Ok(true);
        }
        let pause = if asked.path == "/slow" { 1 } else { 0 };
        for number in 0..10_000 {
            wire.send(format!("HTTP/1.1 102 Processing\r\nX-Number: {number}\r\n\r\n"))?;
            std::thread::sleep(Duration::from_millis(pause));
        }
        Ok(true)
    });
    assert_eq!(setup.client().ask(setup.get("/good")).unwrap().status(), 204);
    for (path, version) in [("/slow", "1.1"), ("/fast", "1.1"), ("/slow", "1.0"), ("/fast", "1.0")] {
        let mut client = setup.client();
        client.wait_at_most(Duration::from_secs(30));
        client.send(format!("GET {} HTTP/{version}\r\nHost: x\r\n\r\n", setup.proxy.url(path))).unwrap();
        let mut interim = 0;
        let answer = loop {
            let answer = client.answer("GET").unwrap_or_else(|error| panic!("{path} {version}: {error}"));
            if answer.status() != 102 {
                break answer;
            }
            assert_eq!(answer.field("x-number"), Some(&*interim.to_string()));
            interim += 1;
        };
        assert_eq!(answer.status(), 502, "{path} {version}");
        assert!(answer.field("proxy-status").is_some_and(|reported| reported.contains("1xx")), "{}", answer.head);
        assert!((version == "1.1" || interim == 0) && interim < 200, "{path} {version}: {interim}");
    }
    assert_eq!(setup.metric("ntlm_gateway_faults_total", &[("cause", "interim_too_large")]), 4.0);
    setup.stop();
}

#[test]
fn chunk_extensions_are_dropped_and_harmless_trailers_forwarded() {
    let setup = PlainHttpGateway::new(&[]);
    let mut client = setup.client();
    let answer = client.ask(setup.get("/trailers")).unwrap();
    assert_eq!((answer.text().as_str(), answer.trailers.as_str()), ("hello world", "X-Sum: 11\n"));
    assert_eq!(answer.field("trailer"), Some("X-Sum"));
    client.send(setup.get("/trailers")).unwrap();
    client.head().unwrap();
    assert_eq!(client.exactly(6).unwrap(), b"5\r\nhel", "no extension");
    setup.stop();
}

#[test]
fn a_body_of_unknown_length_is_framed_for_each_client() {
    let setup = PlainHttpGateway::new(&[]);
    let expected = pseudo_random(3, 200_000);
    for kind in ["chunked", "close"] {
        let mut client = setup.client();
        for _ in 0..2 {
            let answer = client.ask(setup.get(&format!("/{kind}/200000?seed=3"))).unwrap();
            assert_eq!(answer.field("transfer-encoding"), Some("chunked"), "{kind}");
            assert_same(&answer.body, &expected, kind);
        }
        let mut old = setup.client();
        let url = setup.proxy.url(&format!("/{kind}/200000?seed=3"));
        let answer = old.ask(format!("GET {url} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")).unwrap();
        assert_eq!((answer.field("transfer-encoding"), answer.field("connection")), (None, Some("close")), "{kind}");
        assert_same(&answer.body, &expected, kind);
    }
    setup.stop();
}

/// Sends a request with these fields and returns the response; the proxy records what arrived.
fn passed_on(setup: &PlainHttpGateway, target: &str, fields: &str) -> HttpMessage {
    setup.client().ask(format!("GET {target} HTTP/1.1\r\n{fields}\r\n")).expect("an answer")
}

#[test]
fn hop_by_hop_request_fields_are_not_forwarded() {
    let setup = PlainHttpGateway::new(&[]);
    let fields = "Host: x\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\n\
        Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eDp5\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\
        X-End: kept\r\nAuthorization: Basic eDp5\r\nCookie: a=b\r\nVia: 1.0 before\r\n";
    passed_on(&setup, &setup.proxy.url("/headers"), fields);
    let head = setup.proxy.seen.heads().pop().unwrap();
    let seen = head.to_ascii_lowercase();
    for absent in ["x-hop", "basic edp5\r\nx", "upgrade", "http2-settings", "keep-alive: timeout", "\r\nte:"] {
        assert!(!seen.contains(absent), "{absent}: {head}");
    }
    let proxy_authorization: Vec<_> = support::wire::fields(&head, "proxy-authorization").collect();
    assert!(proxy_authorization.iter().all(|value| value.starts_with("NTLM ")), "{head}");
    for present in
        ["x-end: kept", "authorization: basic edp5", "cookie: a=b", "via: 1.0 before\r\nvia: 1.1 ntlm-gateway-"]
    {
        assert!(seen.contains(present), "{present}: {head}");
    }
    setup.stop();
}

#[test]
fn host_is_rewritten_to_match_the_target() {
    let setup = PlainHttpGateway::new(&[]);
    let url = setup.proxy.url("/headers?q=http://other/");
    for host in ["other.example", "127.0.0.1"] {
        passed_on(&setup, &url, &format!("Host: {host}\r\n"));
        let head = setup.proxy.seen.heads().pop().unwrap();
        assert!(head.starts_with(&format!("GET {url} HTTP/1.1\r\n")), "{head}");
        assert_eq!(fields(&head, "host").collect::<Vec<_>>(), [setup.proxy.address().to_string()], "{head}");
    }
    setup.stop();
}

#[test]
fn a_looping_request_is_rejected() {
    let setup = PlainHttpGateway::new(&[("via_name", "egress-7")]);
    let url = setup.proxy.url("/headers");
    let answer = passed_on(&setup, &url, "Host: x\r\nVia: 1.0 other, 1.1 EGRESS-7 (comment)\r\n");
    assert_eq!(answer.status(), 508, "{}", answer.head);
    assert_eq!(setup.proxy.seen.requests(), 0);
    let answer = passed_on(&setup, &url, "Host: x\r\nVia: 1.1 ntlm-gateway\r\n");
    assert_eq!(answer.status(), 200, "from another gateway: {}", answer.head);
    setup.stop();
}

#[test]
fn hop_by_hop_response_fields_are_not_forwarded() {
    let setup = PlainHttpGateway::playing(&[], |wire, _| {
        wire.send(
            "HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n\
             Proxy-Authenticate: NTLM\r\nUpgrade: h2c\r\nTransfer_Encoding: chunked\r\nProxy_Authenticate: NTLM\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 2\r\n\r\nok",
        )?;
        Ok(true)
    });
    let answer = setup.client().ask(setup.get("/")).unwrap();
    for absent in ["x-hop", "keep-alive", "proxy-connection", "proxy-authenticate", "upgrade", "connection"] {
        assert_eq!(answer.field(absent), None, "{}", answer.head);
    }
    // Names that some clients confuse with one of these.
    for absent in ["transfer_encoding", "proxy_authenticate"] {
        assert_eq!(answer.field(absent), None, "{}", answer.head);
    }
    assert_eq!(fields(&answer.head, "set-cookie").collect::<Vec<_>>(), ["a=1", "b=2"]);
    assert!(answer.field("via").is_some_and(|via| via.starts_with("1.1 ntlm-gateway-")), "{}", answer.head);
    setup.stop();
}

#[test]
fn a_direct_request_reaches_its_origin_in_origin_form() {
    let origin = Web::origin();
    let setup = PlainHttpGateway::new(&[("no_proxy", "127.0.0.1")]);
    let mut client = setup.client();
    let body = pseudo_random(9, 300_000);
    for _ in 0..3 {
        let fields = "Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eDp5\r\n";
        let answer = client.ask(origin.request("GET", "/headers?a=b", fields)).unwrap();
        let head = answer.text();
        assert!(head.starts_with("GET /headers?a=b HTTP/1.1\r\n"), "{head}");
        assert_eq!(fields_of(&head, "host"), [origin.address().to_string()]);
        assert!(!head.to_ascii_lowercase().contains("proxy-"), "{head}");
        let length = format!("Content-Length: {}\r\n", body.len());
        let posted = [origin.request("POST", "/sink", &length).as_bytes(), &body].concat();
        assert_eq!(client.ask(posted).unwrap().text(), format!("POST 300000 {:016x}\n", checksum(&body)));
    }
    assert_eq!(setup.proxy.seen.requests(), 0, "nothing goes through the upstream");
    setup.stop();
}

fn fields_of(head: &str, name: &str) -> Vec<String> {
    fields(head, name).map(str::to_owned).collect()
}

#[test]
fn an_upgrade_turns_the_exchange_into_a_tunnel() {
    let setup = PlainHttpGateway::new(&[]);
    let mut client = setup.client();
    let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    client.send(format!("{}early ", setup.head("GET", "/echo-upgrade", fields))).unwrap();
    let answer = client.answer("GET").unwrap();
    assert_eq!((answer.status(), answer.field("upgrade")), (101, Some("websocket")), "{}", answer.head);
    client.send("late").unwrap();
    assert_eq!(client.exactly("hello early late".len()).unwrap(), b"hello early late");
    let bulk = pseudo_random(8, 2 << 20);
    let back = support::client::echo_through(&client.stream, &bulk).unwrap();
    assert_same(&back, &bulk, "through the upgraded connection");
    drop(client);
    setup.stop();
}

#[test]
fn a_switch_to_a_protocol_not_requested_is_rejected() {
    let setup = PlainHttpGateway::playing(&[], |wire, _| {
        wire.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n")?;
        Ok(true)
    });
    for fields in ["", "Connection: Upgrade\r\nUpgrade: websocket\r\n"] {
        assert_eq!(setup.client().ask(setup.head("GET", "/", fields)).unwrap().status(), 502, "{fields}");
    }
    setup.stop();
}

/// A client that leaves Nagle's algorithm on, as Python's requests does towards proxies. Its kernel holds the body back
/// until the head is acknowledged, and a kernel with nothing else to send delays that by 40 ms.
#[test]
fn a_body_held_back_by_nagles_algorithm_is_not_delayed() {
    let setup = PlainHttpGateway::new(&[]);
    // The other client shows how many a busy machine delays.
    let (mut client, mut other) = (setup.client(), setup.client());
    client.stream.set_nodelay(false).unwrap();
    other.stream.set_nodelay(true).unwrap();
    let head = setup.head("POST", "/sink", "Content-Length: 10\r\n");
    let is_slow = |client: &mut Wire| {
        let began = std::time::Instant::now();
        client.send(&head).unwrap();
        client.send("0123456789").unwrap();
        assert_eq!(client.answer("POST").unwrap().status(), 200);
        u32::from(began.elapsed() > Duration::from_millis(38))
    };
    let (mut slow, mut by_the_machine) = (0, 0);
    for _ in 0..40 {
        slow += is_slow(&mut client);
        by_the_machine += is_slow(&mut other);
    }
    let what = format!("{slow} of 40 waited for a delayed acknowledgement, {by_the_machine} without one");
    assert!(slow < 10 + by_the_machine, "{what}");
    setup.stop();
}

#[test]
fn a_body_is_sent_once_to_an_upstream_without_authentication() {
    let proxy = Web::origin();
    let body = pseudo_random(6, 100_000);
    let sink = |body: &[u8]| format!("POST {} {:016x}\n", body.len(), checksum(body));
    for settings in [[("first_leg", "plain")], [("first_leg", "negotiate")], [("without_credentials", "127.0.0.1")]] {
        let before = proxy.seen.requests();
        let gateway = in_process::gateway(&proxy.address().to_string(), &settings);
        let mut client = Wire::connect(in_process::address(&gateway));
        client.wait_at_most(Duration::from_secs(10));
        // The gateway learns about the upstream.
        assert_eq!(client.ask(proxy.request("GET", "/bytes/5", "")).unwrap().body.len(), 5);
        for body in [&b"short"[..], &body, b""] {
            let sized = proxy.request("POST", "/sink", &format!("Content-Length: {}\r\n", body.len()));
            assert_eq!(client.ask([sized.as_bytes(), body].concat()).unwrap().text(), sink(body), "{settings:?}");
            let head = proxy.request("POST", "/sink", "Transfer-Encoding: chunked\r\n");
            let chunk = match body.len() {
                0 => format!("{head}0\r\n\r\n").into_bytes(),
                length => [format!("{head}{length:x}\r\n").as_bytes(), body, b"\r\n0\r\n\r\n"].concat(),
            };
            assert_eq!(client.ask(chunk).unwrap().text(), sink(body), "{settings:?}");
        }
        drop(client);
        let heads = proxy.seen.heads().split_off(before);
        assert_eq!(heads.len(), 7, "{settings:?}: each is sent once: {heads:?}");
        in_process::stop(gateway);
    }
}

/// The gateway does not know yet whether the upstream asks for credentials, and the body is too long to be held until
/// it does.
#[test]
fn a_long_body_to_an_unknown_upstream_arrives_complete() {
    let proxy = Web::origin();
    let body = pseudo_random(6, 100_000);
    let gateway = in_process::gateway(&proxy.address().to_string(), &[("first_leg", "plain")]);
    let mut client = Wire::connect(in_process::address(&gateway));
    for requests in [3, 4] {
        let head = proxy.request("POST", "/sink", &format!("Content-Length: {}\r\n", body.len()));
        let answer = client.ask([head.as_bytes(), &body].concat()).unwrap();
        assert_eq!(answer.text(), format!("POST {} {:016x}\n", body.len(), checksum(&body)));
        // The first time: the head alone, then an empty body, then the whole request.
        assert_eq!(proxy.seen.requests(), requests, "{:#?}", proxy.seen.heads());
    }
    in_process::stop(gateway);
}

#[test]
fn the_number_of_fields_is_limited_by_its_setting() {
    let setup = PlainHttpGateway::playing(&[("limits.fields", "100")], |wire, asked| {
        let count: usize = asked.path.trim_start_matches('/').parse().unwrap_or(0);
        wire.request_body(asked.head)?;
        let fields = "Set-Cookie: a=b\r\n".repeat(count - 1);
        wire.send(format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\nok"))?;
        Ok(true)
    });
    for (path, status, cause) in [("/100", 200, None), ("/101", 502, Some("response_fields"))] {
        let answer = setup.client().ask(setup.get(path)).unwrap();
        assert_eq!(answer.status(), status, "{path}: {}", answer.head);
        if let Some(cause) = cause {
            assert_eq!(setup.metric("ntlm_gateway_faults_total", &[("cause", cause)]), 1.0);
        }
    }
    // Host counts, too.
    for (more, status) in [(99, 200), (100, 431)] {
        let answer = setup.client().ask(setup.head("GET", "/5", &"X-Field: y\r\n".repeat(more))).unwrap();
        assert_eq!(answer.status(), status, "{more}: {}", answer.head);
    }
    assert_eq!(setup.metric("ntlm_gateway_faults_total", &[("cause", "request_fields")]), 1.0);
    setup.stop();
}

#[test]
fn hundreds_of_fields_and_interim_responses_pass_through_squid() {
    require_tools!("squid", "ntlm_auth");
    let squid = Squid::start(&SquidOptions::default());
    let gateway = Gateway::start(&GatewayOptions::through(squid.address()));
    let origin = Web::origin_with(|wire, asked| {
        wire.request_body(asked.head)?;
        if asked.path == "/hints" {
            wire.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(30))?;
        }
        let received = fields(asked.head, "x-field").count();
        let cookies: String = (0..150).map(|number| format!("Set-Cookie: c{number}={number}\r\n")).collect();
        let text = received.to_string();
        wire.send(format!("HTTP/1.1 200 OK\r\n{cookies}Content-Length: {}\r\n\r\n{text}", text.len()))?;
        Ok(true)
    });
    for path in ["/", "/hints"] {
        let more: String = (0..200).map(|number| format!("X-Field: {number}\r\n")).collect();
        let mut client = Wire::connect(gateway.address());
        let answer = client.ask(origin.request("GET", path, &more)).unwrap();
        assert_eq!((answer.status(), answer.text()), (200, "200".to_owned()), "{path}: {}", answer.head);
        assert_eq!(fields(&answer.head, "set-cookie").count(), 150, "{path}");
    }
}
