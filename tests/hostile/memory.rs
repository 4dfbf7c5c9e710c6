//! How much memory a connection costs by what is done to it, and the limit on the total.

use crate::support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{set_socket_linger, set_socket_recv_buffer_size, set_socket_send_buffer_size};
use rustix::net::{AddressFamily, SocketType};
use support::client::{ask, read_head};
use support::gateway::{Gateway, GatewayOptions};
use support::listener::Listener;
use support::metrics;
use support::scratch::wait_for;
use support::vitals::get;

use super::clients::stub;

const BOUND: Duration = Duration::from_secs(60);

/// Connections of each kind.
const COUNT: usize = 1000;

/// A head with a field of this many bytes, without its end.
fn long_head(bytes: usize) -> String {
    format!("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nX: {}\r\n", "x".repeat(bytes))
}

fn start(upstream: SocketAddr, args: &[&str]) -> Gateway {
    let mut options = GatewayOptions::through(upstream);
    options.args =
        ["--shards", "2", "--socket-buffer", "16KiB"].iter().chain(args).map(|arg| (*arg).to_owned()).collect();
    options.env = vec![("RUST_LOG".into(), "info,access=off".into())];
    Gateway::start(&options)
}

/// A client with a small receive buffer.
fn narrow_client(gateway: SocketAddr) -> TcpStream {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    set_socket_recv_buffer_size(&socket, 4096).expect("an option");
    rustix::net::connect(&socket, &gateway).expect("a connection");
    let stream = TcpStream::from(socket);
    stream.set_write_timeout(Some(Duration::from_millis(50))).expect("a time-out");
    stream
}

/// A client that only closes would leave the gateway waiting for the outcome of its request.
fn reset_on_close(stream: &TcpStream) {
    set_socket_linger(stream, Some(Duration::ZERO)).expect("an option");
}

fn buffered(gateway: &Gateway) -> f64 {
    let (_, text) = get(gateway.admin_address(), "/metrics", BOUND).expect("metrics");
    metrics::sum(&text, "ntlm_gateway_buffered_bytes", &[]).expect("the gauge")
}

/// Opens the connections and returns what each of them costs in KiB, resident and as counted.
fn cost_kib(what: &str, upstream: &Listener, request: &str, is_answered: bool) -> f64 {
    let args = ["--memory-limit", "0B", "--head-timeout", "600s", "--no-proxy", "127.0.0.1"];
    let gateway = start(upstream.address(), &args);
    let (before, _) = gateway.memory_kib();
    let connect = |_| {
        let mut stream = narrow_client(gateway.address());
        // Whatever does not fit into the connection, the gateway has left unread.
        let _ = stream.write(request.as_bytes());
        stream
    };
    let held: Vec<TcpStream> = (0..COUNT).map(connect).collect();
    held.iter().for_each(reset_on_close);
    // The response has begun; what the client has no room for is still in the gateway.
    let begun = || held.iter().all(|stream| !is_answered || stream.peek(&mut [0]).is_ok_and(|count| count > 0));
    wait_for(BOUND, || begun().then_some(())).expect("answers");
    let mut last = (0, Instant::now());
    let at_rest = wait_for(BOUND, || {
        let (now, _) = gateway.memory_kib();
        if now.abs_diff(last.0) > 512 {
            last = (now, Instant::now());
        }
        (last.1.elapsed() > Duration::from_secs(1)).then_some(now)
    });
    #[allow(clippy::cast_precision_loss, reason = "thousands of KiB")]
    let each = (at_rest.expect("memory use settles") - before.min(last.0)) as f64 / COUNT as f64;
    let counted = buffered(&gateway) / 1024.0 / COUNT as f64;
    println!("{what}: {each:.1} KiB a connection, {counted:.1} KiB of them counted");
    // Memory that has not been touched is counted but not resident.
    assert!(counted <= 1.25 * each + 8.0, "{what}: {counted} KiB counted of {each}");
    drop(held);
    wait_for(BOUND, || (buffered(&gateway) < 1.0).then_some(())).expect("all memory is released");
    each
}

/// Reads everything and never responds.
fn mute() -> Listener {
    Listener::start(|mut stream| {
        let mut piece = [0; 4096];
        while stream.read(&mut piece).is_ok_and(|count| count > 0) {}
    })
}

