//! Tunnels, pools, checks and failover over TLS, with the stub as the proxy.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ntlm_gateway::gateway::Gateway;
use ntlm_gateway::limits;
use ntlm_gateway::stub::{Checksum, StubCertificate, StubOptions, StubServer, pattern_mismatch, sink_line};

use crate::support::bytes::{assert_same, pseudo_random};
use crate::support::client::{Answered, ask, connect_name, echo_through};
use crate::support::cutter::{Cut, CutKind, Cutter, Direction};
use crate::support::in_process::{self, ACCOUNT, metric};
use crate::support::scratch::{Scratch, wait_for};

const BOUND: Duration = Duration::from_secs(20);

/// A stub that serves TLS, and the file with its certificate.
struct TlsStub {
    server: StubServer,
    ca: PathBuf,
    _scratch: Scratch,
}

impl TlsStub {
    fn start() -> TlsStub {
        let certificate = StubCertificate::new(&["127.0.0.1"]).expect("a certificate");
        let (domain, user, password) = ACCOUNT;
        let options = StubOptions::default().account(domain, user, password).tls(certificate.server_config());
        let scratch = Scratch::new("tls-stub");
        let ca = scratch.write("ca.pem", certificate.pem());
        TlsStub { server: StubServer::start(options).expect("a stub"), ca, _scratch: scratch }
    }

    /// A gateway that reaches it at `address`.
    fn gateway_at(&self, address: SocketAddr, further: &[(&str, &str)]) -> Gateway {
        let ca = self.ca.display().to_string();
        let settings = [&[("tls.ca_file", ca.as_str())], further].concat();
        in_process::gateway(&format!("https://{address}"), &settings)
    }

    fn gateway(&self, further: &[(&str, &str)]) -> Gateway {
        self.gateway_at(self.server.address(), further)
    }

    #[track_caller]
    fn assert_no_protocol_errors(&self) {
        let counts = self.server.counters();
        assert_eq!(counts.protocol_errors(), 0, "{counts}");
    }
}

#[track_caller]
fn open(gateway: &Gateway, target: &str) -> Answered {
    let answer = connect_name(in_process::address(gateway), target).expect("an answer");
    assert_eq!(answer.status(), 200, "{}", answer.head);
    answer
}

#[track_caller]
fn eventually(what: &str, is_so: impl Fn() -> bool) {
    assert!(wait_for(BOUND, || is_so().then_some(())).is_some(), "not in time: {what}");
}

#[test]
fn a_tunnel_over_tls_carries_both_directions_and_each_ends_by_itself() {
    let stub = TlsStub::start();
    let gateway = stub.gateway(&[("warm", "0")]);
    let mut tunnel = open(&gateway, "echo.test:7");
    let bytes = pseudo_random(1, 9_000_000);
    assert_same(&echo_through(&tunnel.stream, &bytes).expect("an echo"), &bytes, "the echo");
    tunnel.stream.shutdown(Shutdown::Write).expect("half-close");
    assert_eq!(tunnel.stream.read(&mut [0; 10]).expect("a clean end"), 0);

    // The answer comes after the end of the request.
    let mut upload = open(&gateway, "sink.test:7");
    let mut sum = Checksum::default();
    sum.update(&bytes);
    upload.stream.write_all(&bytes).expect("upload");
    upload.stream.shutdown(Shutdown::Write).expect("half-close");
    let mut line = String::new();
    upload.stream.read_to_string(&mut line).expect("the sum, and a clean end");
    assert_eq!(line, sink_line(&sum));

    // The end of the response comes while the client could still send.
    let mut download = open(&gateway, "source-9000000.test:7");
    let mut received = Vec::new();
    download.stream.read_to_end(&mut received).expect("the pattern, and a clean end");
    assert_eq!((received.len(), pattern_mismatch(&received, 0)), (9_000_000, None));
    drop((tunnel, upload, download));
    stub.assert_no_protocol_errors();
    eventually("all tunnels end", || metric(&gateway, "tunnels_open", &[]) == 0.0);
    in_process::stop(gateway);
}

