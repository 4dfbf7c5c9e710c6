//! Clients that mean harm: slow, silent, greedy, disconnecting, or after something that is not theirs. The gateway goes
//! on serving others, and its health and metrics respond.

use crate::support;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ntlm_gateway::stub::{StubOptions, StubServer};
use rustix::net::sockopt::{set_socket_linger, set_socket_recv_buffer_size, set_socket_send_buffer_size};
use rustix::net::{AddressFamily, SocketType};
use support::bytes::{assert_same, pseudo_random};
use support::client::{Answered, ask, connect_name, echo_through, read_head};
use support::gateway::{Gateway, GatewayOptions};
use support::in_process::ACCOUNT;
use support::listener::Listener;
use support::scratch::{Scratch, wait_for};
use support::tools::skip_without_mounts;
use support::vitals::{Vitals, assert_nothing_leaked, watch};

const BOUND: Duration = Duration::from_secs(60);

/// The longest that a health probe may take during an attack, on a machine that is busy with other tests.
const HEALTH_P99: Duration = Duration::from_secs(2);

const CONNECT: &str = "CONNECT echo.test:7 HTTP/1.1\r\nHost: echo.test:7\r\n\r\n";

/// Descriptors of the empty pipes that two shards keep, two each.
const PIPES_KEPT: u64 = 2 * 8 * 2;

pub fn stub() -> StubServer {
    let (domain, user, password) = ACCOUNT;
    StubServer::start(StubOptions::default().account(domain, user, password)).expect("a stub")
}

pub fn start(stub: &StubServer, args: &[&str]) -> Gateway {
    start_with_shards("2", stub, args)
}

pub fn start_with_shards(shards: &str, stub: &StubServer, args: &[&str]) -> Gateway {
    let mut options = GatewayOptions::through(stub.address());
    options.args = ["--shards", shards].iter().chain(args).map(|arg| (*arg).to_owned()).collect();
    options.env = vec![("RUST_LOG".into(), "info,access=off".into())];
    let gateway = Gateway::start(&options);
    assert_flows(&gateway);
    gateway
}

#[track_caller]
fn assert_flows(gateway: &Gateway) {
    let tunnel = wait_for(BOUND, || good_tunnel(gateway.address())).expect("a tunnel");
    assert_same(&echo_through(&tunnel.stream, b"flows").expect("an echo"), b"flows", "the echo");
}

fn good_tunnel(gateway: SocketAddr) -> Option<Answered> {
    connect_name(gateway, "echo.test:7").ok().filter(|answer| answer.status() == 200)
}

/// Connects from a source address that the caller chooses.
pub fn connect_from(source: Ipv4Addr, gateway: SocketAddr) -> io::Result<TcpStream> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    rustix::net::bind(&socket, &SocketAddr::from((source, 0)))?;
    rustix::net::connect(&socket, &gateway)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(BOUND))?;
    stream.set_write_timeout(Some(BOUND))?;
    Ok(stream)
}

/// Runs `harm` while well-behaved clients are served one after the other and health and metrics are polled. Afterwards
/// no resources are leaked.
pub fn meanwhile<T>(what: &str, gateway: &mut Gateway, harm: impl FnOnce(&Gateway) -> T) -> T {
    let before = Vitals::of(gateway.admin_address()).expect("metrics");
    let (over, served, slowest) = (AtomicBool::new(false), AtomicUsize::new(0), Mutex::new(Duration::ZERO));
    let admin = gateway.admin_address();
    let result = std::thread::scope(|scope| {
        let health = scope.spawn(|| watch(admin, "/healthz", &over));
        let metrics = scope.spawn(|| watch(admin, "/metrics", &over));
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let began = Instant::now();
                let tunnel = good_tunnel(gateway.address()).expect("a good client's tunnel");
                assert_eq!(echo_through(&tunnel.stream, b"good").expect("a good client's echo"), b"good");
                served.fetch_add(1, Ordering::Relaxed);
                let mut slowest = slowest.lock().expect("a lock");
                *slowest = began.elapsed().max(*slowest);
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| harm(gateway)));
        over.store(true, Ordering::Relaxed);
        let (health, metrics) = (health.join().expect("health"), metrics.join().expect("metrics"));
        println!(
            "{what}: /healthz p99 {:?} of {}, /metrics p99 {:?} of {}, good clients {}, the slowest {:?}",
            health.p99(),
            health.took.len(),
            metrics.p99(),
            metrics.took.len(),
            served.load(Ordering::Relaxed),
            slowest.lock().expect("a lock")
        );
        assert_eq!((&health.failed, &metrics.failed), (&vec![], &vec![]), "{what}");
        assert!(health.p99() < HEALTH_P99, "{what}: {:?}", health.p99());
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    assert!(gateway.is_running());
    assert!(served.load(Ordering::Relaxed) > 0, "{what}: no good client was served");
    assert_flows(gateway);
    assert_nothing_leaked(gateway.admin_address(), before, PIPES_KEPT);
    result
}