/// Responds to a head, once or endlessly, as long as the peer accepts it.
fn answering(answer: Vec<u8>, without_end: bool) -> Listener {
    Listener::start(move |mut stream| {
        set_socket_send_buffer_size(&stream, 16 * 1024).expect("an option");
        let _ = read_head(&mut stream);
        while stream.write_all(&answer).is_ok() && without_end {}
        let mut piece = [0; 4096];
        while stream.read(&mut piece).is_ok_and(|count| count > 0) {}
    })
}

#[test]
fn a_connection_costs_the_documented_memory_in_each_state() {
    let head = long_head(60_000);
    let finished = format!("{head}\r\n");
    let to = |upstream: &Listener| format!("GET http://{0}/ HTTP/1.1\r\nHost: {0}\r\n\r\n", upstream.address());
    let body = [&b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n"[..], &[b'x'; 60_000]].concat();
    let interim = format!("HTTP/1.1 103 Early Hints\r\nX: {}\r\n\r\n", "x".repeat(60_000)).into_bytes();
    let (with_body, with_interim) = (answering(body, true), answering(interim, false));
    for (what, upstream, request, is_answered, at_most) in [
        ("silent", &mute(), String::new(), false, 4.0),
        ("an unfinished head", &mute(), head, false, 80.0),
        ("a finished head before a slow proxy", &mute(), finished, false, 80.0),
        ("an unread answer with pipelined requests", &with_body, to(&with_body).repeat(1000), true, 110.0),
        ("an unread interim answer", &with_interim, to(&with_interim), true, 110.0),
    ] {
        let each = cost_kib(what, upstream, &request, is_answered);
        assert!(each <= at_most, "{what}: {each} KiB");
    }
}

#[test]
fn unfinished_heads_give_way_at_the_memory_limit_and_requests_are_served() {
    let stub = stub();
    let gateway = start(stub.address(), &["--memory-limit", "8MiB", "--head-timeout", "600s"]);
    let head = long_head(60_000);
    let crowd: Vec<TcpStream> = (0..600)
        .map(|_| {
            let mut stream = TcpStream::connect(gateway.address()).expect("a connection");
            // A connection that has given way already refuses it.
            let _ = stream.write_all(head.as_bytes());
            stream
        })
        .collect();
    let request = b"CONNECT echo.test:7 HTTP/1.1\r\nHost: echo.test:7\r\n\r\n";
    wait_for(BOUND, || (buffered(&gateway) <= 7.0 * 1024.0 * 1024.0).then_some(())).expect("memory is freed");
    for _ in 0..20 {
        let answer = ask(gateway.address(), request).expect("an answer");
        assert_eq!(answer.status(), 200, "{}", answer.head);
    }
    let (_, highest) = gateway.memory_kib();
    println!("{} heads of 60 KB at a limit of 8 MiB: {highest} KiB resident at most", crowd.len());
    assert!(highest < 40 * 1024, "{highest} KiB");
}

#[test]
fn at_the_memory_limit_new_requests_get_503_until_others_end() {
    let upstream = mute();
    let gateway = start(upstream.address(), &["--memory-limit", "4MiB", "--connect-timeout", "30s"]);
    // Each arrives complete in one read.
    let head = format!("{}\r\n", long_head(10_000));
    let started: Vec<TcpStream> = (0..600)
        .map(|_| {
            let mut stream = TcpStream::connect(gateway.address()).expect("a connection");
            let _ = stream.write_all(head.as_bytes());
            stream
        })
        .collect();
    let refused = || {
        let answer = ask(gateway.address(), b"CONNECT b.test:7 HTTP/1.1\r\nHost: b.test:7\r\n\r\n").expect("an answer");
        let why = answer.field("proxy-status").unwrap_or_default().to_owned();
        (answer.status() == 503 && why.contains("limits.memory") && answer.field("retry-after").is_some()).then_some(())
    };
    wait_for(BOUND, || (buffered(&gateway) >= 4.0 * 1024.0 * 1024.0).then_some(())).expect("the limit is reached");
    refused().expect("503 at the limit");
    assert!(gateway.metric("ntlm_gateway_faults_total", &[("cause", "memory_limit")]).is_some_and(|count| count > 0.0));
    started.iter().for_each(reset_on_close);
    drop(started);
    wait_for(BOUND, || (buffered(&gateway) < 1024.0 * 1024.0).then_some(())).expect("all memory is released");
}
