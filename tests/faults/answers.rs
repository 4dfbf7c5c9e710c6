//! Every failure as clients, logs and metrics report it: one value, one status, one label.

use crate::support;

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use ntlm_gateway::client_protocol::{error_type, status};
use ntlm_gateway::fault::{At, Cause};
use ntlm_gateway::gateway::Gateway;
use ntlm_gateway::stub::{StubOptions, StubServer};
use support::client::{Answered, ask, connect_name, echo_through};
use support::in_process::{self, ACCOUNT};
use support::listener::{BlackHole, Refusing};
use support::scratch::wait_for;

const CONNECT: &str = "CONNECT echo.test:7 HTTP/1.1\r\nHost: echo.test:7\r\n";

fn stub() -> StubServer {
    let (domain, user, password) = ACCOUNT;
    StubServer::start(StubOptions::default().account(domain, user, password)).expect("a stub")
}

fn before_stub(stub: &StubServer, further: &[(&str, &str)]) -> Gateway {
    in_process::gateway(&stub.address().to_string(), further)
}

/// The response names the fault and closes the connection, and the fault is counted under the same name.
fn assert_fault(gateway: &Gateway, mut answer: Answered, at: At, cause: Cause) {
    assert_eq!(Some(answer.status()), status(cause), "{}", answer.head);
    let reported = answer.field("proxy-status").unwrap_or_default().to_owned();
    assert!(reported.starts_with("ntlm-gateway; error="), "{}", answer.head);
    assert!(reported.contains(&format!("error={}", error_type(cause).as_str())), "{}", answer.head);
    assert!(answer.field("connection").is_some_and(|value| value == "close"), "{}", answer.head);
    let mut body = String::new();
    answer.stream.read_to_string(&mut body).expect("the answer's body and the end");
    assert!(body.starts_with(&format!("{} ", answer.status())), "{body}");
    let counted = wait_for(Duration::from_secs(5), || (gateway.metrics().faults(at, cause) == 1).then_some(()));
    assert!(counted.is_some(), "{} at {} is not counted once", cause.label(), at.label());
}

#[test]
fn a_malformed_request_gets_400_and_never_reaches_the_upstream() {
    let stub = stub();
    for request in [
        "CONNECT echo.test HTTP/1.1\r\n\r\n".to_owned(),
        "CONNECT echo.test:99999 HTTP/1.1\r\n\r\n".to_owned(),
        "CONNECT http://echo.test:7 HTTP/1.1\r\n\r\n".to_owned(),
        "CONNECT [::1:7 HTTP/1.1\r\n\r\n".to_owned(),
        format!("{CONNECT}Bad Name: x\r\n\r\n"),
        format!("{CONNECT}Name : x\r\n\r\n"),
        format!("{CONNECT}X: a\r\n folded\r\n\r\n"),
        format!("{CONNECT}X: a\0b\r\n\r\n"),
        format!("{CONNECT}Content-Length: 5\r\n\r\nhello"),
        format!("{CONNECT}Content-Length: 0\r\nContent-Length: 1\r\n\r\n"),
        CONNECT.replace("\r\n", "\n") + "\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\x7c".to_owned(),
    ] {
        let gateway = before_stub(&stub, &[]);
        let answer = ask(in_process::address(&gateway), request.as_bytes()).expect("an answer");
        assert_fault(&gateway, answer, At::ReadHead, Cause::RequestMalformed);
        in_process::stop(gateway);
    }
    assert_eq!(stub.counters().connections_opened, 0);
}

#[test]
fn unsupported_versions_and_methods_get_their_own_status() {
    let stub = stub();
    for (request, cause) in [
        ("CONNECT echo.test:7 HTTP/2.0\r\n\r\n", Cause::RequestVersion),
        ("GET ftp://echo.test/ HTTP/1.1\r\nHost: echo.test\r\n\r\n", Cause::MethodNotSupported),
        ("OPTIONS * HTTP/1.1\r\nHost: echo.test\r\n\r\n", Cause::RequestMalformed),
    ] {
        let gateway = before_stub(&stub, &[]);
        let answer = ask(in_process::address(&gateway), request.as_bytes()).expect("an answer");
        assert_fault(&gateway, answer, At::ReadHead, cause);
        in_process::stop(gateway);
    }
}

