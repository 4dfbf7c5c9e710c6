//! A rolling restart under load: gateways behind HAProxy, which polls each one's `/readyz`, are replaced one by one. No
//! client that opens a tunnel notices, and no tunnel is cut before its gateway's drain is over.

use crate::support;

use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ntlm_gateway::stub::{StubOptions, StubServer};
use rustix::process::Signal;
use support::client::{Answered, connect_name, echo_through};
use support::gateway::{Gateway, GatewayOptions};
use support::in_process::ACCOUNT;
use support::process::Process;
use support::scratch::{Scratch, accepts, free_port, wait_for};
use support::tools::path_of;

const BOUND: Duration = Duration::from_secs(20);
/// Thirty of HAProxy's health checks, of which two have to notice it.
const SHUTDOWN_DELAY: Duration = Duration::from_millis(3_000);
const DRAIN_TIMEOUT: Duration = Duration::from_millis(2_000);
const CLIENTS: usize = 6;
const LONG_LIVED: usize = 12;

/// The addresses of a gateway that runs or will run.
#[derive(Clone, Copy)]
struct Instance {
    listen: SocketAddr,
    admin: SocketAddr,
}

fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()))
}

impl Instance {
    fn new() -> Self {
        Self { listen: loopback(), admin: loopback() }
    }

    fn start(self, stub: &StubServer) -> Gateway {
        let mut options = GatewayOptions::through(stub.address());
        (options.listen, options.admin) = (self.listen, self.admin);
        let milliseconds = |time: Duration| format!("{}ms", time.as_millis());
        options.args =
            ["--shutdown-delay", &milliseconds(SHUTDOWN_DELAY), "--drain-timeout", &milliseconds(DRAIN_TIMEOUT)]
                .map(str::to_owned)
                .into();
        Gateway::start(&options)
    }
}

/// HAProxy in front of some gateways. It tries a connection only once, so a gateway that does not accept it shows as a
/// failure.
struct HaProxy {
    _process: Process,
    _scratch: Scratch,
    address: SocketAddr,
}

impl HaProxy {
    fn start(instances: &[Instance]) -> Self {
        let (scratch, address) = (Scratch::new("haproxy"), loopback());
        let mut text = format!(
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  timeout check 5s\n  retries 0\n\
             listen pool\n  bind {address}\n  balance roundrobin\n  option httpchk GET /readyz\n  \
             http-check expect status 200\n  default-server check inter 100ms fall 2 rise 1\n"
        );
        for (number, Instance { listen, admin }) in instances.iter().enumerate() {
            writeln!(text, "  server gateway{number} {listen} port {}", admin.port()).expect("writing to a string");
        }
        let file = scratch.write("haproxy.cfg", text);
        let mut command = Process::command(path_of("haproxy"));
        command.arg("-db").arg("-q").arg("-f").arg(file);
        let process = Process::spawn("haproxy", &mut command);
        assert!(wait_for(BOUND, || accepts(address).then_some(())).is_some(), "haproxy does not listen");
        Self { _process: process, _scratch: scratch, address }
    }
}

fn open(pool: SocketAddr) -> Result<Answered, String> {
    let answer = connect_name(pool, "echo.test:7").map_err(|error| format!("no answer: {error}"))?;
    if answer.status() == 200 { Ok(answer) } else { Err(answer.head) }
}

fn echo(tunnel: &Answered) -> io::Result<()> {
    let back = echo_through(&tunnel.stream, b"is anybody there?")?;
    if back == b"is anybody there?" { Ok(()) } else { Err(io::Error::other("other bytes came back")) }
}

/// Clients that open tunnels one after the other, use them and close them.
struct Load {
    ending: Arc<AtomicBool>,
    good: Arc<AtomicU64>,
    bad: Arc<Mutex<Vec<String>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(pool: SocketAddr) -> Self {
        let (ending, good, bad) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Arc::default());
        let client = |_| {
            let (ending, good, bad) = (Arc::clone(&ending), Arc::clone(&good), Arc::<Mutex<Vec<String>>>::clone(&bad));
            thread::spawn(move || {
                while !ending.load(Ordering::Acquire) {
                    let done = open(pool).and_then(|tunnel| echo(&tunnel).map_err(|error| format!("no echo: {error}")));
                    match done {
                        Ok(()) => _ = good.fetch_add(1, Ordering::Relaxed),
                        Err(why) => bad.lock().expect("the failures").push(why),
                    }
                    thread::sleep(Duration::from_millis(5));
                }
            })
        };
        let threads = (0..CLIENTS).map(client).collect();
        Self { ending, good, bad, threads }
    }

    fn so_far(&self) -> u64 {
        self.good.load(Ordering::Relaxed)
    }

    /// The number of successful tunnels, and the errors of the others.
    fn end(self) -> (u64, Vec<String>) {
        self.ending.store(true, Ordering::Release);
        self.threads.into_iter().for_each(|thread| thread.join().expect("a client"));
        (self.good.load(Ordering::Relaxed), std::mem::take(&mut self.bad.lock().expect("the failures")))
    }
}

