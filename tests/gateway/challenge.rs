//! The challenge time-out: it applies to the leg of a handshake that does not involve the origin, and to nothing that
//! may be waiting for one.

use crate::support;

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use ntlm_gateway::gateway::Gateway;
use ntlm_gateway::limits;
use ntlm_gateway::stub::{Personality, StubOptions, StubServer};
use support::client::{Answered, ask, connect_name, read_head};
use support::gateway::GatewayOptions;
use support::in_process::{self, ACCOUNT, metric};
use support::listener::Listener;
use support::squid::{Squid, SquidOptions};

/// For upstreams that send no challenge.
const SHORT: Duration = Duration::from_millis(500);
const SHORT_TIMEOUT: (&str, &str) = ("timeouts.challenge", "500ms");

/// For upstreams that send one, on a busy machine.
const AMPLE: Duration = Duration::from_secs(2);
const AMPLE_TIMEOUT: (&str, &str) = ("timeouts.challenge", "2s");
const ORIGIN_DELAY: Duration = Duration::from_secs(3);

fn stub(personality: Personality) -> StubServer {
    let (domain, user, password) = ACCOUNT;
    StubServer::start(StubOptions::default().account(domain, user, password).personality(personality)).expect("a stub")
}

/// Not POST: with an upstream whose behaviour is still unknown, its first leg may already reach the origin.
fn requests() -> [&'static str; 2] {
    [
        "CONNECT echo.test:7 HTTP/1.1\r\nHost: echo.test:7\r\n\r\n",
        "GET http://echo.test/ HTTP/1.1\r\nHost: echo.test\r\n\r\n",
    ]
}

fn timed(gateway: &Gateway, request: &str) -> (Answered, Duration) {
    let began = Instant::now();
    let answer = ask(in_process::address(gateway), request.as_bytes()).expect("an answer");
    (answer, began.elapsed())
}

#[track_caller]
fn assert_challenge_timeout(gateway: &Gateway, request: &str) {
    let (answer, took) = timed(gateway, request);
    assert_eq!(answer.status(), 504, "{request}: {}", answer.head);
    assert!(
        answer.field("proxy-status").is_some_and(|status| status.contains("no challenge in time")),
        "{}",
        answer.head
    );
    assert!(took >= SHORT && took < limits::CHALLENGE_TIMEOUT, "not the default: {request}: {took:?}");
}

#[test]
fn a_missing_challenge_is_reported_after_the_challenge_timeout() {
    let silent = stub(Personality::Silent);
    for further in [("first_leg", "negotiate"), ("first_leg", "plain")] {
        let gateway = in_process::gateway(&silent.address().to_string(), &[SHORT_TIMEOUT, further]);
        // Only these two: a third failure in a row would eject the upstream.
        for request in requests() {
            assert_challenge_timeout(&gateway, request);
        }
        let faults = [("cause", "challenge_timeout"), ("side", "upstream"), ("stage", "authenticate")];
        assert_eq!(metric(&gateway, "faults_total", &faults), 2.0);
        in_process::stop(gateway);
    }
}

#[test]
fn a_trickled_challenge_is_reported_after_the_challenge_timeout() {
    let trickling = Listener::start(|mut stream| {
        let _ = read_head(&mut stream).and_then(|_| {
            stream.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nX-Filler: ")?;
            loop {
                stream.write_all(b"x")?;
                std::thread::sleep(Duration::from_millis(20));
            }
            #[allow(unreachable_code)]
            Ok::<(), std::io::Error>(())
        });
    });
    let gateway = in_process::gateway(&trickling.address().to_string(), &[SHORT_TIMEOUT]);
    assert_challenge_timeout(&gateway, requests()[0]);
    in_process::stop(gateway);
}

#[test]
fn the_next_upstream_is_tried_after_the_challenge_timeout() {
    let (silent, second) = (stub(Personality::Silent), stub(Personality::Plain));
    let gateway =
        in_process::gateway(&format!("{},{}", silent.address(), second.address()), &[AMPLE_TIMEOUT, ("warm", "0")]);
    let (answer, took) = timed(&gateway, requests()[0]);
    assert_eq!(answer.status(), 200, "{}", answer.head);
    assert!(took >= AMPLE && took < limits::CHALLENGE_TIMEOUT, "not the default: {took:?}");
    in_process::stop(gateway);
}

#[test]
fn the_challenge_timeout_does_not_apply_to_a_slow_origin_behind_squid() {
    require_tools!("squid", "ntlm_auth");
    let origin = Listener::start(|mut stream| {
        let _ = read_head(&mut stream).and_then(|_| {
            std::thread::sleep(ORIGIN_DELAY);
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow")
        });
    });
    let squid = Squid::start(&SquidOptions::default());
    let mut options = GatewayOptions::through(squid.address());
    options.args = ["--challenge-timeout", "2s"].map(String::from).into();
    let gateway = support::gateway::Gateway::start(&options);
    let (url, host) = (format!("http://{}/", origin.address()), origin.address());
    for method in ["GET", "POST"] {
        let began = Instant::now();
        let head = format!("{method} {url} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        let mut answer = ask(gateway.address(), head.as_bytes()).expect("an answer");
        let mut body = String::new();
        answer.stream.read_to_string(&mut body).expect("a body");
        assert_eq!((answer.status(), body.as_str()), (200, "slow"), "{method}: {}", answer.head);
        assert!(began.elapsed() >= ORIGIN_DELAY);
    }
}

#[test]
fn the_challenge_timeout_does_not_apply_to_a_known_open_upstream() {
    let open = Listener::start(|mut stream| {
        let _ = read_head(&mut stream).and_then(|head| {
            if head.starts_with("CONNECT slow.") {
                std::thread::sleep(ORIGIN_DELAY);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
            stream.read(&mut [0]).map(drop)
        });
    });
    let gateway = in_process::gateway(&open.address().to_string(), &[AMPLE_TIMEOUT]);
    for host in ["quick.test:443", "slow.test:443"] {
        let answer = connect_name(in_process::address(&gateway), host).expect("an answer");
        assert_eq!(answer.status(), 200, "{host}: {}", answer.head);
    }
    in_process::stop(gateway);
}
