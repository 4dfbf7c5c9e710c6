//! Fairness as a number: how much each kind of attack slows another client down, on one shard.
//!
//! The 99th percentile of its requests may be five times that without the attack, plus 20 ms. Both are measured
//! alternately in the same run, because the machine is busy with other things as well.

use crate::support;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use support::client::read_head;
use support::gateway::{Gateway, GatewayOptions};
use support::listener::Listener;
use support::scratch::wait_for;
use support::web::{Web, WebRequest};
use support::wire::Wire;

/// The number of alternations between rest and attack, and the duration of each turn.
const ROUNDS: usize = 5;
const TURN: Duration = Duration::from_millis(400);

/// The measurement is repeated in case something else kept the machine busy; a shard that stalls does so each time.
const ATTEMPTS: usize = 6;

/// The size of one write: much work for the gateway, little for the attacker.
const BLOCK_BYTES: usize = 16 * 1024;

/// The pause between two blocks of one attacker.
const PACE: Duration = Duration::from_millis(20);

/// One measurement at a time, or they would measure each other.
static ALONE: Mutex<()> = Mutex::new(());

/// Whether the attack is on; shared with the upstream, which may take part in it.
#[derive(Clone, Default)]
struct AttackPhase(Arc<AtomicUsize>);

impl AttackPhase {
    const REST: usize = 0;
    const ATTACK: usize = 1;
    const OVER: usize = 2;

    fn set(&self, phase: usize) {
        self.0.store(phase, Ordering::SeqCst);
    }

    fn is(&self, phase: usize) -> bool {
        self.0.load(Ordering::SeqCst) == phase
    }

