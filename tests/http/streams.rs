//! Plain HTTP bodies that are long, slow, early or late, and the limits on all of them.

use crate::support;

use std::io::{ErrorKind, Write};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::bytes::pseudo_random;
use support::gateway::{Gateway, GatewayOptions};
use support::plain::PlainHttpGateway;
use support::scratch::wait_for;
use support::squid::{Squid, SquidOptions};
use support::web::{EVENT_PAUSE, Web, checksum, moment_ms};
use support::wire::Wire;

/// The length of long bodies in bytes; `NTLM_GATEWAY_TESTS_BULK_MIB` sets another.
fn bulk_bytes() -> u64 {
    let asked = std::env::var("NTLM_GATEWAY_TESTS_BULK_MIB").ok().and_then(|number| number.parse().ok());
    asked.unwrap_or(256) << 20
}

/// If the peak memory of a process grew by more than this, in KiB, it held a body in memory.
const FLAT_KIB: u64 = 6 * 1024;

fn through_squid() -> (Squid, Gateway, Web) {
    let squid = Squid::start(&SquidOptions::default());
    let gateway = Gateway::start(&GatewayOptions::through(squid.address()));
    (squid, gateway, Web::origin())
}

/// Sends `left` zeros; stops quietly when the peer stops reading.
fn send_zeros(wire: &Wire, mut left: u64) -> u64 {
    let zeros = vec![0; 256 * 1024];
    let mut sent = 0;
    while left > 0 {
        let length = zeros.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        match (&wire.stream).write(&zeros[..length]) {
            Ok(count) => (sent, left) = (sent + count as u64, left - count as u64),
            Err(_) => break,
        }
    }
    sent
}

#[test]
fn long_bodies_pass_through_squid_in_constant_memory() {
    require_tools!("squid", "ntlm_auth");
    let (_squid, gateway, origin) = through_squid();
    let length = bulk_bytes();
    let mut client = Wire::connect(gateway.address());
    // Allocates what every exchange needs once.
    client.ask(origin.request("GET", "/bytes/3000000", "")).unwrap();
    let before = gateway.memory_kib();
    client.send(origin.request("GET", &format!("/huge/{length}"), "")).unwrap();
    client.head().unwrap().expect("an answer");
    client.skip(length).unwrap();
    client.send(origin.request("POST", "/swallow", &format!("Content-Length: {length}\r\n"))).unwrap();
    assert_eq!(send_zeros(&client, length), length);
    assert_eq!(client.answer("POST").unwrap().text(), format!("{length}\n"));
    let after = gateway.memory_kib();
    assert!(after.1 <= before.1 + FLAT_KIB, "highest memory before and after: {before:?}, {after:?} KiB");
    for direction in ["up", "down"] {
        let labels = [("direction", direction), ("way", "splice")];
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
        let share = || gateway.metric("ntlm_gateway_bytes_total", &labels).unwrap_or(0.0) / length as f64;
        // An exchange is counted once its client has the response.
        let counted = wait_for(Duration::from_secs(20), || (share() > 0.8).then_some(()));
        assert!(counted.is_some(), "{} of the bytes {direction} were spliced", share());
    }
}

#[test]
fn a_response_before_the_end_of_the_upload_reaches_the_client() {
    require_tools!("squid", "ntlm_auth");
    let (_squid, gateway, origin) = through_squid();
    for fields in ["Content-Length: 500000000\r\n", "Transfer-Encoding: chunked\r\n"] {
        let mut client = Wire::connect(gateway.address());
        client.ask(origin.request("GET", "/bytes/5", "")).unwrap();
        client.send(origin.request("POST", "/early", fields)).unwrap();
        let piece = [&b"10000\r\n"[..], &[b'x'; 0x10000], b"\r\n"].concat();
        client.send(&piece).unwrap();
        let answer = client.answer("POST").unwrap();
        assert_eq!((answer.status(), answer.text()), (413, "too much\n".to_owned()), "{fields}");
        assert_eq!(answer.field("connection"), Some("close"), "{}", answer.head);
    }
}

/// Answers 413 without reading the upload, so that its close becomes a reset.
fn early_and_gone(wire: &mut Wire) -> std::io::Result<bool> {
    wire.send("HTTP/1.1 413 Too much\r\nContent-Length: 9\r\nConnection: close\r\n\r\ntoo much\n")?;
    Err(ErrorKind::ConnectionAborted.into())
}

