//! SOCKS clients get the same tunnels by the same rules as HTTP clients.

use crate::support;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use ntlm_gateway::gateway::Gateway;
use support::client::{ask, connect_name, dial, echo_through};
use support::gateway::{Gateway as GatewayProcess, GatewayOptions};
use support::in_process::{self, metric, stub_with_ci};
use support::listener::Refusing;
use support::origin::echo_origin;
use support::scratch::{Scratch, wait_for};
use support::socks::{Replied, ask4, ask5, login5, read_bytes, reply5, request4a, request5};

const BOUND: Duration = Duration::from_secs(20);
const GRANTED_4: u8 = 90;
const REJECTED_4: u8 = 91;

fn to(gateway: &Gateway) -> TcpStream {
    dial(in_process::address(gateway)).expect("a connection")
}

#[track_caller]
fn expect_echo(mut tunnel: TcpStream, early: &[u8]) {
    assert_eq!(read_bytes(&mut tunnel, early.len()).expect("the early data"), early);
    assert_eq!(echo_through(&tunnel, b"through").expect("an echo"), b"through");
}

#[test]
fn socks4a_and_socks5_open_tunnels_and_keep_early_data() {
    let stub = stub_with_ci();
    let gateway = in_process::gateway(&stub.address().to_string(), &[("warm", "0")]);
    let early = b"before the reply";
    let replied = ask5(to(&gateway), &[&request5(b"echo.test", 7)[..], early].concat()).expect("a reply");
    assert_eq!(replied.code, 0);
    expect_echo(replied.stream, early);
    let replied = ask4(to(&gateway), &[&request4a(b"echo.test", 7)[..], early].concat()).expect("a reply");
    assert_eq!(replied.code, GRANTED_4);
    expect_echo(replied.stream, early);
    // Byte by byte, and a client that waits for each answer.
    let mut slow = to(&gateway);
    for byte in b"\x05\x02\x00\x02" {
        slow.write_all(&[*byte]).expect("a byte");
    }
    assert_eq!(read_bytes(&mut slow, 2).expect("a method"), [5, 0], "no login is configured");
    for byte in request5(b"echo.test", 7) {
        slow.write_all(&[byte]).expect("a byte");
    }
    let replied = reply5(slow).expect("a reply");
    assert_eq!(replied.code, 0);
    expect_echo(replied.stream, b"");
    assert_eq!((stub.counters().accepted, stub.counters().protocol_errors()), (3, 0), "{}", stub.counters());
    let requests = |protocol| {
        let labels = [("protocol", protocol), ("kind", "connect"), ("status", "2xx")];
        metric(&gateway, "requests_total", &labels)
    };
    assert_eq!((requests("socks4"), requests("socks5"), requests("http")), (1.0, 2.0, 0.0));
    in_process::stop(gateway);
}

/// Alice for everybody and ci for joe's login.
fn with_logins(scratch: &Scratch, upstream: SocketAddr, further: &str) -> String {
    let (password, login) = (scratch.write("ci", "ci-Secr3t\n"), scratch.write("login", "let me: in\n"));
    format!(
        "upstream = '{upstream}'\nuser = 'CORP\\alice'\nwarm = 0\n{further}\n\
         [[identities]]\nname = 'ci'\nuser = 'CORP\\ci'\npassword_file = '{}'\n\
         proxy_user = 'joe'\nproxy_password_file = '{}'\n",
        password.display(),
        login.display()
    )
}

fn authenticates(gateway: &Gateway) -> [f64; 2] {
    ["default", "ci"].map(|name| metric(gateway, "authenticate_messages_total", &[("identity", name)]))
}

#[test]
fn a_socks5_login_selects_the_identity_as_a_basic_login_does() {
    let (stub, scratch) = (stub_with_ci(), Scratch::new("socks"));
    let gateway = in_process::gateway_of(&with_logins(&scratch, stub.address(), ""));
    // Everything in one write.
    let mut stream = to(&gateway);
    let pipelined = [b"\x05\x02\x00\x02", &login5("joe", "let me: in")[..], &request5(b"echo.test", 7), b"early"];
    stream.write_all(&pipelined.concat()).expect("a request");
    assert_eq!(read_bytes(&mut stream, 4).expect("the answers"), [5, 2, 1, 0]);
    let replied = reply5(stream).expect("a reply");
    assert_eq!((replied.code, authenticates(&gateway)), (0, [0.0, 1.0]));
    expect_echo(replied.stream, b"early");
    assert_eq!(
        metric(&gateway, "client_logins_total", &[("outcome", "accepted")]),
        1.0,
        "{}",
        in_process::metrics(&gateway)
    );
    // Without a login, and with a user id that is none.
    assert_eq!(ask5(to(&gateway), &request5(b"echo.test", 7)).expect("a reply").code, 0);
    assert_eq!(ask4(to(&gateway), &request4a(b"echo.test", 7)).expect("a reply").code, GRANTED_4);
    assert_eq!(authenticates(&gateway), [2.0, 1.0]);
    in_process::stop(gateway);
}

