//! A memory limit as in a container, which includes the kernel's share.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ntlm_gateway::stub::StubServer;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::machine::{BOUND, PIPES_KEPT, assert_bulk, assert_flows, tunnel, vitals};
use crate::stub;
use crate::support::cgroup::{MemoryCgroup, MemoryCharge};
use crate::support::client::{Answered, connect_name, echo_through, read_head};
use crate::support::gateway::{Gateway, GatewayOptions};
use crate::support::scratch::wait_for;
use crate::support::tools::{skip, skip_without_root};
use crate::support::vitals::{assert_nothing_leaked, watch};

const MIB: u64 = 1 << 20;

/// The memory that the deployment gives a container.
const DEPLOYMENT: &str = include_str!("../../deploy/kustomize/base/deployment.yaml");

/// Twice the figures in the deployment's notes, including the kernel's share: 256 bytes and 8.2 kB.
const IDLE_TUNNEL_BYTES: u64 = 2 * 8_456;

/// Tunnels whose clients do not read: each holds as much as `tcp_rmem` and `tcp_wmem` allow.
const UNREAD: usize = 8;

/// The longest that a health check may take, on a busy machine that is short of memory.
const HEALTH_BOUND: Duration = Duration::from_secs(10);

/// `None`, with a message, if a limit cannot be set.
fn limited(bytes: u64) -> Option<MemoryCgroup> {
    if skip_without_root() {
        return None;
    }
    let group = MemoryCgroup::new(bytes);
    if group.is_none() {
        // No package provides it, and control groups may be read-only in a container: never required.
        skip("no control group with a memory limit is to be had here");
    }
    group
}

fn start_in(group: &MemoryCgroup, stub: &StubServer) -> Gateway {
    let mut options = GatewayOptions::through(stub.address());
    options.setup = Some(group.enter());
    options.args = ["--shards", "2", "--head-timeout", "60s"].map(String::from).into();
    options.env = vec![("RUST_LOG".into(), "info,access=off".into())];
    let gateway = Gateway::start(&options);
    assert_flows(&gateway);
    gateway
}

/// How many tunnels this process can hold both ends of, leaving descriptors for other tests.
fn room_for_tunnels() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(most / 4).unwrap_or(usize::MAX).min(4_000)
}

fn open(gateway: &Gateway, target: &str, count: usize) -> Vec<Answered> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|part| {
                let share = count / 4 + usize::from(part < count % 4);
                scope.spawn(move || -> Vec<Answered> {
                    let one = |_| {
                        let answer = connect_name(gateway.address(), target).expect("an answer");
                        assert_eq!(answer.status(), 200, "{}", answer.head);
                        answer
                    };
                    (0..share).map(one).collect()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a client")).collect()
    })
}

fn mib(bytes: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    let mib = bytes as f64 / MIB as f64;
    format!("{mib:.1} MiB")
}

fn report_charged(what: &str, charged: &MemoryCharge) {
    let MemoryCharge { all, kernel, sockets, peak, reached, killed, .. } = *charged;
    println!(
        "{what}: {}, of it kernel {}; socket buffers {}; peak {}; limit reached {reached} times, {killed} killed",
        mib(all),
        mib(kernel),
        mib(sockets),
        mib(peak)
    );
}

#[test]
fn thousands_of_tunnels_stay_far_below_the_deployments_memory_limit() {
    let limit = DEPLOYMENT.split_once("limits: { memory: ").and_then(|(_, rest)| rest.split_once("Mi }"));
    let limit = MIB * limit.expect("a limit").0.parse::<u64>().expect("a number of MiB");
    let Some(group) = limited(limit) else { return };
    let (stub, count) = (stub(), room_for_tunnels());
    let gateway = start_in(&group, &stub);
    let (before, rest) = (vitals(&gateway), group.charged());
    report_charged("at rest", &rest);

    let idle = open(&gateway, "echo.test:7", count);
    let full = group.charged();
    report_charged(&format!("{count} idle tunnels"), &full);
    let each = |now: u64, then: u64| now.saturating_sub(then) / u64::try_from(count).expect("a count");
    let (all, kernel) = (each(full.whole, rest.whole), each(full.kernel, rest.kernel));
    println!("an idle tunnel: {all} bytes, of it kernel {kernel}, socket buffers {}", each(full.sockets, rest.sockets));
    assert!(all > 1_000, "{all} bytes: its memory is charged elsewhere");
    assert!(all < IDLE_TUNNEL_BYTES, "{all} bytes an idle tunnel");

    // Clients that never read leave bytes in the kernel; other clients transfer data beside them.
    let unread: Vec<TcpStream> = (0..UNREAD).filter_map(|_| unread_tunnel(gateway.address())).collect();
    assert_eq!(unread.len(), UNREAD);
    assert_bulk(&gateway, 16);
    let bulk = group.charged();
    report_charged(&format!("with {UNREAD} that do not read, and 16 bulk echoes"), &bulk);
    assert_eq!((bulk.reached, bulk.killed), (0, 0), "{bulk:?}");
    assert_eq!(gateway.admin("/healthz").0, 200);
    drop((idle, unread));
    assert_nothing_leaked(gateway.admin_address(), before, 2 * PIPES_KEPT);
    report_charged("afterwards", &group.charged());
}