/// Uploads and reads the response at the same time.
fn upload(gateway: std::net::SocketAddr, head: &str, length: u64) -> std::io::Result<support::wire::HttpMessage> {
    let mut client = Wire::connect(gateway);
    client.send(head)?;
    let writer = Wire::on(client.stream.try_clone()?);
    std::thread::scope(|scope| {
        scope.spawn(|| send_zeros(&writer, length));
        let answer = client.answer("POST");
        // The writer may be blocked.
        let _ = client.stream.shutdown(std::net::Shutdown::Both);
        answer
    })
}

#[test]
fn a_413_sent_before_a_reset_always_reaches_the_client() {
    let setup = PlainHttpGateway::playing(&[("warm", "0")], |wire, asked| match asked.path {
        "/early" => early_and_gone(wire),
        _ => support::web::respond(wire, asked),
    });
    // The gateway learns that the destination asks for credentials.
    assert_eq!(setup.client().ask(setup.get("/bytes/5")).unwrap().body.len(), 5);
    let address = setup.client().stream.peer_addr().unwrap();
    for run in 0..200 {
        let length = 50_000 + 17_000 * (run % 40);
        // In chunks as well: one chunk that never ends.
        let head = match run % 2 {
            0 => setup.head("POST", "/early", &format!("Content-Length: {length}\r\n")),
            _ => setup.head("POST", "/early", "Transfer-Encoding: chunked\r\n") + "1000000\r\n",
        };
        let answer = upload(address, &head, length).unwrap_or_else(|error| panic!("run {run}: {error}"));
        assert_eq!((answer.status(), answer.text()), (413, "too much\n".to_owned()), "run {run}: {}", answer.head);
    }
    setup.stop();
}

#[test]
fn a_413_from_an_origin_that_stops_reading_reaches_the_client_through_squid() {
    require_tools!("squid", "ntlm_auth");
    let squid = Squid::start(&SquidOptions::default());
    let gateway = Gateway::start(&GatewayOptions::through(squid.address()));
    let origin = Web::origin_with(|wire, asked| match asked.path {
        "/early" => early_and_gone(wire),
        _ => support::web::respond(wire, asked),
    });
    assert_eq!(Wire::connect(gateway.address()).ask(origin.request("GET", "/bytes/5", "")).unwrap().body.len(), 5);
    for run in 0..40 {
        let length = 20_000 + 17_000 * run;
        let head = origin.request("POST", "/early", &format!("Content-Length: {length}\r\n"));
        let answer = upload(gateway.address(), &head, length).unwrap_or_else(|error| panic!("run {run}: {error}"));
        // Squid itself may hit the reset first, and reports it.
        let from_squid = answer.status() == 502 && answer.field("x-squid-error").is_some();
        assert!(answer.status() == 413 || from_squid, "run {run}: {}", answer.head);
    }
}

#[test]
fn a_body_of_unknown_length_waits_for_100_continue() {
    require_tools!("squid", "ntlm_auth");
    let (_squid, gateway, origin) = through_squid();
    let mut client = Wire::connect(gateway.address());
    for _ in 0..3 {
        let fields = "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n";
        client.send(origin.request("POST", "/sink", fields)).unwrap();
        let interim = client.answer("POST").unwrap();
        assert_eq!(interim.status(), 100, "{}", interim.head);
        client.send("5\r\nhello\r\n").unwrap();
        client.send("6\r\n world\r\n0\r\n\r\n").unwrap();
        assert_eq!(client.answer("POST").unwrap().text(), format!("POST 11 {:016x}\n", checksum(b"hello world")));
    }
    // Rejected before the body: the client may keep it.
    client.send(origin.request("POST", "/early", "Content-Length: 1000\r\nExpect: 100-continue\r\n")).unwrap();
    let answer = client.answer("POST").unwrap();
    assert_eq!((answer.status(), answer.field("connection")), (413, Some("close")));
    assert!(client.rest().is_ok_and(|rest| rest.is_empty()));
}

#[test]
fn server_sent_events_arrive_without_delay() {
    require_tools!("squid", "ntlm_auth");
    let (_squid, gateway, origin) = through_squid();
    let mut client = Wire::connect(gateway.address());
    let events = 12;
    client.send(origin.request("GET", &format!("/events/{events}"), "Accept: text/event-stream\r\n")).unwrap();
    client.head().unwrap().expect("an answer");
    let (mut text, mut delays_ms) = (String::new(), Vec::new());
    while delays_ms.len() < events {
        text += &String::from_utf8_lossy(&client.some().unwrap());
        let now_ms = moment_ms();
        while let Some((event, rest)) = text.split_once("\n\n").map(|(event, rest)| (event.to_owned(), rest.to_owned()))
        {
            let sent_ms: u128 = event.rsplit(' ').next().and_then(|number| number.parse().ok()).expect("a moment");
            delays_ms.push(now_ms - sent_ms);
            text = rest;
        }
    }
    // A buffered event is late by the pause before the next one; a busy machine may delay some.
    let late = delays_ms.iter().filter(|delay| **delay >= EVENT_PAUSE.as_millis()).count();
    assert!(late <= events / 2, "late by {delays_ms:?} ms");
}