/// The answer to a login, and whether the connection ends after it.
fn log_on(gateway: &Gateway, user: &str, password: &str) -> (Vec<u8>, bool) {
    let mut stream = to(gateway);
    stream.write_all(&[b"\x05\x01\x02", &login5(user, password)[..]].concat()).expect("a login");
    let answers = read_bytes(&mut stream, 4).expect("the answers");
    let ends = answers[3] != 0 && stream.read(&mut [0]).expect("an end") == 0;
    (answers, ends)
}

#[test]
fn wrong_socks5_logins_are_refused_at_once_and_share_the_throttle() {
    let (stub, scratch) = (stub_with_ci(), Scratch::new("socks"));
    let gateway = in_process::gateway_of(&with_logins(&scratch, stub.address(), ""));
    let refused = (vec![5, 2, 1, 1], true);
    for (user, password) in [("joe", "let me out"), ("joe", ""), ("", ""), ("jim", "let me: in")] {
        assert_eq!(log_on(&gateway, user, password), refused);
    }
    // One more in HTTP, and not even the right login is checked any more.
    let head = "CONNECT echo.test:7 HTTP/1.1\r\nHost: a\r\nProxy-Authorization: Basic am9lOng=\r\n\r\n";
    assert_eq!(ask(in_process::address(&gateway), head.as_bytes()).expect("an answer").status(), 407);
    assert_eq!(log_on(&gateway, "joe", "let me: in"), refused);
    let faults = |cause| metric(&gateway, "faults_total", &[("cause", cause), ("protocol", "socks5")]);
    assert_eq!((faults("login_required"), faults("login_throttled")), (4.0, 1.0));
    assert_eq!(stub.counters().requests, 0);
    in_process::stop(gateway);
}

#[test]
fn clients_that_may_not_use_the_gateway_learn_nothing_about_logins() {
    let (stub, scratch) = (stub_with_ci(), Scratch::new("socks"));
    let text = with_logins(&scratch, stub.address(), "allow_clients = ['192.0.2.0/24']");
    let gateway = in_process::gateway_of(&text);
    assert_eq!(log_on(&gateway, "joe", "let me: in"), log_on(&gateway, "joe", "wrong"));
    assert_eq!(ask5(to(&gateway), &request5(b"echo.test", 7)).expect("a reply").code, 2);
    assert_eq!(ask4(to(&gateway), &request4a(b"echo.test", 7)).expect("a reply").code, REJECTED_4);
    assert_eq!(metric(&gateway, "faults_total", &[("cause", "client_not_allowed")]), 4.0);
    assert_eq!(stub.counters().requests, 0);
    in_process::stop(gateway);
}

/// The reply to a SOCKS5 request for an address.
fn to_address5(gateway: &Gateway, address: std::net::IpAddr, port: u16) -> Replied {
    let (kind, octets) = match address {
        std::net::IpAddr::V4(address) => (1, address.octets().to_vec()),
        std::net::IpAddr::V6(address) => (4, address.octets().to_vec()),
    };
    let request = [&[5, 1, 0, kind][..], &octets, &port.to_be_bytes()].concat();
    ask5(to(gateway), &request).expect("a reply")
}

fn to_address4(gateway: &Gateway, address: Ipv4Addr, port: u16) -> Replied {
    let request = [&[4, 1][..], &port.to_be_bytes(), &address.octets(), b"\0"].concat();
    ask4(to(gateway), &request).expect("a reply")
}