#[test]
fn a_head_over_the_limit_gets_431_and_one_at_the_limit_is_accepted() {
    let stub = stub();
    let gateway = before_stub(&stub, &[("limits.head", "2KiB")]);
    let padded = |bytes: usize| {
        let fixed = CONNECT.len() + "X: \r\n\r\n".len();
        format!("{CONNECT}X: {}\r\n\r\n", "x".repeat(bytes - fixed))
    };
    let answer = ask(in_process::address(&gateway), padded(2048).as_bytes()).expect("an answer");
    assert_eq!(answer.status(), 200, "{}", answer.head);
    let answer = ask(in_process::address(&gateway), padded(2049).as_bytes()).expect("an answer");
    assert_fault(&gateway, answer, At::ReadHead, Cause::RequestHeadTooLarge);
    in_process::stop(gateway);
}

#[test]
fn an_unfinished_head_gets_408_and_a_silent_client_is_just_closed() {
    let stub = stub();
    let gateway = before_stub(&stub, &[("timeouts.head", "300ms")]);
    let answer = ask(in_process::address(&gateway), CONNECT.as_bytes()).expect("an answer");
    assert_fault(&gateway, answer, At::ReadHead, Cause::HeadTimeout);
    let mut silent = TcpStream::connect(in_process::address(&gateway)).expect("a connection");
    silent.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
    assert_eq!(silent.read(&mut [0]).expect("an end of file"), 0);
    in_process::stop(gateway);
}

#[test]
fn a_client_that_is_not_allowed_gets_403() {
    let stub = stub();
    let gateway = before_stub(&stub, &[("allow_clients", "10.0.0.0/8")]);
    let answer = connect_name(in_process::address(&gateway), "echo.test:7").expect("an answer");
    assert_fault(&gateway, answer, At::ReadHead, Cause::ClientNotAllowed);
    in_process::stop(gateway);
    assert_eq!(stub.counters().connections_opened, 0);
}

#[test]
fn tunnels_over_the_limit_get_503_until_one_ends() {
    let stub = stub();
    let gateway = before_stub(&stub, &[("max_tunnels", "2")]);
    let address = in_process::address(&gateway);
    let held: Vec<Answered> = (0..2).map(|_| connect_name(address, "echo.test:7").expect("a tunnel")).collect();
    assert!(held.iter().all(|answer| answer.status() == 200));
    let answer = connect_name(address, "echo.test:7").expect("an answer");
    assert_eq!(answer.field("retry-after"), Some("5"));
    assert_fault(&gateway, answer, At::ReadHead, Cause::TunnelLimit);
    for answer in &held {
        assert_eq!(echo_through(&answer.stream, b"alive").expect("an echo"), b"alive");
    }
    drop(held);
    let free = wait_for(Duration::from_secs(5), || (gateway.tunnels_open() == 0).then_some(()));
    assert!(free.is_some());
    assert_eq!(connect_name(address, "echo.test:7").expect("an answer").status(), 200);
    in_process::stop(gateway);
}

#[test]
fn an_upstream_that_refuses_the_connection_gets_502_and_recovers_without_a_restart() {
    let refusing = Refusing::new();
    let port = refusing.address;
    let gateway = in_process::gateway(&port.to_string(), &[]);
    let answer = connect_name(in_process::address(&gateway), "echo.test:7").expect("an answer");
    assert!(answer.field("proxy-status").is_some_and(|reported| reported.contains(&format!("next-hop=\"{port}\""))));
    assert_fault(&gateway, answer, At::Dial, Cause::ConnectRefused);
    let (domain, user, password) = ACCOUNT;
    let options = StubOptions { listen: port, ..StubOptions::default() }.account(domain, user, password);
    let _stub = StubServer::start(options).expect("a stub on the same port");
    assert_eq!(connect_name(in_process::address(&gateway), "echo.test:7").expect("an answer").status(), 200);
    in_process::stop(gateway);
}