/// Uses a tunnel until told to stop or until it is cut. Returns when it was cut.
fn keep_using(tunnel: Answered, ending: &Arc<AtomicBool>) -> JoinHandle<Option<Instant>> {
    let ending = Arc::clone(ending);
    thread::spawn(move || {
        while !ending.load(Ordering::Acquire) {
            if echo(&tunnel).is_err() {
                return Some(Instant::now());
            }
            thread::sleep(Duration::from_millis(20));
        }
        None
    })
}

fn opened(gateway: &Gateway) -> f64 {
    gateway.metric("ntlm_gateway_tunnels_opened_total", &[]).expect("a counter")
}

/// Stops a gateway as Kubernetes does. Returns the earliest end of its drain.
fn end(mut gateway: Gateway) -> Instant {
    let earliest = Instant::now() + SHUTDOWN_DELAY + DRAIN_TIMEOUT;
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.wait(BOUND).and_then(|status| status.code()), Some(0));
    gateway.wait_for_line("closing tunnels that did not end in time");
    earliest
}

#[test]
fn a_rolling_restart_fails_no_new_tunnel_and_cuts_none_before_the_drain_ends() {
    require_tools!("haproxy");
    let (domain, user, password) = ACCOUNT;
    let stub = StubServer::start(StubOptions::default().account(domain, user, password)).expect("a stub");
    let instances = [Instance::new(), Instance::new(), Instance::new()];
    let (first, second) = (instances[0].start(&stub), instances[1].start(&stub));
    let pool = HaProxy::start(&instances);
    // HAProxy considers every server up until its first two checks, so the turn of the third one must pass twice.
    let mut tried = 0.0;
    let both_alone = || (0..6).all(|_| open(pool.address).inspect(|_| tried += 1.0).is_ok()).then_some(());
    assert!(wait_for(BOUND, both_alone).is_some(), "it opens tunnels through a server that is not there");
    let all_counted = || (opened(&first) + opened(&second) == tried).then(|| (opened(&first), opened(&second)));
    let earlier = wait_for(BOUND, all_counted).expect("all are counted");
    let ending: Arc<AtomicBool> = Arc::default();
    let long_lived: Vec<_> =
        (0..LONG_LIVED).map(|_| keep_using(open(pool.address).expect("a tunnel"), &ending)).collect();
    // A tunnel may be counted a moment after its client has it.
    let all = || {
        let (on_first, on_second) = (opened(&first) - earlier.0, opened(&second) - earlier.1);
        (on_first + on_second == LONG_LIVED as f64).then_some((on_first, on_second))
    };
    let (on_first, on_second) = wait_for(BOUND, all).expect("all are counted");
    assert!(on_first >= 1.0 && on_second >= 1.0, "both serve some of them");
    let load = Load::start(pool.address);
    let takes_part = |gateway: &Gateway| {
        let before = opened(gateway);
        assert!(wait_for(BOUND, || (opened(gateway) > before).then_some(())).is_some(), "it gets no tunnels");
    };

    let third = instances[2].start(&stub);
    takes_part(&third);
    let first_over = end(first);
    let fresh = instances[0].start(&stub);
    takes_part(&fresh);
    let second_over = end(second);
    let during = load.so_far();
    takes_part(&third);
    assert!(wait_for(BOUND, || (load.so_far() > during + 20).then_some(())).is_some(), "the load goes on");

    let (good, bad) = load.end();
    assert!(bad.is_empty(), "{} of {} tunnels failed, such as: {:?}", bad.len(), bad.len() as u64 + good, bad.first());
    assert!(good > 100, "only {good} tunnels were opened");
    ending.store(true, Ordering::Release);
    let cut: Vec<Instant> = long_lived.into_iter().filter_map(|tunnel| tunnel.join().expect("a tunnel")).collect();
    assert_eq!(cut.len(), LONG_LIVED, "all were on the stopped gateways");
    let before = |limit: Instant| cut.iter().filter(|cut| **cut < limit).count();
    assert_eq!(before(first_over), 0, "cut before the drain of their gateway was over");
    assert_eq!(before(second_over) as f64, on_first, "those of the second gateway are cut when it stops");
    println!("{good} tunnels opened, none failed; {LONG_LIVED} long-lived ones lasted until the drain's end");
}