/// Opens clients that need more and more memory, up to `most`, while the gateway runs; then lets them press for a
/// second.
fn press(gateway: &mut Gateway, most: usize, mut client: impl FnMut() -> Option<TcpStream>) -> Vec<TcpStream> {
    let mut clients = Vec::new();
    while clients.len() < most && gateway.is_running() {
        clients.extend(client());
    }
    let _ = wait_for(Duration::from_secs(1), || (!gateway.is_running()).then_some(()));
    clients
}

fn serves(gateway: &Gateway) -> bool {
    tunnel(gateway).is_some_and(|tunnel| echo_through(&tunnel.stream, b"serves").is_ok_and(|back| back == b"serves"))
}

/// Unfinished heads, each just below the limit: the most that a client can make it hold in its own memory.
fn unfinished_head(gateway: SocketAddr) -> Option<TcpStream> {
    let head = [b"CONNECT echo.test:7 HTTP/1.1\r\nX: ".as_slice(), &[b'x'; 60_000]].concat();
    let mut client = TcpStream::connect_timeout(&gateway, Duration::from_secs(1)).ok()?;
    client.set_write_timeout(Some(Duration::from_secs(1))).ok()?;
    client.write_all(&head).ok()?;
    Some(client)
}

/// Idle tunnels: memory of the kernel.
fn idle_tunnel(gateway: SocketAddr) -> Option<TcpStream> {
    connect_name(gateway, "echo.test:7").ok().filter(|answer| answer.status() == 200).map(|answer| answer.stream)
}

/// Tunnels with incoming bytes that the client never reads: memory of socket buffers. The client's own buffer is small,
/// because it is not measured here.
fn unread_tunnel(gateway: SocketAddr) -> Option<TcpStream> {
    use rustix::net::{AddressFamily, SocketType, connect, socket, sockopt};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).ok()?;
    sockopt::set_socket_recv_buffer_size(&socket, 16 * 1024).ok()?;
    connect(&socket, &gateway).ok()?;
    let mut client = TcpStream::from(socket);
    client.set_read_timeout(Some(BOUND)).ok()?;
    client.write_all(b"CONNECT stream.test:7 HTTP/1.1\r\nHost: stream.test:7\r\n\r\n").ok()?;
    read_head(&mut client).ok().filter(|head| head.starts_with("HTTP/1.1 200")).map(|_| client)
}

type OpenClient = fn(SocketAddr) -> Option<TcpStream>;

const LOADS: [(&str, OpenClient, usize); 3] = [
    ("unfinished heads", unfinished_head, 1_500),
    ("idle tunnels", idle_tunnel, 1_500),
    ("unread tunnels", unread_tunnel, 30),
];

/// From little to some spare memory. Either the kernel kills it quickly and the next gateway serves, or it goes on
/// serving.
#[test]
fn with_little_memory_it_is_killed_at_the_limit_or_goes_on_serving() {
    let mut killed = 0;
    for (spare, load) in [4, 256].into_iter().flat_map(|spare| LOADS.map(|load| (spare, load))) {
        let Some(group) = limited(512 * MIB) else { return };
        killed += usize::from(is_killed_or_goes_on(&group, spare, load));
    }
    // Unfinished heads, at least, exceed it.
    assert!(killed > 0, "the limit has no effect");
}

/// Whether it is killed.
fn is_killed_or_goes_on(group: &MemoryCgroup, spare: u64, (what, client, most): (&str, OpenClient, usize)) -> bool {
    let stub = stub();
    let mut gateway = start_in(group, &stub);
    let before = vitals(&gateway);
    assert!(group.limit(group.charged().all + spare * MIB), "a lower limit");
    let (address, admin) = (gateway.address(), gateway.admin_address());
    let (stop, began) = (AtomicBool::new(false), Instant::now());
    let (count, charged, served, watched) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(admin, "/healthz", &stop));
        let clients = press(&mut gateway, most, || client(address));
        // While all of them are still connected.
        let served = gateway.is_running() && serves(&gateway);
        let charged = group.charged();
        stop.store(true, Ordering::Relaxed);
        (clients.len(), charged, served, watcher.join().expect("the watcher"))
    });
    let took = began.elapsed();
    let goes_on = served && gateway.is_running();
    let outcome = if goes_on { "goes on" } else { "is killed" };
    report_charged(&format!("{spare} MiB to spare, {count} {what}, {took:?}: {outcome}"), &charged);
    let longest = watched.longest();
    println!("/healthz: {} answers, p99 {:?}; longest {longest:?}", watched.took.len(), watched.p99());
    // Until it ends it stays responsive: no health check hangs.
    assert!(longest < HEALTH_BOUND, "{longest:?}, failed {:?}", watched.failed);
    if goes_on {
        assert!(watched.failed.is_empty(), "{:?}", watched.failed);
        assert_eq!(charged.killed, 0, "{charged:?}");
        assert_bulk(&gateway, 4);
        assert_nothing_leaked(admin, before, 2 * PIPES_KEPT);
        return false;
    }
    let status = gateway.wait(HEALTH_BOUND).expect("it neither serves nor ends");
    assert_eq!(status.signal(), Some(9), "{status}: {:?}", gateway.log());
    assert_eq!(group.charged().killed, 1, "{charged:?}");
    drop(gateway);
    drop(start_in(group, &stub));
    true
}