#[test]
fn routes_and_metadata_protection_hold_for_socks_in_every_spelling() {
    let stub = stub_with_ci();
    let text = format!(
        "upstream = '{}'\nuser = 'CORP\\alice'\nwarm = 0\n\
         [[routes]]\nhost = ['.denied.test', 'denied.test']\nto = 'deny'\n\
         [[routes]]\nnetwork = '10.0.0.0/8'\nto = 'deny'\n\
         [[routes]]\nport = 25\nto = 'deny'\n",
        stub.address()
    );
    let gateway = in_process::gateway_of(&text);
    let names = [
        "denied.test",
        "a.denied.test",
        "A.DENIED.TEST",
        "a.denied.test.",
        "10.1.2.3",
        "::ffff:10.1.2.3",
        "::ffff:a01:203",
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "fe80::a9fe:a9fe",
        "64:ff9b::a9fe:a9fe",
    ];
    for name in names {
        assert_eq!(ask5(to(&gateway), &request5(name.as_bytes(), 443)).expect("a reply").code, 2, "{name}");
        let replied = ask4(to(&gateway), &request4a(name.as_bytes(), 443)).expect("a reply");
        assert_eq!(replied.code, REJECTED_4, "{name}");
    }
    for address in [Ipv4Addr::new(10, 1, 2, 3), Ipv4Addr::new(169, 254, 169, 254)] {
        assert_eq!(to_address5(&gateway, address.into(), 443).code, 2);
        assert_eq!(to_address5(&gateway, address.to_ipv6_mapped().into(), 443).code, 2);
        assert_eq!(to_address4(&gateway, address, 443).code, REJECTED_4);
    }
    let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe);
    assert_eq!(to_address5(&gateway, link_local.into(), 443).code, 2);
    assert_eq!(ask5(to(&gateway), &request5(b"echo.test", 25)).expect("a reply").code, 2, "by the port");
    let denied = metric(&gateway, "faults_total", &[("cause", "destination_denied")]);
    assert_eq!(denied, 2.0 * names.len() as f64 + 8.0);
    assert_eq!(stub.counters().requests, 0);
    assert_eq!(ask5(to(&gateway), &request5(b"echo.test", 443)).expect("a reply").code, 0);
    in_process::stop(gateway);
}

#[test]
fn failures_become_reply_codes() {
    let (stub, refusing) = (stub_with_ci(), Refusing::new());
    let text = format!(
        "upstream = '{}'\nuser = 'CORP\\alice'\nwarm = 0\nno_proxy = ['127.0.0.1', '.invalid']\n",
        stub.address()
    );
    let gateway = in_process::gateway_of(&text);
    let refused = refusing.address.port();
    assert_eq!(to_address5(&gateway, Ipv4Addr::LOCALHOST.into(), refused).code, 5);
    assert_eq!(to_address4(&gateway, Ipv4Addr::LOCALHOST, refused).code, REJECTED_4);
    assert_eq!(ask5(to(&gateway), &request5(b"nowhere.invalid", 443)).expect("a reply").code, 4);
    // The stub knows no such origin and answers 503 by itself.
    assert_eq!(ask5(to(&gateway), &request5(b"nowhere.test", 443)).expect("a reply").code, 4);
    for (command, code) in [(2, 7), (3, 7), (9, 7)] {
        let request = [&[5, command, 0, 1][..], &[192, 0, 2, 1, 0, 80]].concat();
        assert_eq!(ask5(to(&gateway), &request).expect("a reply").code, code);
    }
    assert_eq!(ask4(to(&gateway), b"\x04\x02\0\x50\xc0\0\x02\x01\0").expect("a reply").code, REJECTED_4);
    assert_eq!(ask5(to(&gateway), b"\x05\x01\x00\x09").expect("a reply").code, 8);
    assert_eq!(ask5(to(&gateway), &request5(b"two words", 443)).expect("a reply").code, 1);
    // The gateway itself, by a direct route.
    let own = in_process::address(&gateway).port();
    assert_eq!(to_address5(&gateway, Ipv4Addr::LOCALHOST.into(), own).code, 2);
    let methods = metric(&gateway, "faults_total", &[("cause", "method_not_supported"), ("protocol", "socks5")]);
    assert_eq!(methods, 3.0);
    in_process::stop(gateway);
    // A client that does not go on.
    let gateway = in_process::gateway_of(&format!("{text}timeouts.head = '400ms'\n"));
    let began = Instant::now();
    assert_eq!(ask5(to(&gateway), b"\x05\x01").expect("a reply").code, 6);
    assert!(began.elapsed() < BOUND);
    in_process::stop(gateway);
}

#[test]
fn the_access_log_names_protocol_destination_and_its_source() {
    let stub = stub_with_ci();
    let gateway = GatewayProcess::start(&GatewayOptions::through(stub.address()));
    let dialled = || dial(gateway.address()).expect("a connection");
    drop(ask5(dialled(), &request5(b"echo.test", 7)).expect("a reply"));
    let line = gateway.wait_for_line("protocol=socks5");
    for part in ["method=CONNECT", "target=echo.test:7", "destination_source=request", "status=200"] {
        assert!(line.contains(part), "{line}");
    }
    drop(ask4(dialled(), &request4a(b"169.254.169.254", 80)).expect("a reply"));
    let line = gateway.wait_for_line("protocol=socks4");
    for part in ["target=169.254.169.254:80", "status=403", "end=destination_denied"] {
        assert!(line.contains(part), "{line}");
    }
    drop(connect_name(gateway.address(), "echo.test:7").expect("an answer"));
    gateway.wait_for_line("protocol=http");
}