/// The status of the response, or how the connection ended without one.
fn end_of(stream: &mut TcpStream) -> String {
    let _ = stream.set_read_timeout(Some(BOUND));
    match read_head(stream) {
        Ok(head) => head.split(' ').nth(1).unwrap_or("?").to_owned(),
        Err(error) => format!("{:?}", error.kind()),
    }
}

#[test]
fn heads_and_bodies_sent_byte_by_byte_time_out() {
    let stub = stub();
    // After its client is gone, the gateway waits for the outcome of an authentication as long as a handshake may take.
    let timeouts = ["--head-timeout", "1500ms", "--body-timeout", "1500ms", "--handshake-timeout", "15s"];
    let mut gateway = start(&stub, &timeouts);
    let ends = meanwhile("slow heads and bodies", &mut gateway, |gateway| {
        let head = CONNECT.as_bytes();
        let post = b"POST http://sink.test/ HTTP/1.1\r\nHost: sink.test\r\nContent-Length: 100000\r\n\r\n";
        let mut slow: Vec<(TcpStream, Vec<u8>)> = Vec::new();
        for number in 0..200 {
            let mut stream = TcpStream::connect(gateway.address()).expect("a connection");
            stream.set_nodelay(true).expect("an option");
            let rest = if number % 2 == 0 { head.to_vec() } else { vec![b'x'; 1000] };
            if number % 2 == 1 {
                stream.write_all(post).expect("a head");
            }
            slow.push((stream, rest));
        }
        let began = Instant::now();
        let mut sent = 0;
        // Faster than a byte a second, but never a whole head or 4 KiB within the time.
        while began.elapsed() < Duration::from_secs(5) {
            for (stream, rest) in &mut slow {
                // The gateway has closed some of them; those refuse the byte.
                let _ = stream.write(&rest[sent..=sent]);
            }
            sent = (sent + 1).min(head.len() - 5);
            std::thread::sleep(Duration::from_millis(100));
        }
        let mut ends = BTreeMap::<String, usize>::new();
        slow.iter_mut().for_each(|(stream, _)| *ends.entry(end_of(stream)).or_default() += 1);
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
        ends
    });
    println!("{ends:?}");
    // A client that goes on sending after the response may lose it to a reset.
    assert!(ends.keys().all(|end| ["408", "ConnectionReset", "UnexpectedEof"].contains(&end.as_str())), "{ends:?}");
}

/// Silent connections from 100 addresses, which stay until the gateway closes them.
fn silent_crowd(count: usize, args: &[&str]) {
    let stub = stub();
    let mut gateway = start(&stub, args);
    meanwhile(&format!("{count} silent connections"), &mut gateway, |gateway| {
        let began = Instant::now();
        let source = |number: usize| Ipv4Addr::new(127, 0, 1, u8::try_from(number % 100 + 1).expect("below 101"));
        let crowd: Vec<TcpStream> =
            (0..count).map(|number| connect_from(source(number), gateway.address()).expect("a connection")).collect();
        let opened = began.elapsed();
        let open = || Vitals::of(gateway.admin_address()).map_or(0, |vitals| vitals.tunnels_open);
        let all = u64::try_from(count).expect("a count");
        assert!(wait_for(BOUND, || (open() >= all).then_some(())).is_some(), "{} are open", open());
        let vitals = Vitals::of(gateway.admin_address()).expect("metrics");
        println!("opened in {opened:?}: {vitals:?}");
        std::thread::sleep(Duration::from_secs(2));
        drop(crowd);
    });
}

