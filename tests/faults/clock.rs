//! The wall clock is stepped while the gateway runs: by hours, days and years, to 1970 and before, and during a
//! handshake.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ntlm_gateway::ntlm::{AuthenticateMessage, FileTime, NtResponseKind};
use ntlm_gateway::stub::{Personality, StubServer};
use rustix::process::Signal;

use crate::machine::{BOUND, assert_flows, tunnel, vitals};
use crate::stub;
use crate::support::client::{connect_name, echo_through};
use crate::support::fake_clock::{FakeClock, SharedMemoryCleanUp, file_time, rfc3339, unix_seconds};
use crate::support::gateway::{Gateway, GatewayOptions};
use crate::support::metrics;
use crate::support::scratch::wait_for;
use crate::support::tap::Tap;
use crate::support::tools::skip_for_want_of;
use crate::support::vitals::{assert_nothing_leaked, get};

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// How far a stepped clock may be from the expected time: the time between two reads of it, on a busy machine.
const LAG_SECONDS: i64 = 30;

/// The idle time-out of every tunnel here.
const IDLE: Duration = Duration::from_millis(2_500);

/// The most by which a deadline may be late, on a busy machine.
const LATE: Duration = Duration::from_secs(10);

/// The successive offsets of the clock from the right time, in seconds.
fn steps() -> [(&'static str, i64); 6] {
    let now = unix_seconds();
    [
        ("six hours forward", 6 * HOUR),
        ("ten days back", -10 * DAY),
        ("1970", 5 - now),
        ("before 1970", -now - 400 * DAY),
        ("two centuries forward", 73_000 * DAY),
        ("right again", 0),
    ]
}

struct SteppedSetup {
    gateway: Gateway,
    /// Dropped after the gateway.
    _clean_up: SharedMemoryCleanUp,
    clock: FakeClock,
    tap: Tap,
    stub: StubServer,
}

impl SteppedSetup {
    /// `None`, with a message, if the clock cannot be stepped.
    fn start(stub: StubServer, args: &[&str]) -> Option<Self> {
        let Some(clock) = FakeClock::new() else {
            skip_for_want_of("libfaketime");
            return None;
        };
        let tap = Tap::start(stub.address());
        let mut options = GatewayOptions::through(tap.address());
        options.args = ["--shards", "2", "--warm", "0"].iter().chain(args).map(ToString::to_string).collect();
        options.env = clock.environment();
        let gateway = Gateway::start(&options);
        let clean_up = FakeClock::clean_up(gateway.pid());
        Some(Self { gateway, _clean_up: clean_up, clock, tap, stub })
    }

    /// Stops it in an orderly way.
    fn stop(mut self) {
        self.gateway.signal(Signal::TERM);
        let status = self.gateway.wait(BOUND).expect("it ends");
        assert!(status.success(), "{status}");
    }

    /// The time in the last AUTHENTICATE_MESSAGE.
    fn authenticated_at(&self) -> FileTime {
        let message = self.tap.last_message().expect("a message");
        let message = AuthenticateMessage::decode(&message).expect("an AUTHENTICATE_MESSAGE");
        assert_eq!(message.response_kind(), NtResponseKind::NtlmV2);
        // MS-NLMP 2.2.2.7, after the 16 bytes of NTProofStr.
        let time = message.nt_response.get(24..32).expect("a time");
        FileTime(u64::from_le_bytes(time.try_into().expect("eight bytes")))
    }

    /// Opens a tunnel to a destination of its own and returns its log line, found by that destination.
    fn line_of_a_tunnel(&self, port: u16) -> String {
        let target = format!("echo.test:{port}");
        let answer = connect_name(self.gateway.address(), &target).expect("an answer");
        assert_eq!(answer.status(), 200, "{}", answer.head);
        assert_eq!(echo_through(&answer.stream, b"a while").expect("an echo"), b"a while");
        drop(answer);
        self.gateway.wait_for_line(&format!("target={target} "))
    }
}

/// Exchanges a byte now and then until told to stop.
fn keep_talking(stream: &TcpStream, over: &AtomicBool) -> u32 {
    let mut said = 0;
    while !over.load(Ordering::Relaxed) {
        assert_eq!(echo_through(stream, b".").expect("a tunnel in use stays open"), b".");
        said += 1;
        std::thread::sleep(Duration::from_millis(100));
    }
    said
}

/// The time until the tunnel was closed.
fn lasted(opened: Instant, stream: &mut TcpStream) -> Duration {
    stream.set_read_timeout(Some(BOUND)).expect("a time-out");
    match stream.read(&mut [0; 8]) {
        Ok(0) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        other => panic!("an idle tunnel's end: {other:?}"),
    }
    opened.elapsed()
}

/// One step of the clock, during a handshake and beside an idle tunnel.
fn step_by_step(setup: &SteppedSetup, number: u16, name: &str, ahead: i64) {
    let opened = Instant::now();
    let mut idle = tunnel(&setup.gateway).expect("a tunnel").stream;
    idle.write_all(b"x").and_then(|()| idle.read_exact(&mut [0])).expect("an echo");
    let took = std::thread::scope(|scope| {
        let idling = scope.spawn(|| lasted(opened, &mut idle));
        step(setup, number, name, ahead);
        idling.join().expect("the thread that waits for its end")
    });
    assert!(took >= IDLE && took < IDLE + LATE, "{name}: an idle tunnel stayed open for {took:?}");
    for path in ["/healthz", "/readyz"] {
        assert_eq!(get(setup.gateway.admin_address(), path, BOUND).expect(path).0, 200, "{name}: {path}");
    }
    println!("{name}: idle for {took:?}");
}

fn step(setup: &SteppedSetup, number: u16, name: &str, ahead: i64) {
    let gateway = &setup.gateway;
    setup.tap.hold(true);
    let accepted = setup.tap.accepted();
    let answer = std::thread::scope(|scope| {
        let client = scope.spawn(|| connect_name(gateway.address(), "echo.test:7").expect("an answer"));
        let negotiates = || setup.tap.last_message().is_some_and(|message| message.get(8) == Some(&1));
        let under_way = || (setup.tap.accepted() > accepted && negotiates()).then_some(());
        assert!(wait_for(BOUND, under_way).is_some(), "{name}: no handshake");
        setup.clock.step(ahead);
        std::thread::sleep(Duration::from_millis(100));
        setup.tap.hold(false);
        client.join().expect("the client")
    });
    assert_eq!(answer.status(), 200, "{name}, during a handshake: {}", answer.head);

    // The server sends its time, and the message carries that time.
    setup.stub.set_personality(Personality::Plain);
    setup.line_of_a_tunnel(1_000 + number);
    let authenticated = setup.authenticated_at();
    let right = unix_seconds();
    assert!(
        authenticated >= file_time(right - LAG_SECONDS) && authenticated <= file_time(right + 1),
        "{name}: authenticated at {authenticated}"
    );
    // The server does not, and the message carries the gateway's own time, which shows the step.
    setup.stub.set_personality(Personality::IsaFirst407Closes);
    let line = setup.line_of_a_tunnel(2_000 + number);
    setup.stub.set_personality(Personality::Plain);
    let (own, stepped) = (setup.authenticated_at(), unix_seconds() + ahead);
    let (from, to) = (stepped - LAG_SECONDS, stepped + 1);
    assert!(own >= file_time(from.max(0)) && own <= file_time(to.max(0)), "{name}: authenticated at {own}");
    let said = line.get(..19).expect("a time");
    assert!(*said >= *rfc3339(from) && *said <= *rfc3339(to), "{name}: {line}");
    println!("{name}: proved at {own}, line of {said}");
}

#[test]
fn wall_clock_steps_change_log_times_and_messages_but_no_tunnel_or_deadline() {
    let idle = format!("{}ms", IDLE.as_millis());
    let Some(setup) = SteppedSetup::start(stub(), &["--idle-timeout", &idle]) else { return };
    assert_flows(&setup.gateway);
    let (before, began) = (vitals(&setup.gateway), Instant::now());
    let talking = tunnel(&setup.gateway).expect("a tunnel");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let talk = scope.spawn(|| keep_talking(&talking.stream, &over));
        // Whatever a step does, `keep_talking` must not outlive it.
        let stepped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for (number, (name, ahead)) in (0..).zip(steps()) {
                step_by_step(&setup, number, name, ahead);
            }
        }));
        over.store(true, Ordering::Relaxed);
        let said = talk.join().expect("it stays open through all steps");
        stepped.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        assert!(said > 20, "{said}");
    });
    drop(talking);

    // No duration exceeds that of the test, or twice that for both shards together.
    let text = setup.gateway.metrics();
    for family in ["handshake_duration", "handshake_phase_duration", "loop_turn_duration"] {
        let name = format!("ntlm_gateway_{family}_seconds_sum");
        let sum = metrics::sum(&text, &name, &[]).unwrap_or_else(|| panic!("no {name}"));
        assert!(sum > 0.0 && sum < 2.0 * began.elapsed().as_secs_f64(), "{name} {sum}");
    }
    let durations = setup.gateway.log().into_iter().filter_map(|line| {
        let (_, rest) = line.split_once(" duration_ms=")?;
        rest.split(' ').next()?.parse::<u128>().ok()
    });
    let longest = durations.max().expect("lines of tunnels");
    assert!(longest >= IDLE.as_millis() && longest <= began.elapsed().as_millis() + 1_000, "{longest} ms");
    assert_eq!(setup.stub.counters().refused, 0, "{}", setup.stub.counters());
    assert_nothing_leaked(setup.gateway.admin_address(), before, 0);
    setup.stop();
}

