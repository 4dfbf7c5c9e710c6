//! Idle connections give way when their place is needed, the oldest first, and no other client is affected.

use crate::support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use ntlm_gateway::stub::StubServer;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::client::{Answered, connect_name, echo_through, read_head};
use support::gateway::Gateway;
use support::scratch::wait_for;
use support::vitals::Vitals;

use super::clients::{connect_from, start, start_with_shards, stub};

const BOUND: Duration = Duration::from_secs(60);

/// A request that is not delayed takes milliseconds; a busy machine may need this long.
const PROMPT: Duration = Duration::from_secs(2);

/// How long a new connection may take to send its request before it gives way, and a little more.
const GRACE: Duration = Duration::from_millis(400);

const CONNECT: &[u8] = b"CONNECT echo.test:7 HTTP/1.1\r\nHost: echo.test:7\r\n\r\n";

fn tunnel(gateway: SocketAddr) -> Answered {
    let began = Instant::now();
    let answer = connect_name(gateway, "echo.test:7").expect("an answer");
    assert_eq!(answer.status(), 200, "{}", answer.head);
    assert_eq!(echo_through(&answer.stream, b"prompt").expect("an echo"), b"prompt");
    assert!(began.elapsed() < PROMPT, "{:?}", began.elapsed());
    answer
}

#[track_caller]
fn assert_echoes(tunnels: &[Answered]) {
    for tunnel in tunnels {
        assert_eq!(echo_through(&tunnel.stream, b"still").expect("an echo"), b"still");
    }
}

fn open_at(gateway: &Gateway) -> u64 {
    Vitals::of(gateway.admin_address()).map_or(0, |vitals| vitals.tunnels_open)
}

/// Opens `count` connections that have sent `bytes`.
fn crowd(gateway: SocketAddr, count: usize, bytes: &[u8]) -> Vec<TcpStream> {
    let connect = |_| {
        let mut stream = TcpStream::connect(gateway).expect("a connection");
        // A connection that has given way already refuses it.
        let _ = stream.write_all(bytes);
        stream
    };
    (0..count).map(connect).collect()
}

fn gateway_of(places: usize, further: &[&str]) -> (StubServer, Gateway) {
    let (stub, places) = (stub(), places.to_string());
    let own = ["--max-tunnels", &places, "--head-timeout", "600s", "--keep-alive-timeout", "600s", "--warm", "0"];
    let gateway = start(&stub, &[&own[..], further].concat());
    (stub, gateway)
}

/// Whether this process may have this many descriptors; raises its limit as far as possible.
fn may_have_descriptors(count: u64) -> bool {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.is_none_or(|current| current >= count)
}

#[test]
fn a_request_is_served_beside_10_000_silent_connections_of_one_client() {
    let stub = stub();
    // With fewer descriptors there are fewer places.
    let (count, args): (usize, &[&str]) = match may_have_descriptors(16_000) {
        true => (10_000, &[]),
        false => (600, &["--max-tunnels", "500"]),
    };
    let gateway = start(&stub, args);
    let held: Vec<Answered> = (0..5).map(|_| tunnel(gateway.address())).collect();
    let silent = crowd(gateway.address(), count, b"");
    // A fast machine opens them all within the time that each has for its request.
    std::thread::sleep(GRACE);
    let began = Instant::now();
    drop(tunnel(gateway.address()));
    println!("beside {} silent connections a tunnel and an echo took {:?}", silent.len(), began.elapsed());
    for _ in 0..20 {
        drop(tunnel(gateway.address()));
    }
    assert_echoes(&held);
}

#[test]
fn idle_connections_give_way_and_those_in_use_do_not() {
    let get: &[u8] = b"GET http://source-10.test/ HTTP/1.1\r\nHost: source-10.test\r\n\r\n";
    for (what, bytes) in [
        ("silent", &b""[..]),
        ("one byte", b"G"),
        ("an empty line", b"\r\n"),
        ("half a head", &CONNECT[..30]),
        ("at rest", get),
    ] {
        let (_stub, gateway) = gateway_of(60, &[]);
        let held: Vec<Answered> = (0..10).map(|_| tunnel(gateway.address())).collect();
        let mut idle = crowd(gateway.address(), 200, bytes);
        if bytes == get {
            // Until their responses arrive they are in use, and those over the limit are rejected.
            idle.iter_mut().for_each(|stream| drop(read_head(stream)));
        }
        std::thread::sleep(GRACE);
        for _ in 0..20 {
            drop(tunnel(gateway.address()));
        }
        assert_echoes(&held);
        // Rejected connections remain for a moment.
        assert!(open_at(&gateway) <= 60 + 128, "{what}: {} are open", open_at(&gateway));
        drop(idle);
    }
}

