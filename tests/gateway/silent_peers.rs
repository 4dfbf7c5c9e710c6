//! TCP keep-alive on both sides, which detects peers that have vanished.

use crate::support;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use ntlm_gateway::stub::{StubOptions, StubServer};
use support::client::{connect, connect_name};
use support::in_process::{self, ACCOUNT};
use support::scratch::wait_for;
use support::web::Web;

/// How /proc/net/tcp denotes the keep-alive timer, and that no timer runs.
const KEEP_ALIVE_TIMER: u8 = 2;
const NO_TIMER: u8 = 0;

/// How long the keep-alive timer may take to appear: a retransmission timer may come first.
const BOUND: Duration = Duration::from_secs(10);

/// The timer of each connection from `local` to `peer` and the seconds until it fires. Port 0 matches any port.
fn timers(local: u16, peer: u16) -> Vec<(u8, u64)> {
    const HERTZ: u64 = 100;
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table of connections");
    let port = |address: &str| u16::from_str_radix(address.split(':').nth(1)?, 16).ok();
    let timer = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let matches = |wanted: u16, field: usize| port(fields.get(field)?).map(|port| wanted == 0 || wanted == port);
        let established = *fields.get(3)? == "01";
        let (kind, when) = fields.get(5)?.split_once(':')?;
        let when = u64::from_str_radix(when, 16).ok()? / HERTZ;
        (established && matches(local, 1)? && matches(peer, 2)?).then_some((u8::from_str_radix(kind, 16).ok()?, when))
    };
    table.lines().skip(1).filter_map(timer).collect()
}

#[track_caller]
fn assert_probed(local: u16, peer: u16, seconds: std::ops::RangeInclusive<u64>) {
    let probed = |(kind, when): &(u8, u64)| *kind == KEEP_ALIVE_TIMER && seconds.contains(when);
    let all = || Some(timers(local, peer)).filter(|timers| !timers.is_empty() && timers.iter().all(probed));
    assert!(wait_for(BOUND, all).is_some(), "{local} to {peer}: {:?}", timers(local, peer));
}

fn stub() -> StubServer {
    let (domain, user, password) = ACCOUNT;
    StubServer::start(StubOptions::default().account(domain, user, password)).expect("a stub")
}

#[test]
fn tcp_keep_alive_of_all_connections_follows_the_configuration() {
    let (stub, origin) = (stub(), TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port"));
    let origin_address = origin.local_addr().expect("an address");
    let settings = [("timeouts.tcp_idle", "300s"), ("no_proxy", "127.0.0.1"), ("warm", "1")];
    let gateway = in_process::gateway(&stub.address().to_string(), &settings);
    let address = in_process::address(&gateway);
    let tunnels = [connect_name(address, "echo.test:7"), connect(address, origin_address, b"")];
    assert!(tunnels.iter().all(|tunnel| tunnel.as_ref().is_ok_and(|answer| answer.status() == 200)));
    let configured = 280..=300;
    assert_probed(address.port(), 0, configured.clone());
    // These include the pre-challenged connections.
    assert_probed(0, stub.address().port(), configured.clone());
    assert_probed(0, origin_address.port(), configured);
    drop(tunnels);
    in_process::stop(gateway);
}

#[test]
fn idle_keep_alive_connections_are_probed_after_a_minute_by_default() {
    let web = Web::proxy();
    let gateway = in_process::gateway(&web.address().to_string(), &[]);
    let mut client = support::wire::Wire::connect(in_process::address(&gateway));
    assert_eq!(client.ask(web.request("GET", "/headers", "")).expect("an answer").status(), 200);
    assert_probed(in_process::address(&gateway).port(), 0, 45..=60);
    assert_probed(0, web.address().port(), 45..=60);
    in_process::stop(gateway);
}

#[test]
fn no_connection_is_probed_without_an_idle_time() {
    let stub = stub();
    let gateway = in_process::gateway(&stub.address().to_string(), &[("timeouts.tcp_idle", "0s"), ("warm", "0")]);
    let address = in_process::address(&gateway);
    let tunnel = connect_name(address, "echo.test:7").expect("an answer");
    for (local, peer) in [(address.port(), 0), (0, stub.address().port())] {
        let none = || {
            (!timers(local, peer).is_empty() && timers(local, peer).iter().all(|timer| timer.0 == NO_TIMER))
                .then_some(())
        };
        assert!(wait_for(BOUND, none).is_some(), "{:?}", timers(local, peer));
    }
    drop(tunnel);
    in_process::stop(gateway);
}

#[test]
fn the_kernels_table_of_connections_is_parsed_correctly() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address: SocketAddr = listener.local_addr().expect("an address");
    let client = std::net::TcpStream::connect(address).expect("a connection");
    assert_eq!(timers(0, address.port()).len(), 1);
    rustix::net::sockopt::set_socket_keepalive(&client, true).expect("an option");
    rustix::net::sockopt::set_tcp_keepidle(&client, Duration::from_secs(100)).expect("an option");
    assert_probed(0, address.port(), 95..=100);
}
