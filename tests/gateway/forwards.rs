//! Listeners with a fixed target: each connection becomes a tunnel to it at once.

use crate::support;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use ntlm_gateway::gateway::Gateway;
use support::client::{dial, echo_through};
use support::gateway::{Gateway as GatewayProcess, GatewayOptions};
use support::in_process::{self, metric, stub_with_ci};
use support::listener::Refusing;
use support::scratch::Scratch;
use support::socks::read_bytes;

const GREETING: &[u8] = b"220 greet ready\r\n";

/// A gateway with a listener for each target, with further lines of the listener, behind `listen`.
fn forwarding(upstream: SocketAddr, top: &str, listeners: &[(&str, &str)], tables: &str) -> Gateway {
    // Identities are found by the configured address, so each listener has another one.
    let entry = |(number, (target, further)): (usize, &(&str, &str))| {
        format!("[[listeners]]\naddress = '127.0.0.{}:0'\ntarget = '{target}'\n{further}\n", number + 2)
    };
    let entries: String = listeners.iter().enumerate().map(entry).collect();
    in_process::gateway_of(&format!(
        "upstream = '{upstream}'\nuser = 'CORP\\alice'\nwarm = 0\n{top}\n{entries}{tables}"
    ))
}

fn to(gateway: &Gateway, listener: usize) -> TcpStream {
    dial(gateway.listening()[listener]).expect("a connection")
}

#[track_caller]
fn expect_reset(address: SocketAddr) {
    // The kernel may report the reset as early as to the connect.
    let use_it = |mut stream: TcpStream| stream.write_all(b"x").err().or_else(|| stream.read(&mut [0; 64]).err());
    let error = dial(address).map_or_else(Some, use_it).expect("a reset");
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
}

#[test]
fn a_forward_carries_bytes_whichever_side_speaks_first() {
    let stub = stub_with_ci();
    let gateway = forwarding(stub.address(), "", &[("greet.test:25", ""), ("echo.test:7", "")], "");
    let mut server_first = to(&gateway, 1);
    assert_eq!(read_bytes(&mut server_first, GREETING.len()).expect("a greeting"), GREETING);
    assert_eq!(echo_through(&server_first, b"EHLO there\r\n").expect("an echo"), b"EHLO there\r\n");
    // Bytes that look like one of the protocols are carried like all others.
    for first in [&b"\x05\x01\x00"[..], b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b"\0"] {
        assert_eq!(echo_through(&to(&gateway, 2), first).expect("an echo"), first);
    }
    let mut half = to(&gateway, 2);
    half.write_all(b"the last bytes").expect("bytes");
    half.shutdown(std::net::Shutdown::Write).expect("a half-close");
    let mut back = Vec::new();
    half.read_to_end(&mut back).expect("the echo and the end");
    assert_eq!(back, b"the last bytes");
    let served = [("protocol", "forward"), ("kind", "connect"), ("status", "2xx")];
    assert_eq!(metric(&gateway, "requests_total", &served), 6.0);
    assert_eq!((stub.counters().accepted, stub.counters().protocol_errors()), (6, 0));
    in_process::stop(gateway);
}

#[test]
fn a_forward_that_fails_is_a_reset_and_a_log_line() {
    let refusing = Refusing::new();
    let scratch = Scratch::new("forward");
    let file = scratch.write("gateway.toml", "[[listeners]]\naddress = '127.0.0.1:0'\ntarget = 'db.test:5432'\n");
    let mut options = GatewayOptions::through(refusing.address);
    options.args = vec!["--config".into(), file.display().to_string()];
    let gateway = GatewayProcess::start(&options);
    gateway.wait_for_line("admin on");
    let second = gateway.log().into_iter().filter(|line| line.contains("listening on")).nth(1).expect("its line");
    let address = second.rsplit("listening on ").next().and_then(|rest| rest.split(' ').next()?.parse().ok());
    expect_reset(address.expect("an address"));
    let line = gateway.wait_for_line("protocol=forward");
    for part in ["target=db.test:5432", "destination_source=listener", "status=502", "end=connect_refused"] {
        assert!(line.contains(part), "{line}");
    }
    let faults = [("protocol", "forward"), ("cause", "connect_refused")];
    assert_eq!(gateway.metric("ntlm_gateway_faults_total", &faults), Some(1.0));
    let answered = [("protocol", "forward"), ("status", "5xx")];
    assert_eq!(gateway.metric("ntlm_gateway_requests_total", &answered), Some(1.0));
}

#[test]
fn routes_metadata_protection_and_client_rules_hold_for_forwards() {
    let stub = stub_with_ci();
    let targets = [("echo.denied.test:7", ""), ("169.254.169.254:80", ""), ("echo.test:7", ""), ("nowhere.test:7", "")];
    let routes = "[[routes]]\nhost = '.denied.test'\nto = 'deny'\n";
    let gateway = forwarding(stub.address(), "", &targets, routes);
    expect_reset(gateway.listening()[1]);
    expect_reset(gateway.listening()[2]);
    assert_eq!(stub.counters().requests, 0);
    assert_eq!(metric(&gateway, "faults_total", &[("cause", "destination_denied"), ("protocol", "forward")]), 2.0);
    assert_eq!(echo_through(&to(&gateway, 3), b"served").expect("an echo"), b"served");
    // The upstream's own refusal is not the origin's data.
    expect_reset(gateway.listening()[4]);
    in_process::stop(gateway);

    let gateway = forwarding(stub.address(), "allow_clients = ['192.0.2.0/24']", &[("echo.test:7", "")], "");
    expect_reset(gateway.listening()[1]);
    assert_eq!(metric(&gateway, "faults_total", &[("cause", "client_not_allowed"), ("protocol", "forward")]), 1.0);
    in_process::stop(gateway);
}

#[test]
fn a_listener_can_have_an_identity_of_its_own() {
    let (stub, scratch) = (stub_with_ci(), Scratch::new("forward"));
    let identity = format!(
        "[[identities]]\nname = 'ci'\nuser = 'CORP\\ci'\npassword_file = '{}'\n",
        scratch.write("ci", "ci-Secr3t\n").display()
    );
    let listeners = [("echo.test:7", "identity = 'ci'"), ("echo.test:7", "identity = 'default'")];
    let gateway = forwarding(stub.address(), "", &listeners, &identity);
    let authenticates =
        || ["default", "ci"].map(|name| metric(&gateway, "authenticate_messages_total", &[("identity", name)]));
    assert_eq!(echo_through(&to(&gateway, 1), b"as ci").expect("an echo"), b"as ci");
    assert_eq!(authenticates(), [0.0, 1.0]);
    assert_eq!(echo_through(&to(&gateway, 2), b"as alice").expect("an echo"), b"as alice");
    assert_eq!(authenticates(), [1.0, 1.0]);
    in_process::stop(gateway);
}