#[test]
fn a_connection_that_is_cut_off_is_a_reset_and_no_clean_end_for_the_client() {
    let stub = TlsStub::start();
    let cutter = Cutter::start(stub.server.address());
    let gateway = stub.gateway_at(cutter.address(), &[("warm", "0")]);
    // Whole records and parts of one; each is a clean end of TCP.
    for after in [100_000, 131_072, 500_001] {
        cutter.arm(Cut { direction: Direction::Down, after, kind: CutKind::Finish }, 1);
        let mut tunnel = open(&gateway, "source-5000000.test:7");
        let mut received = Vec::new();
        let error = tunnel.stream.read_to_end(&mut received).expect_err("the data is not complete");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert!(received.len() < 5_000_000);
        assert_eq!(pattern_mismatch(&received, 0), None);
    }
    eventually("the ends are counted", || metric(&gateway, "faults_total", &[("cause", "upstream_reset")]) == 3.0);
    in_process::stop(gateway);
}

#[test]
fn a_client_that_resets_is_no_clean_end_for_the_origin() {
    let stub = TlsStub::start();
    let gateway = stub.gateway(&[("warm", "0")]);
    let tunnel = open(&gateway, "sink.test:7");
    (&tunnel.stream).write_all(&pseudo_random(2, 100_000)).expect("a part of the upload");
    eventually("it arrives", || stub.server.counters().bytes_received >= 100_000);
    let sent = stub.server.counters().bytes_sent;
    rustix::net::sockopt::set_socket_linger(&tunnel.stream, Some(Duration::ZERO)).expect("a reset");
    drop(tunnel);
    eventually("the connection ends", || stub.server.counters().tunnels_closed == 1);
    assert_eq!(stub.server.counters().bytes_sent, sent, "the origin has not taken what it got for the whole");
    in_process::stop(gateway);
}

#[test]
fn sessions_are_resumed_and_handshakes_are_measured() {
    let stub = TlsStub::start();
    let gateway = stub.gateway(&[("warm", "0")]);
    for _ in 0..4 {
        let tunnel = open(&gateway, "echo.test:7");
        assert_eq!(echo_through(&tunnel.stream, b"again").expect("an echo"), b"again");
    }
    let handshakes = |session| metric(&gateway, "upstream_tls_handshakes_total", &[("session", session)]);
    assert_eq!((handshakes("new"), handshakes("resumed")), (1.0, 3.0));
    let phase = |phase| metric(&gateway, "handshake_phase_duration_seconds_count", &[("phase", phase)]);
    assert_eq!((phase("connect"), phase("tls")), (4.0, 4.0));
    stub.assert_no_protocol_errors();
    in_process::stop(gateway);
}

#[test]
fn pre_challenged_connections_are_made_and_used_over_tls() {
    let stub = TlsStub::start();
    let gateway = stub.gateway(&[("warm", "3")]);
    let mut bytes = pseudo_random(3, 10_000);
    eventually("a pre-challenged connection is used", || {
        let tunnel = open(&gateway, "echo.test:7");
        assert_same(&echo_through(&tunnel.stream, &bytes).expect("an echo"), &bytes, "the echo");
        metric(&gateway, "warm_hits_total", &[]) >= 5.0
    });
    bytes.clear();
    assert_eq!(metric(&gateway, "warm_discarded_total", &[("cause", "failed")]), 0.0, "tickets are no input");
    stub.assert_no_protocol_errors();
    in_process::stop(gateway);
}

#[test]
fn kept_connections_carry_further_plain_requests_over_tls() {
    let stub = TlsStub::start();
    let gateway = stub.gateway(&[("warm", "0")]);
    for _ in 0..5 {
        let request = b"GET http://hello.demo/ HTTP/1.1\r\nHost: hello.demo\r\nConnection: close\r\n\r\n";
        let mut answer = ask(in_process::address(&gateway), request).expect("an answer");
        let mut page = String::new();
        answer.stream.read_to_string(&mut page).expect("the page");
        assert_eq!((answer.status(), page.as_str()), (200, ntlm_gateway::stub::HELLO_PAGE));
    }
    let requests = |connection| metric(&gateway, "upstream_requests_total", &[("connection", connection)]);
    assert_eq!((requests("cold"), requests("kept")), (1.0, 4.0));
    assert_eq!(stub.server.counters().connections_opened, 1);
    stub.assert_no_protocol_errors();
    in_process::stop(gateway);
}