#[test]
fn the_oldest_connection_gives_way_first_and_a_begun_request_gets_503() {
    let stub = stub();
    let gateway = start_with_shards("1", &stub, &["--max-tunnels", "4", "--head-timeout", "600s", "--warm", "0"]);
    let mut oldest = crowd(gateway.address(), 1, &CONNECT[..20]).remove(0);
    let all_in = |count| wait_for(BOUND, || (open_at(&gateway) == count).then_some(())).expect("all are open");
    all_in(1);
    let mut others = crowd(gateway.address(), 3, b"");
    all_in(4);
    std::thread::sleep(GRACE);
    drop(tunnel(gateway.address()));
    oldest.set_read_timeout(Some(BOUND)).expect("a time-out");
    let head = read_head(&mut oldest).expect("an answer");
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("give way to new ones"), "{head}");
    // The others can still send a request.
    for stream in &mut others {
        stream.set_read_timeout(Some(BOUND)).expect("a time-out");
        stream.write_all(CONNECT).expect("a request");
        let head = read_head(stream).expect("an answer");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    }
    assert_eq!(gateway.metric("ntlm_gateway_tunnels_closed_total", &[("cause", "gave_way")]), Some(1.0));
    gateway.wait_for_line("idle connections give way to new ones");
}

#[test]
fn without_idle_connections_the_limit_is_exact() {
    let (_stub, gateway) = gateway_of(20, &[]);
    let held: Vec<Answered> = (0..20).map(|_| tunnel(gateway.address())).collect();
    for _ in 0..10 {
        let answer = connect_name(gateway.address(), "echo.test:7").expect("an answer");
        assert_eq!(answer.status(), 503, "{}", answer.head);
    }
    assert_echoes(&held);
}

#[test]
fn only_a_clients_own_idle_connections_give_way_to_it() {
    let further = ["--allow-clients", "127.0.0.0/8", "--tunnels-per-client", "20"];
    let (_stub, gateway) = gateway_of(500, &further);
    let (greedy, modest) = (Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3));
    let silent_of = |source| connect_from(source, gateway.address()).expect("a connection");
    let mut quiet: Vec<TcpStream> = (0..5).map(|_| silent_of(modest)).collect();
    let _crowd: Vec<TcpStream> = (0..200).map(|_| silent_of(greedy)).collect();
    std::thread::sleep(GRACE);
    for _ in 0..30 {
        let began = Instant::now();
        let mut stream = silent_of(greedy);
        stream.write_all(CONNECT).expect("a request");
        let head = read_head(&mut stream).expect("an answer");
        assert!(head.starts_with("HTTP/1.1 200 ") && began.elapsed() < PROMPT, "{head} {:?}", began.elapsed());
    }
    for stream in &mut quiet {
        stream.write_all(CONNECT).expect("a request");
        let head = read_head(stream).expect("an answer");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    }
}

#[test]
fn disallowed_clients_that_wait_do_not_keep_others_out() {
    let (_stub, gateway) = gateway_of(50, &["--allow-clients", "127.0.0.1/32"]);
    let other = Ipv4Addr::new(127, 0, 0, 2);
    for bytes in [&b""[..], b"GET", CONNECT] {
        let crowd: Vec<TcpStream> = (0..600)
            .map(|_| {
                let mut stream = connect_from(other, gateway.address()).expect("a connection");
                let _ = stream.write_all(bytes);
                stream
            })
            .collect();
        for _ in 0..10 {
            drop(tunnel(gateway.address()));
        }
        drop(crowd);
    }
    // A complete request from one of them gets the reason.
    let mut stream = connect_from(other, gateway.address()).expect("a connection");
    stream.write_all(CONNECT).expect("a request");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 403");
}