#[test]
fn a_slow_client_applies_backpressure_to_its_origin() {
    let proxy = Web::proxy();
    let gateway = Gateway::start(&GatewayOptions::through(proxy.address()));
    let mut client = Wire::connect(gateway.address());
    client.ask(proxy.request("GET", "/bytes/3000000", "")).unwrap();
    let before = gateway.memory_kib();
    let length = 64 << 20;
    client.send(proxy.request("GET", &format!("/huge/{length}"), "")).unwrap();
    client.head().unwrap().expect("an answer");
    std::thread::sleep(Duration::from_millis(700));
    let during = gateway.memory_kib();
    client.skip(length).unwrap();
    assert!(during.1 <= before.1 + FLAT_KIB, "highest memory before and during: {before:?}, {during:?} KiB");
    assert_eq!(client.ask(proxy.request("GET", "/bytes/5", "")).unwrap().body.len(), 5);
}

#[test]
fn a_slow_origin_applies_backpressure_to_its_client() {
    let proxy = Web::proxy_with(|wire, asked| {
        if asked.path == "/slow" {
            std::thread::sleep(Duration::from_millis(700));
        }
        let length = support::wire::field(asked.head, "content-length").and_then(|length| length.parse().ok());
        wire.skip(length.unwrap_or(0))?;
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
        Ok(true)
    });
    let gateway = Gateway::start(&GatewayOptions::through(proxy.address()));
    let mut client = Wire::connect(gateway.address());
    let length = 64 << 20;
    client.send(proxy.request("POST", "/quick", &format!("Content-Length: {length}\r\n"))).unwrap();
    assert_eq!(send_zeros(&client, length), length);
    client.answer("POST").unwrap();
    let before = gateway.memory_kib();
    let began = Instant::now();
    client.send(proxy.request("POST", "/slow", &format!("Content-Length: {length}\r\n"))).unwrap();
    assert_eq!(send_zeros(&client, length), length);
    assert!(began.elapsed() > Duration::from_millis(500), "the client was held back");
    assert_eq!(client.answer("POST").unwrap().status(), 200);
    let after = gateway.memory_kib();
    assert!(after.1 <= before.1 + FLAT_KIB, "highest memory before and after: {before:?}, {after:?} KiB");
}