#[test]
fn wall_clock_steps_neither_speed_up_nor_delay_the_return_of_an_upstream() {
    let Some(setup) = SteppedSetup::start(stub(), &[]) else { return };
    let up = || setup.gateway.metric("ntlm_gateway_upstream_up", &[]);
    for (name, ahead) in [("six hours forward", 6 * HOUR), ("ten days back", -10 * DAY), ("right again", 0)] {
        assert_flows(&setup.gateway);
        setup.tap.set_down(true);
        let ejected = || {
            assert!(tunnel(&setup.gateway).is_none(), "{name}: through an upstream that is down");
            (up() == Some(0.0)).then_some(())
        };
        assert!(wait_for(BOUND, ejected).is_some(), "{name}: it is never ejected");
        let (dialled, stepped) = (setup.tap.accepted(), Instant::now());
        setup.clock.step(ahead);
        // A pause of a second or more between two checks, whatever the clock says.
        std::thread::sleep(Duration::from_millis(2_200));
        let checks = setup.tap.accepted() - dialled;
        assert!(checks as u64 <= 1 + stepped.elapsed().as_secs(), "{name}: {checks} checks");
        setup.tap.set_down(false);
        let began = Instant::now();
        assert!(wait_for(BOUND, || (up() == Some(1.0)).then_some(())).is_some(), "{name}: it never returns");
        assert!(began.elapsed() < LATE, "{name}: {:?}", began.elapsed());
        println!("{name}: {checks} checks in 2.2 s, back after {:?}", began.elapsed());
    }
    setup.stop();
}

#[test]
fn wall_clock_steps_do_not_allow_a_rejected_password_to_be_retried() {
    let stub = stub();
    stub.set_password("CORP", "alice", "changed meanwhile");
    let Some(setup) = SteppedSetup::start(stub, &[]) else { return };
    let ask = || connect_name(setup.gateway.address(), "echo.test:7").expect("an answer");
    assert_eq!(ask().status(), 502);
    assert_eq!(setup.stub.counters().refused, 1);
    for (name, ahead) in steps() {
        setup.clock.step(ahead);
        for _ in 0..5 {
            let answer = ask();
            let reported = answer.field("proxy-status").unwrap_or_default();
            assert!(
                answer.status() == 502 && reported.contains("not tried again for 1 min"),
                "{name}: {}",
                answer.head
            );
        }
    }
    assert_eq!(setup.stub.counters().refused, 1, "{}", setup.stub.counters());
    setup.stop();
}