#[test]
fn fifteen_hundred_silent_connections_delay_no_other_client() {
    silent_crowd(1_500, &[]);
}

#[test]
#[ignore = "it needs nearly all descriptors that two processes have; tests/long runs it"]
fn nine_and_a_half_thousand_silent_connections_delay_no_other_client() {
    silent_crowd(9_500, &[]);
}

#[test]
fn ten_times_more_clients_than_places_get_in_as_places_become_free() {
    let stub = stub();
    let mut gateway = start(&stub, &["--max-tunnels", "200", "--head-timeout", "1s"]);
    let before = Vitals::of(gateway.admin_address()).expect("metrics");
    let crowd: Vec<TcpStream> =
        (0..2_000).map(|_| TcpStream::connect(gateway.address()).expect("a place in the queue")).collect();
    let vitals = Vitals::of(gateway.admin_address()).expect("metrics");
    assert!(vitals.tunnels_open <= 200 + 128 + 1, "{vitals:?}");
    // A well-behaved client queues behind them all and gets its turn: 2,000 at 328 a second.
    let began = Instant::now();
    assert_flows(&gateway);
    println!("it was served after {:?}", began.elapsed());
    drop(crowd);
    assert!(gateway.is_running());
    assert_nothing_leaked(gateway.admin_address(), before, PIPES_KEPT);
}

#[test]
fn a_flood_of_malformed_heads_gets_400s_and_delays_no_other_client() {
    let stub = stub();
    let mut gateway = start(&stub, &[]);
    let opened_before = stub.counters().requests;
    let statuses = meanwhile("malformed heads", &mut gateway, |gateway| {
        let statuses = Mutex::new(BTreeMap::<String, usize>::new());
        let until = Instant::now() + Duration::from_secs(3);
        std::thread::scope(|scope| {
            for seed in 0..4_u64 {
                let statuses = &statuses;
                scope.spawn(move || {
                    let mut round = seed << 32;
                    while Instant::now() < until {
                        round += 1;
                        let mut noise = pseudo_random(round, 200);
                        // What begins like SOCKS has no status.
                        noise[0] |= 0x80;
                        let head = match round % 5 {
                            0 => [&noise, b"\r\n\r\n".as_slice()].concat(),
                            1 => b"CONNECT  echo.test:7 HTTP/1.1\r\n\r\n".to_vec(),
                            2 => [&CONNECT.as_bytes()[..20], noise.as_slice(), b"\r\n\r\n"].concat(),
                            3 => b"\r\n\r\n\r\nGET\r\n\r\n".to_vec(),
                            _ => b"CONNECT echo.test:7 HTTP/1.1\r\nA: b\r\n c\r\n\r\n".to_vec(),
                        };
                        let Ok(mut stream) = TcpStream::connect(gateway.address()) else { continue };
                        let _ = stream.write_all(&head);
                        let end = end_of(&mut stream);
                        *statuses.lock().expect("a lock").entry(end).or_default() += 1;
                    }
                });
            }
        });
        statuses.into_inner().expect("a lock")
    });
    println!("{statuses:?}");
    assert!(statuses.keys().all(|status| ["400", "501", "505"].contains(&status.as_str())), "{statuses:?}");
    assert!(stub.counters().malformed == 0 && stub.counters().requests > opened_before, "{}", stub.counters());
}

#[test]
fn clients_that_never_read_use_bounded_memory_and_delay_no_other_client() {
    let stub = stub();
    let mut gateway = start(&stub, &["--idle-timeout", "2s", "--body-timeout", "2s"]);
    let rss_before = Vitals::of(gateway.admin_address()).expect("metrics").rss_kib;
    meanwhile("clients that never read", &mut gateway, |gateway| {
        let requests = [
            "CONNECT stream.test:7 HTTP/1.1\r\nHost: stream.test:7\r\n\r\n",
            "GET http://source-500000000.test/ HTTP/1.1\r\nHost: source-500000000.test\r\n\r\n",
        ];
        let ask = |number: usize| {
            let mut stream = TcpStream::connect(gateway.address()).expect("a connection");
            stream.write_all(requests[number % 2].as_bytes()).expect("a request");
            stream
        };
        let held: Vec<TcpStream> = (0..100).map(ask).collect();
        std::thread::sleep(Duration::from_secs(1));
        let rss = Vitals::of(gateway.admin_address()).expect("metrics").rss_kib;
        assert!(rss < rss_before + 100 * 200, "from {rss_before} to {rss} KiB");
        // The gateway closes them: nothing moves in either direction.
        let open = || Vitals::of(gateway.admin_address()).map_or(u64::MAX, |vitals| vitals.tunnels_open);
        assert!(wait_for(BOUND, || (open() < 10).then_some(())).is_some(), "{} are still open", open());
        drop(held);
    });
}