#[test]
fn an_upstream_that_does_not_resolve_gets_502_and_does_not_prevent_the_start() {
    let gateway = in_process::gateway("no-such-proxy.invalid:3128", &[]);
    let answer = connect_name(in_process::address(&gateway), "echo.test:7").expect("an answer");
    assert_fault(&gateway, answer, At::Dial, Cause::ResolveFailed);
    in_process::stop(gateway);
}

#[test]
fn an_upstream_that_does_not_accept_connections_gets_504() {
    let hole = BlackHole::new();
    let gateway = in_process::gateway(&hole.address.to_string(), &[("timeouts.connect", "300ms")]);
    let answer = connect_name(in_process::address(&gateway), "echo.test:7").expect("an answer");
    assert_fault(&gateway, answer, At::Dial, Cause::ConnectTimeout);
    in_process::stop(gateway);
}

#[test]
fn a_wrong_password_is_reported_as_refused_once_and_then_as_held() {
    let stub = StubServer::start(StubOptions::default().account("CORP", "alice", "another")).expect("a stub");
    let gateway = before_stub(&stub, &[]);
    let answer = connect_name(in_process::address(&gateway), "echo.test:7").expect("an answer");
    assert!(
        answer.field("proxy-status").is_some_and(|reported| reported.contains("received-status=407")),
        "{}",
        answer.head
    );
    assert_fault(&gateway, answer, At::Authenticate, Cause::CredentialsRefused);
    for _ in 0..20 {
        let answer = connect_name(in_process::address(&gateway), "echo.test:7").expect("an answer");
        assert_eq!(answer.status(), 502);
        assert!(
            answer.field("proxy-status").is_some_and(|reported| reported.contains("not tried again")),
            "{}",
            answer.head
        );
    }
    assert_eq!(gateway.metrics().faults(At::Authenticate, Cause::CredentialsHeld), 20);
    assert_eq!(stub.counters().authenticates, 1);
    in_process::stop(gateway);
}

#[test]
fn idle_and_half_closed_tunnels_end_after_their_timeouts() {
    let stub = stub();
    let gateway = before_stub(&stub, &[("timeouts.idle", "400ms"), ("timeouts.half_closed", "300ms")]);
    let mut idle = connect_name(in_process::address(&gateway), "silent.test:1").expect("a tunnel");
    assert_eq!(idle.stream.read(&mut [0]).expect("an end of file"), 0);
    let mut half = connect_name(in_process::address(&gateway), "silent.test:1").expect("a tunnel");
    half.stream.shutdown(Shutdown::Write).expect("a half-close");
    let _ = half.stream.read(&mut [0]);
    let ended = |cause| (gateway.metrics().faults(At::Relay, cause) >= 1).then_some(());
    assert!(wait_for(Duration::from_secs(5), || ended(Cause::IdleTimeout)).is_some());
    in_process::stop(gateway);
}

#[test]
fn activity_keeps_a_tunnel_open_past_its_idle_timeout() {
    let stub = stub();
    let gateway = before_stub(&stub, &[("timeouts.idle", "2s")]);
    let tunnel = connect_name(in_process::address(&gateway), "echo.test:7").expect("a tunnel");
    for round in 0..30_u8 {
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(echo_through(&tunnel.stream, &[round]).expect("an echo"), [round]);
    }
    in_process::stop(gateway);
}

#[test]
fn a_client_that_keeps_sending_still_receives_the_whole_error_response() {
    let stub = stub();
    let gateway = before_stub(&stub, &[]);
    let mut stream = TcpStream::connect(in_process::address(&gateway)).expect("a connection");
    stream.write_all(b"BROKEN\r\n\r\n").expect("a head");
    // More input would turn a careless close into a reset and destroy the response.
    for _ in 0..50 {
        if stream.write_all(&[b'x'; 1000]).is_err() {
            break;
        }
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the complete answer and no reset");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    in_process::stop(gateway);
}