#[test]
fn a_trickling_body_is_aborted_and_a_steady_one_is_not() {
    let setup = PlainHttpGateway::new(&[("timeouts.body", "2s")]);
    assert_eq!(setup.client().ask(setup.get("/bytes/5")).unwrap().body.len(), 5);
    let began = Instant::now();
    let mut client = setup.client();
    client.send(setup.head("POST", "/sink", "Content-Length: 100000\r\n")).unwrap();
    let mut writer = client.stream.try_clone().unwrap();
    let trickle = std::thread::spawn(move || {
        while writer.write_all(b"x").is_ok() && began.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    assert_eq!(client.answer("POST").unwrap().status(), 408);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    drop(client);
    trickle.join().unwrap();
    let mut steady = setup.client();
    let body = pseudo_random(2, 15 * 3000);
    steady.send(setup.head("POST", "/sink", "Content-Length: 45000\r\n")).unwrap();
    for piece in body.chunks(3000) {
        steady.send(piece).unwrap();
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(steady.answer("POST").unwrap().text(), format!("POST 45000 {:016x}\n", checksum(&body)));
    setup.stop();
}

#[test]
fn a_client_that_never_reads_its_response_is_disconnected() {
    let setup = PlainHttpGateway::new(&[("timeouts.body", "1s")]);
    let mut client = setup.client();
    client.send(setup.get("/huge/100000000")).unwrap();
    let ended = wait_for(Duration::from_secs(10), || {
        (setup.metric("ntlm_gateway_tunnels_closed_total", &[("cause", "body_timeout")]) == 1.0).then_some(())
    });
    assert!(ended.is_some());
    let error = client.skip(100_000_000).expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    setup.stop();
}

#[test]
fn a_pause_in_an_upstreams_response_is_not_blamed_on_the_client() {
    // Longer than the client's time-out, shorter than the upstream's; the first part is large enough to be spliced.
    let setup = PlainHttpGateway::playing(&[("timeouts.body", "2s"), ("timeouts.idle", "6s")], |wire, asked| {
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2000001\r\n\r\n")?;
        wire.send(vec![0; 2_000_000])?;
        std::thread::sleep(Duration::from_millis(if asked.path == "/long" { 20_000 } else { 3500 }));
        wire.send("x")?;
        Ok(true)
    });
    let mut client = setup.client();
    assert_eq!(client.ask(setup.get("/")).unwrap().body.len(), 2_000_001);
    client.send(setup.get("/long")).unwrap();
    client.head().unwrap();
    client.skip(2_000_000).unwrap();
    let home =
        wait_for(Duration::from_secs(4), || (setup.metric("ntlm_gateway_pipes_in_use", &[]) == 0.0).then_some(()));
    assert!(home.is_some(), "an empty pipe is returned during the pause");
    assert_eq!(client.skip(1).expect_err("a reset").kind(), ErrorKind::ConnectionReset);
    setup.stop();
}

#[test]
fn a_response_that_does_not_start_in_time_gets_504() {
    let setup = PlainHttpGateway::new(&[("timeouts.response", "500ms")]);
    let began = Instant::now();
    let answer = setup.client().ask(setup.get("/pause/6000")).unwrap();
    assert_eq!(answer.status(), 504);
    assert!(answer.head.contains("http_response_timeout"), "{}", answer.head);
    assert!(began.elapsed() < Duration::from_millis(5500), "{:?}", began.elapsed());
    assert_eq!(
        setup.metric("ntlm_gateway_upstream_up", &[]),
        1.0,
        "an origin's slowness is not counted against the upstream"
    );
    setup.stop();
}

#[test]
fn an_idle_client_connection_is_closed_after_its_keep_alive_timeout() {
    let setup = PlainHttpGateway::new(&[("timeouts.keep_alive", "2s")]);
    let mut client = setup.client();
    for _ in 0..2 {
        assert_eq!(client.ask(setup.get("/bytes/5")).unwrap().body.len(), 5);
    }
    let began = Instant::now();
    assert!(client.rest().unwrap().is_empty());
    assert!((1500..20_000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    setup.stop();
}

#[test]
fn a_connection_carries_a_bounded_number_of_requests() {
    let setup = PlainHttpGateway::new(&[]);
    let mut client = setup.client();
    let mut writer = client.stream.try_clone().unwrap();
    let bound = usize::from(ntlm_gateway::limits::REQUESTS_PER_CONNECTION);
    let requests = setup.get("/bytes/5").repeat(bound + 100);
    let sender = std::thread::spawn(move || writer.write_all(requests.as_bytes()));
    let mut answered = 0;
    loop {
        let answer = client.answer("GET").unwrap();
        answered += 1;
        if answer.field("connection") == Some("close") {
            break;
        }
    }
    assert!((bound..=bound + 1).contains(&answered), "{answered}");
    drop(client);
    // The rest of the requests may find the connection closed.
    let _ = sender.join().unwrap();
    setup.stop();
}

#[test]
fn a_shutdown_finishes_requests_in_progress_and_takes_no_more() {
    let proxy = Web::proxy();
    let mut gateway = Gateway::start(&GatewayOptions::through(proxy.address()));
    let mut resting = Wire::connect(gateway.address());
    assert_eq!(resting.ask(proxy.request("GET", "/bytes/5", "")).unwrap().body.len(), 5);
    let (mut waiting, mut streaming) = (Wire::connect(gateway.address()), Wire::connect(gateway.address()));
    streaming.send(proxy.request("GET", "/events/10", "")).unwrap();
    let head = streaming.head().unwrap().expect("an answer");
    waiting.send(proxy.request("GET", "/pause/5000", "")).unwrap();
    let arrived = wait_for(Duration::from_secs(20), || (proxy.seen.requests() == 3).then_some(()));
    assert!(arrived.is_some());
    let began = Instant::now();
    gateway.signal(Signal::TERM);
    assert!(resting.rest().unwrap().is_empty());
    assert!(began.elapsed() < Duration::from_secs(4), "an idle client is disconnected at once: {:?}", began.elapsed());
    let answer = waiting.answer("GET").unwrap();
    assert_eq!((answer.status(), answer.field("connection")), (200, Some("close")), "{}", answer.head);
    assert!(waiting.rest().unwrap().is_empty());
    // Its head had promised to keep the connection open.
    assert!(!head.to_ascii_lowercase().contains("connection: close"), "{head}");
    let rest = streaming.rest().unwrap();
    assert!(rest.ends_with(b"\r\n0\r\n\r\n"), "{:?}", String::from_utf8_lossy(&rest));
    assert!(began.elapsed() < Duration::from_secs(15), "its connection is closed: {:?}", began.elapsed());
    assert_eq!(gateway.wait(Duration::from_secs(10)).and_then(|status| status.code()), Some(0));
}