/// How many bytes an origin can write to a client that never reads.
fn bytes_written_to_a_client_that_never_reads(args: &[&str]) -> usize {
    let written = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&written);
    let origin = Listener::start(move |mut stream| {
        set_socket_send_buffer_size(&stream, 16 * 1024).expect("an option");
        let piece = [0; 4096];
        while let Ok(count @ 1..) = stream.write(&piece) {
            counter.fetch_add(count, Ordering::SeqCst);
        }
    });
    let stub = stub();
    let gateway = start(&stub, &[&["--no-proxy", "127.0.0.1", "--pipes-per-shard", "0"], args].concat());
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    set_socket_recv_buffer_size(&socket, 16 * 1024).expect("an option");
    rustix::net::connect(&socket, &gateway.address()).expect("a connection");
    let mut client = TcpStream::from(socket);
    let origin_address = origin.address();
    write!(client, "CONNECT {origin_address} HTTP/1.1\r\nHost: {origin_address}\r\n\r\n").expect("a request");
    let mut seen = (0, Instant::now());
    let stalled_at = wait_for(BOUND, || {
        let now = written.load(Ordering::SeqCst);
        if now != seen.0 {
            seen = (now, Instant::now());
        }
        (now > 0 && seen.1.elapsed() > Duration::from_secs(1)).then_some(now)
    });
    drop(client);
    stalled_at.expect("the writes stop")
}

#[test]
fn kernel_buffers_for_a_client_that_never_reads_can_be_bounded() {
    let unbounded = bytes_written_to_a_client_that_never_reads(&[]);
    let bounded = bytes_written_to_a_client_that_never_reads(&["--socket-buffer", "64KiB"]);
    println!("buffered: {unbounded} bytes by default, {bounded} bytes with 64 KiB a socket");
    // Twice that for each of two sockets, plus what the origin, the client and the shard hold.
    assert!(bounded < 700_000 && bounded < unbounded / 2, "{bounded} bytes of {unbounded}");
}

#[test]
fn clients_that_disconnect_at_any_byte_of_any_stage_leak_nothing() {
    let stub = stub();
    let mut gateway = start(&stub, &[]);
    meanwhile("clients that go away", &mut gateway, |gateway| {
        let get = b"GET http://source-300000.test/ HTTP/1.1\r\nHost: source-300000.test\r\n\r\n".as_slice();
        for head in [CONNECT.as_bytes(), get] {
            for cut in 0..=head.len() {
                for by_reset in [false, true] {
                    let mut stream = TcpStream::connect(gateway.address()).expect("a connection");
                    stream.write_all(&head[..cut]).expect("a part of a head");
                    if by_reset {
                        set_socket_linger(&stream, Some(Duration::ZERO)).expect("an option");
                    }
                }
            }
        }
        // During the handshake, at the 200, and amid bytes in both directions.
        for round in 0..150_u64 {
            let mut stream = TcpStream::connect(gateway.address()).expect("a connection");
            stream.set_read_timeout(Some(BOUND)).expect("a time-out");
            let stage = round % 3;
            let head = if stage == 2 { CONNECT.replace("echo", "stream") } else { CONNECT.into() };
            stream.write_all(head.as_bytes()).expect("a head");
            if stage == 0 {
                std::thread::sleep(Duration::from_micros(round * 20));
            } else {
                let head = read_head(&mut stream).expect("an answer");
                assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            }
            if stage == 2 {
                stream.read_exact(&mut vec![0; 100_000]).expect("some bytes");
            }
            match round / 3 % 3 {
                0 => set_socket_linger(&stream, Some(Duration::ZERO)).expect("an option"),
                1 => stream.shutdown(Shutdown::Write).expect("a half-close"),
                _ => {}
            }
        }
    });
    assert_eq!(stub.counters().protocol_errors(), 0, "{}", stub.counters());
}