/// A gateway with two upstreams over TLS, of which the second one is the stub.
fn gateway_beside(first: SocketAddr, stub: &TlsStub, top: &str) -> Gateway {
    let upstream = |name, address| format!("[[upstreams]]\nname = '{name}'\naddress = 'https://{address}'\n");
    let upstreams = [upstream("first", first), upstream("second", stub.server.address())].concat();
    let ca = stub.ca.display();
    in_process::gateway_of(&format!(
        "user = 'CORP\\alice'\nwarm = 0\n{top}\n[tls]\nca_file = '{ca}'\n[timeouts]\ntls = '2s'\n{upstreams}"
    ))
}

#[test]
fn an_upstream_that_never_answers_the_handshake_is_left_for_the_next_in_time() {
    // The kernel takes the connections.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let stub = TlsStub::start();
    let gateway = gateway_beside(silent.local_addr().expect("its address"), &stub, "");
    for _ in 0..3 {
        let began = Instant::now();
        let tunnel = open(&gateway, "echo.test:7");
        assert_eq!(echo_through(&tunnel.stream, b"which way?").expect("an echo"), b"which way?");
        assert!(began.elapsed() < limits::TLS_TIMEOUT, "not the default: {:?}", began.elapsed());
    }
    assert_eq!(metric(&gateway, "upstream_up", &[("upstream", "first")]), 0.0, "it is ejected");
    stub.assert_no_protocol_errors();
    in_process::stop(gateway);
}

#[test]
fn a_handshake_that_is_not_answered_in_time_says_what_may_be_wrong() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let stub = TlsStub::start();
    let settings = [("warm", "0"), ("timeouts.tls", "200ms")];
    let gateway = stub.gateway_at(silent.local_addr().expect("its address"), &settings);
    let answer = connect_name(in_process::address(&gateway), "echo.test:7").expect("an answer");
    assert_eq!(answer.status(), 504, "{}", answer.head);
    let told = answer.field("proxy-status").unwrap_or_default().to_owned();
    let hint = "did not complete the TLS handshake in time; if the port speaks plain HTTP, remove https://";
    assert!(told.contains(hint), "{told}");
    eventually("it is counted", || metric(&gateway, "faults_total", &[("cause", "connect_timeout")]) == 1.0);
    in_process::stop(gateway);
}

#[test]
fn an_address_that_never_answers_the_handshake_is_left_for_the_next_of_its_upstream() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let stub = TlsStub::start();
    let addresses = [silent.local_addr().expect("its address"), stub.server.address()];
    let [first, second] = addresses.map(|address| format!("'https://{address}'"));
    let gateway = in_process::gateway_of(&format!(
        "user = 'CORP\\alice'\nwarm = 0\n[tls]\nca_file = '{}'\n[timeouts]\ntls = '2s'\n\
         [[upstreams]]\nname = 'only'\naddress = [{first}, {second}]\n",
        stub.ca.display()
    ));
    let began = Instant::now();
    let tunnel = open(&gateway, "echo.test:7");
    assert_eq!(echo_through(&tunnel.stream, b"which way?").expect("an echo"), b"which way?");
    let took = began.elapsed();
    // The first one has taken the connection, so its handshake has its time; the next is not begun beside it.
    assert!(took >= Duration::from_secs(2) && took < limits::TLS_TIMEOUT, "{took:?}");
    assert_eq!(metric(&gateway, "dials_total", &[]), 2.0);
    drop(open(&gateway, "echo.test:7"));
    assert_eq!(metric(&gateway, "dials_total", &[]), 3.0, "the address that has worked is tried first from now on");
    in_process::stop(gateway);
}

#[test]
fn a_check_by_handshake_over_tls_brings_an_ejected_upstream_back() {
    let stub = TlsStub::start();
    let cutter = Cutter::start(stub.server.address());
    cutter.set_down(true);
    let top = "check = 'handshake'\ncheck_target = 'echo.test:7'";
    let gateway = gateway_beside(cutter.address(), &stub, top);
    let up = || metric(&gateway, "upstream_up", &[("upstream", "first")]);
    eventually("the first is ejected", || {
        drop(open(&gateway, "echo.test:7"));
        up() == 0.0
    });
    cutter.set_down(false);
    eventually("the first is back", || up() == 1.0);
    let before = stub.server.counters().connections_opened;
    drop(open(&gateway, "echo.test:7"));
    assert!(cutter.accepted() > 0 && stub.server.counters().connections_opened > before);
    in_process::stop(gateway);
}