#[test]
fn a_listener_serves_only_its_protocols_and_answers_the_others_at_once() {
    let stub = stub_with_ci();
    let text = format!(
        "upstream = '{}'\nuser = 'CORP\\alice'\nwarm = 0\ntimeouts.head = '600s'\n\
         [[listeners]]\naddress = '127.0.0.1:0'\nprotocols = 'http'\n\
         [[listeners]]\naddress = '127.0.0.1:0'\nprotocols = 'socks'\n",
        stub.address()
    );
    let gateway = in_process::gateway_of(&text);
    let [both, http, socks] = gateway.listening() else { panic!("three listeners") };
    let connect = b"CONNECT echo.test:7 HTTP/1.1\r\nHost: echo.test:7\r\n\r\n";
    for address in [both, http] {
        assert_eq!(ask(*address, connect).expect("an answer").status(), 200);
    }
    for address in [both, socks] {
        let stream = dial(*address).expect("a connection");
        assert_eq!(ask5(stream, &request5(b"echo.test", 7)).expect("a reply").code, 0);
    }
    let answer = ask(*socks, connect).expect("an answer");
    let said = answer.field("proxy-status").unwrap_or_default().to_owned();
    assert!(answer.status() == 400 && said.contains("only SOCKS is served here"), "{}", answer.head);
    let answer = ask(*socks, b"\x16\x03\x01\x02\x00").expect("an answer");
    assert!(answer.head.contains("the client speaks TLS"), "{}", answer.head);
    for (bytes, expected) in [(&b"\x05\x01\x00"[..], &b"\x05\xff"[..]), (b"\x04\x01", b"\0\x5b\0\0\0\0\0\0")] {
        let mut stream = dial(*http).expect("a connection");
        stream.write_all(bytes).expect("a greeting");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer and the end");
        assert_eq!(answer, expected);
    }
    let malformed = |protocol| {
        let labels = [("cause", "request_malformed"), ("protocol", protocol)];
        metric(&gateway, "faults_total", &labels)
    };
    assert_eq!((malformed("unknown"), malformed("socks5"), malformed("socks4")), (2.0, 1.0, 1.0));
    in_process::stop(gateway);
}

#[test]
fn the_limits_of_a_client_hold_for_socks() {
    let stub = stub_with_ci();
    let further = [("warm", "0"), ("limits.tunnels_per_client", "1")];
    let gateway = in_process::gateway(&stub.address().to_string(), &further);
    let first = ask5(to(&gateway), &request5(b"echo.test", 7)).expect("a reply");
    assert_eq!(first.code, 0);
    assert_eq!(ask5(to(&gateway), &request5(b"echo.test", 7)).expect("a reply").code, 1);
    assert_eq!(ask4(to(&gateway), &request4a(b"echo.test", 7)).expect("a reply").code, REJECTED_4);
    assert_eq!(metric(&gateway, "faults_total", &[("cause", "client_limit")]), 2.0);
    expect_echo(first.stream, b"");
    in_process::stop(gateway);
}

#[test]
fn a_drain_lets_socks_tunnels_end_and_takes_no_new_ones() {
    let stub = stub_with_ci();
    let gateway = in_process::gateway(&stub.address().to_string(), &[("warm", "0")]);
    let tunnel = ask5(to(&gateway), &request5(b"echo.test", 7)).expect("a reply");
    gateway.drain();
    let address = in_process::address(&gateway);
    assert!(wait_for(BOUND, || TcpStream::connect(address).is_err().then_some(())).is_some());
    assert_eq!(echo_through(&tunnel.stream, b"still").expect("an echo"), b"still");
    drop(tunnel);
    assert!(wait_for(BOUND, || gateway.has_ended().then_some(())).is_some(), "the drain does not end");
    in_process::stop(gateway);
}

#[test]
fn direct_routes_and_half_closes_work_with_socks() {
    let (stub, origin) = (stub_with_ci(), echo_origin());
    let text = format!("upstream = '{}'\nuser = 'CORP\\alice'\nwarm = 0\nno_proxy = '127.0.0.1'\n", stub.address());
    let gateway = in_process::gateway_of(&text);
    let replied = to_address4(&gateway, Ipv4Addr::LOCALHOST, origin.address().port());
    assert_eq!(replied.code, GRANTED_4);
    let mut tunnel = replied.stream;
    tunnel.write_all(b"the last bytes").expect("bytes");
    tunnel.shutdown(std::net::Shutdown::Write).expect("a half-close");
    let mut back = Vec::new();
    tunnel.read_to_end(&mut back).expect("the echo and the end");
    assert_eq!(back, b"the last bytes");
    assert_eq!(stub.counters().requests, 0);
    in_process::stop(gateway);
}