/// The error that the gateway names in its response.
fn reported_error(answer: &Answered) -> (u16, String) {
    (answer.status(), answer.field("proxy-status").unwrap_or_default().to_owned())
}

#[track_caller]
fn assert_denied(gateway: SocketAddr, target: &str) {
    let connect = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    let get = format!("GET http://{target}/latest/meta-data/ HTTP/1.1\r\nHost: {target}\r\n\r\n");
    for request in [connect, get] {
        let (status, why) = reported_error(&ask(gateway, request.as_bytes()).expect("an answer"));
        assert!(status == 403 && why.contains("error=http_request_denied"), "{request}: {status} {why}");
    }
}

#[test]
fn a_direct_route_never_leads_back_into_the_gateway_under_any_name() {
    let stub = stub();
    let mut options = GatewayOptions::through(stub.address());
    options.listen = "0.0.0.0:0".parse().expect("an address");
    let everywhere =
        ["--allow-clients", "127.0.0.0/8", "--no-proxy", "127.0.0.0/8,0.0.0.0,localhost,::1,::ffff:127.0.0.1"];
    options.args = everywhere.map(String::from).into();
    let gateway = Gateway::start(&options);
    let (port, admin) = (gateway.address().port(), gateway.admin_address().port());
    let door = SocketAddr::from(([127, 0, 0, 1], port));
    for host in ["127.0.0.1", "127.0.0.2", "127.255.255.254", "localhost", "0.0.0.0", "[::ffff:127.0.0.1]"] {
        assert_denied(door, &format!("{host}:{port}"));
    }
    for host in ["127.0.0.1", "localhost", "0.0.0.0", "[::ffff:127.0.0.1]"] {
        assert_denied(door, &format!("{host}:{admin}"));
    }
    // Another service on this machine is reachable.
    let other = Listener::start(|mut stream| drop(stream.write_all(b"other")));
    let mut answer = connect_name(door, &other.address().to_string()).expect("an answer");
    let mut said = [0; 5];
    answer.stream.read_exact(&mut said).expect("its bytes");
    assert_eq!((answer.status(), &said), (200, b"other"));
}

/// Each address at which clouds serve credentials, in each way to write an IPv4 address within IPv6.
const METADATA: [&str; 24] = [
    "169.254.169.254",
    "169.254.170.2",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "[fe80::a9fe:a9fe]",
    "[fd00:ec2::254]",
    "[fd00:ec2::23]",
    "[fd00:ec2:ffff::1]",
    "[fd20:ce::254]",
    "[fd00:c1::a9fe:a9fe]",
    "[fd00:42::42]",
    "[fd00:a9fe:a9fe::1]",
    "[fd00:100::100:200]",
    "[::ffff:169.254.169.254]",
    "[::ffff:0:169.254.169.254]",
    "[::169.254.169.254]",
    "[::a9fe:a9fe]",
    "[64:ff9b::169.254.169.254]",
    "[64:ff9b:1::168.63.129.16]",
    "[64:ff9b:1:a9fe:a9:fe00::]",
    "[2002:a9fe:a9fe::1]",
    "[2001:0:808:808:0:0:5601:5601]",
    "[2001:db8::5efe:169.254.169.254]",
];