    /// Waits for the next turn of the attack; `false` when there is none.
    fn wait(&self) -> bool {
        while self.is(AttackPhase::REST) {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.is(AttackPhase::ATTACK)
    }

    /// Sends the same block repeatedly, as long as there are turns of the attack and the peer accepts it.
    fn send_in_turns(&self, to: &mut TcpStream, block: &[u8], pace: Duration) -> io::Result<()> {
        to.set_write_timeout(Some(Duration::from_secs(5)))?;
        while self.wait() {
            to.write_all(block)?;
            std::thread::sleep(pace);
        }
        Ok(())
    }
}

/// A gateway of one shard, an upstream that may take part in the attack, and an origin that is reached directly.
struct AttackSetup {
    gateway: Gateway,
    origin: Web,
    phase: AttackPhase,
    _upstream: Web,
}

impl AttackSetup {
    fn new(
        args: &[&str],
        part: impl Fn(&AttackPhase, &mut Wire, &WebRequest<'_>) -> io::Result<bool> + Send + Sync + 'static,
    ) -> AttackSetup {
        let phase = AttackPhase::default();
        let of_upstream = phase.clone();
        let upstream = Web::proxy_with(move |wire, asked| part(&of_upstream, wire, asked));
        let mut options = GatewayOptions::through(upstream.address());
        let own = ["--shards", "1", "--no-proxy", "127.0.0.1"];
        options.args = own.iter().chain(args).map(|arg| (*arg).to_owned()).collect();
        options.env = vec![("RUST_LOG".into(), "info".into())];
        AttackSetup { gateway: Gateway::start(&options), origin: Web::origin(), phase, _upstream: upstream }
    }

    /// A request of an ordinary client, on a connection of its own.
    fn victim(&self) -> Duration {
        let began = Instant::now();
        let mut wire = Wire::connect(self.gateway.address());
        wire.send(self.origin.request("GET", "/bytes/100", "Connection: close\r\n")).expect("a request");
        let answer = wire.answer("GET").expect("an answer");
        assert_eq!((answer.status(), answer.body.len()), (200, 100), "{}", answer.head);
        began.elapsed()
    }

    /// Runs the attack in turns and compares.
    fn compare(&self, attackers: usize, attack: impl Fn(SocketAddr, &AttackPhase) -> io::Result<()> + Sync) {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        self.phase.set(AttackPhase::REST);
        let (unharmed, _) = self.measure([AttackPhase::REST, AttackPhase::REST]);
        let attacks = AtomicUsize::new(0);
        let mut seen = String::new();
        let fair = std::thread::scope(|scope| {
            for _ in 0..attackers {
                scope.spawn(|| {
                    while self.phase.wait() {
                        // An attacker may be rejected.
                        let _ = attack(self.gateway.address(), &self.phase);
                        attacks.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let fair = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                (0..ATTEMPTS).any(|_| {
                    let (rest, attacked) = self.measure([AttackPhase::REST, AttackPhase::ATTACK]);
                    // A stall that lasts into the rest must not look like a busy machine.
                    let rest = rest.min(4 * unharmed);
                    seen = format!("{rest:?} without it, {attacked:?} with it");
                    support::tools::say(&format!("p99 {seen}"));
                    attacked <= 5 * rest + Duration::from_millis(20)
                })
            }));
            self.phase.set(AttackPhase::OVER);
            fair
        });
        assert!(fair.unwrap_or_else(|panic| std::panic::resume_unwind(panic)), "p99 {seen}");
        assert!(attacks.load(Ordering::Relaxed) > 0, "no attack took place");
    }

    /// The 99th percentiles in two alternating phases.
    fn measure(&self, phases: [usize; 2]) -> (Duration, Duration) {
        let mut took = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (phase, took) in phases.into_iter().zip(&mut took) {
                self.phase.set(phase);
                // Lets the effects of the last turn end, or this one's attack begin.
                std::thread::sleep(Duration::from_millis(50));
                let began = Instant::now();
                while began.elapsed() < TURN {
                    took.push(self.victim());
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
        self.phase.set(AttackPhase::REST);
        let [rest, attacked] = took.map(|mut took| {
            took.sort();
            took.get(took.len() * 99 / 100).or(took.last()).copied().unwrap_or_default()
        });
        (rest, attacked)
    }
}

fn nothing(_: &AttackPhase, _: &mut Wire, _: &WebRequest<'_>) -> io::Result<bool> {
    Ok(false)
}

fn connect(gateway: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(gateway)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn read_to_end(mut stream: TcpStream) -> io::Result<()> {
    let mut piece = [0; 64 * 1024];
    while stream.read(&mut piece)? > 0 {}
    Ok(())
}

/// Sends `request` and reads until nothing more arrives.
fn ask_and_read(gateway: SocketAddr, request: &str) -> io::Result<()> {
    let mut stream = connect(gateway)?;
    stream.write_all(request.as_bytes())?;
    read_to_end(stream)
}

fn tiny_chunks() -> Vec<u8> {
    b"1;\r\na\r\n".repeat(BLOCK_BYTES / 7)
}

#[test]
fn endless_silent_connections_cost_other_clients_little() {
    let setup = AttackSetup::new(&["--max-tunnels", "2000"], nothing);
    setup.compare(4, |gateway, phase| {
        let mut held = Vec::new();
        while phase.is(AttackPhase::ATTACK) && held.len() < 500 {
            held.push(connect(gateway)?);
            std::thread::sleep(PACE / 20);
        }
        Ok(())
    });
}

const CONNECT: &str = "CONNECT attack.test:7 HTTP/1.1\r\nHost: attack.test:7\r\n\r\n";

#[test]
fn first_bytes_that_are_no_request_cost_other_clients_little() {
    let setup = AttackSetup::new(&[], nothing);
    setup.compare(4, |gateway, _| {
        let mut stream = connect(gateway)?;
        stream.write_all(b"\x16\x03\x01")?;
        read_to_end(stream)?;
        std::thread::sleep(PACE / 4);
        Ok(())
    });
}

#[test]
fn methods_of_64_000_letters_cost_other_clients_little() {
    let setup = AttackSetup::new(&[], nothing);
    let head = [&[b'A'; 64_000][..], b" http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n"].concat();
    setup.compare(4, |gateway, _| {
        let mut stream = connect(gateway)?;
        stream.write_all(&head)?;
        read_to_end(stream)?;
        std::thread::sleep(PACE / 4);
        Ok(())
    });
}

#[test]
fn an_origin_that_sends_tiny_chunks_costs_other_clients_little() {
    let block = tiny_chunks();
    let setup = AttackSetup::new(&[], move |phase, wire, _| {
        wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        phase.send_in_turns(&mut wire.stream, &block, PACE)?;
        Ok(false)
    });
    setup.compare(4, |gateway, _| {
        ask_and_read(gateway, "GET http://attack.test/ HTTP/1.1\r\nHost: attack.test\r\n\r\n")
    });
}

#[test]
fn a_client_that_sends_tiny_chunks_costs_other_clients_little() {
    let setup = AttackSetup::new(&[], |_, wire, _| {
        while !wire.some()?.is_empty() {}
        Ok(false)
    });
    let block = tiny_chunks();
    setup.compare(4, |gateway, phase| {
        let mut stream = connect(gateway)?;
        stream.write_all(
            b"POST http://attack.test/ HTTP/1.1\r\nHost: attack.test\r\nTransfer-Encoding: chunked\r\n\r\n",
        )?;
        phase.send_in_turns(&mut stream, &block, PACE)
    });
}

#[test]
fn a_declined_page_of_chunk_extensions_costs_other_clients_little() {
    let block = tiny_chunks();
    let setup = AttackSetup::new(&[], move |phase, wire, _| {
        wire.send("HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        phase.send_in_turns(&mut wire.stream, &block, Duration::ZERO)?;
        Ok(false)
    });
    setup.compare(1, |gateway, _| ask_and_read(gateway, CONNECT));
}

#[test]
fn endless_interim_responses_to_a_connect_cost_other_clients_little() {
    let block = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(BLOCK_BYTES / 25);
    let setup = AttackSetup::new(&[], move |phase, wire, _| {
        phase.send_in_turns(&mut wire.stream, &block, Duration::ZERO)?;
        Ok(false)
    });
    setup.compare(1, |gateway, _| {
        std::thread::sleep(Duration::from_millis(1));
        ask_and_read(gateway, CONNECT)
    });
}

#[test]
fn unread_responses_to_pipelined_requests_cost_other_clients_little() {
    let setup = AttackSetup::new(&["--socket-buffer", "64KiB"], |_, wire, _| {
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")?;
        wire.stream.set_write_timeout(Some(Duration::from_secs(1)))?;
        while wire.stream.write(&[0; 64 * 1024])? > 0 {}
        Ok(false)
    });
    let requests = "GET http://attack.test/ HTTP/1.1\r\nHost: attack.test\r\n\r\n".repeat(1000);
    setup.compare(4, |gateway, phase| {
        let mut held = Vec::new();
        while phase.is(AttackPhase::ATTACK) && held.len() < 30 {
            let mut stream = connect(gateway)?;
            stream.set_write_timeout(Some(Duration::from_millis(5)))?;
            let _ = stream.write(requests.as_bytes());
            held.push(stream);
            std::thread::sleep(PACE);
        }
        Ok(())
    });
}

#[test]
fn heads_that_never_end_cost_other_clients_little() {
    let setup = AttackSetup::new(&[], nothing);
    let head = format!("GET http://attack.test/ HTTP/1.1\r\nX: {}", "x".repeat(60_000));
    setup.compare(4, |gateway, phase| {
        let mut held = Vec::new();
        while phase.is(AttackPhase::ATTACK) && held.len() < 200 {
            let mut stream = connect(gateway)?;
            stream.write_all(head.as_bytes())?;
            held.push(stream);
            std::thread::sleep(PACE / 2);
        }
        Ok(())
    });
}

#[test]
fn a_client_that_keeps_sending_after_its_rejection_costs_other_clients_little() {
    let setup = AttackSetup::new(&[], nothing);
    let noise = vec![b'x'; 256 * 1024];
    setup.compare(4, |gateway, phase| {
        let mut stream = connect(gateway)?;
        stream.write_all(b"no request\r\n\r\n")?;
        while phase.is(AttackPhase::ATTACK) {
            stream.write_all(&noise)?;
        }
        Ok(())
    });
}

/// An origin sends some MiB at a time: far more than a tunnel may move in a turn, and little work for the machine.
#[test]
fn a_download_in_large_bursts_costs_other_clients_little() {
    let setup = AttackSetup::new(&[], nothing);
    let phase_of_source = setup.phase.clone();
    let source = Listener::start(move |mut stream| {
        let burst = vec![0; 4 << 20];
        // It ends when its client has gone.
        let _ = phase_of_source.send_in_turns(&mut stream, &burst, PACE);
    });
    let moved = AtomicUsize::new(0);
    setup.compare(1, |gateway, phase| {
        let mut stream = tunnel(gateway, source.address())?;
        let mut buffer = vec![0; 256 * 1024];
        while phase.is(AttackPhase::ATTACK) {
            moved.fetch_add(stream.read(&mut buffer)?, Ordering::Relaxed);
        }
        Ok(())
    });
    let moved = moved.into_inner();
    assert!(moved > 64 << 20, "the download moved only {moved} bytes");
}

/// A tunnel to `target` through a gateway that reaches it directly.
fn tunnel(gateway: SocketAddr, target: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = connect(gateway)?;
    write!(stream, "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")?;
    read_head(&mut stream)?;
    Ok(stream)
}

/// A download through a tunnel that ends only with the gateway.
struct Download {
    moved: Arc<AtomicUsize>,
    _source: Listener,
}

impl Download {
    fn start(gateway: SocketAddr) -> Download {
        let source = Listener::start(|mut stream| {
            let piece = vec![0; 1 << 20];
            while stream.write_all(&piece).is_ok() {}
        });
        let moved = Arc::new(AtomicUsize::new(0));
        let (mut stream, counted) = (tunnel(gateway, source.address()).expect("a tunnel"), Arc::clone(&moved));
        std::thread::spawn(move || {
            let mut buffer = vec![0; 256 * 1024];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                counted.fetch_add(count, Ordering::Relaxed);
            }
        });
        Download { moved, _source: source }
    }

    /// Bytes so far.
    fn moved(&self) -> usize {
        self.moved.load(Ordering::Relaxed)
    }
}

/// A download that goes on beside messages and requests leaves the shard to them from time to time, and only then.
#[test]
fn an_endless_download_pauses_beside_messages_and_requests_and_not_by_itself() {
    let setup = AttackSetup::new(&[], nothing);
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let echo = Listener::start(|mut stream| {
        let mut message = [0; 1024];
        while stream.read_exact(&mut message).and_then(|()| stream.write_all(&message)).is_ok() {}
    });
    let pauses = || setup.gateway.metric("ntlm_gateway_bulk_pauses_total", &[]).expect("the metric");
    let gateway = setup.gateway.address();
    let download = Download::start(gateway);
    let moves_on = || {
        let before = download.moved();
        let moved_on = || (download.moved() > before + (64 << 20)).then_some(());
        wait_for(Duration::from_secs(20), moved_on).expect("the download goes on");
    };
    let mut messages = tunnel(gateway, echo.address()).expect("a tunnel");
    // Pieces of the download that are small by chance may count as messages.
    let pauses_alone = || {
        let before = pauses();
        moves_on();
        let paused = pauses() - before;
        support::tools::say(&format!("{paused} pauses in 64 MiB"));
        assert!(paused < 30.0, "{paused} pauses in 64 MiB of a download by itself");
    };
    // Whether a message comes when the download moves is chance.
    let pauses_beside = |what: &str, work: &mut dyn FnMut()| {
        let before = pauses();
        let paused = wait_for(Duration::from_secs(20), || {
            (0..100).for_each(|_| work());
            (pauses() > before + 50.0).then_some(())
        });
        assert!(paused.is_some(), "{} pauses beside {what}", pauses() - before);
    };
    moves_on();
    pauses_alone();
    pauses_beside("messages", &mut || {
        messages.write_all(&[7; 1024]).and_then(|()| messages.read_exact(&mut [0; 1024])).expect("a message");
    });
    pauses_alone();
    pauses_beside("requests", &mut || {
        setup.victim();
    });
    moves_on();
}

#[test]
fn the_answers_of_a_single_client_cause_no_pauses() {
    let setup = AttackSetup::new(&[], nothing);
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut client = Wire::connect(setup.gateway.address());
    for length in [40_000, 1_000_000] {
        for _ in 0..100 {
            let answer = client.ask(setup.origin.request("GET", &format!("/bytes/{length}"), "")).expect("an answer");
            assert_eq!(answer.body.len(), length);
        }
    }
    let pauses = setup.gateway.metric("ntlm_gateway_bulk_pauses_total", &[]).expect("the metric");
    assert!(pauses < 10.0, "{pauses} pauses");
}