#[test]
fn metadata_services_are_denied_in_every_spelling_of_their_addresses() {
    let stub = stub();
    // Without pre-challenged connections, which would be counted here.
    let gateway = start(
        &stub,
        &["--warm", "0", "--no-proxy", "0.0.0.0/0,::/0,169.254.0.0/16,fd00:ec2::/32,fe80::/10,::ffff:0:0/96"],
    );
    let requests = stub.counters().requests;
    for host in METADATA {
        assert_denied(gateway.address(), &format!("{host}:80"));
    }
    // What other libraries parse as addresses must not get through as names.
    for host in [
        "2852039166",
        "0xa9fea9fe",
        "0XA9FEA9FE",
        "025177524776",
        "0251.0376.0251.0376",
        "0xa9.0xfe.0xa9.0xfe",
        "169.254.43518",
        "169.16689662",
        "169.254.169.254.",
        "0000169.254.169.254",
        "169.254.169.0xfe",
        "[fe80::a9fe:a9fe%25eth0]",
        "[fe80::a9fe:a9fe%eth0]",
    ] {
        let answer = connect_name(gateway.address(), &format!("{host}:80")).expect("an answer");
        assert!([400, 403].contains(&answer.status()), "{host}: {}", answer.head);
    }
    assert_eq!(stub.counters().requests, requests, "none of it reaches the proxy");
}

#[test]
fn a_name_that_resolves_to_a_metadata_service_is_denied() {
    if skip_without_mounts() {
        return;
    }
    let (stub, scratch) = (stub(), Scratch::new("names"));
    // Every address that the hosts file can hold.
    let addresses = METADATA.map(|host| host.trim_matches(['[', ']']));
    let numbered = |(number, address): (usize, &&str)| format!("{address} rebound{number}.test\n");
    let rebound: String = addresses.iter().enumerate().map(numbered).collect();
    let names = format!("127.0.0.1 localhost\n{rebound}127.0.0.1 own.test\n");
    let hosts = scratch.write("hosts", names);
    let mut options = GatewayOptions::through(stub.address());
    options.mounts = vec![(hosts, "/etc/hosts")];
    options.args = ["--no-proxy", ".test"].map(String::from).into();
    let gateway = Gateway::start(&options);
    for number in 0..METADATA.len() {
        assert_denied(gateway.address(), &format!("rebound{number}.test:80"));
    }
    assert_denied(gateway.address(), &format!("own.test:{}", gateway.address().port()));
    assert_denied(gateway.address(), &format!("own.test:{}", gateway.admin_address().port()));
}

#[test]
fn nothing_in_a_target_or_field_can_inject_a_line_upstream() {
    let heads = Arc::new(Mutex::new(Vec::<String>::new()));
    let seen = Arc::clone(&heads);
    let upstream = Listener::start(move |mut stream| {
        while let Ok(head) = read_head(&mut stream) {
            seen.lock().expect("a lock").push(head);
            if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").is_err() {
                return;
            }
        }
    });
    let gateway = Gateway::start(&GatewayOptions::through(upstream.address()));
    let inserts = [
        "\r\nInjected: 1",
        "\nInjected: 1",
        "\rInjected: 1",
        "\0Injected: 1",
        "%0d%0aInjected: 1",
        "\u{85}Injected: 1",
    ];
    for insert in inserts {
        for head in [
            format!("CONNECT a{insert}:7 HTTP/1.1\r\nHost: a\r\n\r\n"),
            format!("CONNECT a:7{insert} HTTP/1.1\r\nHost: a\r\n\r\n"),
            format!("GET http://a{insert}/ HTTP/1.1\r\nHost: a\r\n\r\n"),
            format!("GET http://a/x{insert} HTTP/1.1\r\nHost: a\r\n\r\n"),
            format!("GET http://a/ HTTP/1.1\r\nHost: a{insert}\r\n\r\n"),
            format!("GET http://a/ HTTP/1.1\r\nHost: a\r\nX: a{insert}\r\n\r\n"),
            format!("GET http://a/ HTTP/1.1\r\nHost: a\r\nX{insert}: a\r\n\r\n"),
            format!("GET http://a/ HTTP/1.1\r\nHost: a\r\nConnection: x{insert}\r\n\r\n"),
        ] {
            // After half a head the gateway waits for the rest, until the client closes.
            let mut stream = TcpStream::connect(gateway.address()).expect("a connection");
            stream.write_all(head.as_bytes()).expect("a head");
            stream.shutdown(Shutdown::Write).expect("an end");
            stream.set_read_timeout(Some(BOUND)).expect("a time-out");
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
        }
    }
    let heads = heads.lock().expect("a lock");
    let own_line = |head: &String| head.split(['\r', '\n', '\0']).any(|line| line.starts_with("Injected"));
    // A field that the client itself adds with a proper line end is legitimate and is forwarded among the fields.
    let smuggled: Vec<&String> = heads
        .iter()
        .filter(|head| own_line(head) && !(head.contains("\r\nInjected: 1\r\n") && head.starts_with("GET http://a/ ")))
        .collect();
    assert!(smuggled.is_empty(), "{smuggled:#?}");
    assert!(heads.iter().all(|head| !head.replace("\r\n", "").contains(['\r', '\n', '\0'])), "{heads:#?}");
}

#[test]
fn a_greedy_client_gets_429_and_does_not_affect_another() {
    let stub = stub();
    let args = [
        "--allow-clients",
        "127.0.0.0/8",
        "--tunnels-per-client",
        "20",
        "--new-tunnels-per-client",
        "500",
        "--max-tunnels",
        "60",
    ];
    let gateway = start(&stub, &args);
    let (greedy, modest) = (Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3));
    let open = |source: Ipv4Addr| {
        let mut stream = connect_from(source, gateway.address()).expect("a connection");
        stream.write_all(CONNECT.as_bytes()).expect("a head");
        let head = read_head(&mut stream).expect("an answer");
        Answered { stream, head }
    };
    let held: Vec<Answered> = (0..20).map(|_| open(greedy)).collect();
    assert!(held.iter().all(|answer| answer.status() == 200));
    let over = AtomicBool::new(false);
    let (refused, served) = std::thread::scope(|scope| {
        let pressing = scope.spawn(|| {
            let mut refused = 0;
            while !over.load(Ordering::Relaxed) {
                let answer = open(greedy);
                assert_eq!((answer.status(), answer.field("retry-after").is_some()), (429, true), "{}", answer.head);
                refused += 1;
            }
            refused
        });
        let mut served = 0;
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until {
            let answer = open(modest);
            assert_eq!(answer.status(), 200, "{}", answer.head);
            assert_eq!(echo_through(&answer.stream, b"modest").expect("an echo"), b"modest");
            served += 1;
            // Below the rate at which one client may open tunnels.
            std::thread::sleep(Duration::from_millis(10));
        }
        over.store(true, Ordering::Relaxed);
        (pressing.join().expect("the greedy client"), served)
    });
    println!("the greedy client was rejected {refused} times, the modest one was served {served} times");
    assert!(refused > 0 && served > 10);
    for answer in &held {
        assert_eq!(echo_through(&answer.stream, b"held").expect("an echo"), b"held");
    }
    drop(held);
    // Its share is free again.
    assert!(wait_for(BOUND, || (open(greedy).status() == 200).then_some(())).is_some());
}

#[test]
fn a_client_that_opens_tunnels_too_fast_gets_429_until_the_next_second() {
    let stub = stub();
    let gateway = start(&stub, &["--new-tunnels-per-client", "5"]);
    let modest = || {
        let mut stream = connect_from(Ipv4Addr::new(127, 0, 0, 3), gateway.address()).expect("a connection");
        stream.write_all(CONNECT.as_bytes()).expect("a head");
        end_of(&mut stream)
    };
    let open = || connect_name(gateway.address(), "echo.test:7").expect("an answer").status();
    // At the same time, because a busy machine may serve no more than five a second one after the other.
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..30).map(|_| scope.spawn(open)).collect();
        clients.into_iter().map(|client| client.join().expect("a client")).collect()
    });
    assert!(statuses.contains(&429) && statuses.iter().all(|status| [200, 429].contains(status)), "{statuses:?}");
    assert_eq!(modest(), "200");
    assert!(wait_for(BOUND, || good_tunnel(gateway.address())).is_some());
}

#[test]
fn held_administration_connections_do_not_make_probes_fail() {
    let stub = stub();
    let mut gateway = start(&stub, &[]);
    meanwhile("held administration connections", &mut gateway, |gateway| {
        let until = Instant::now() + Duration::from_secs(3);
        let mut held: Vec<TcpStream> = Vec::new();
        while Instant::now() < until {
            if let Ok(mut stream) = TcpStream::connect(gateway.admin_address()) {
                let _ = stream.write_all(b"GET /met");
                held.push(stream);
            }
            if held.len() > 200 {
                held.clear();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    });
}
