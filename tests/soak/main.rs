//! Load with faults for any length of time: no wrong byte, no growth, and full recovery when the faults end.
//!
//! Clients run checked exchanges of every kind while upstreams are killed and restarted, their connections are reset,
//! clients disconnect, the configuration is reloaded, the sessions are listed and the process is suspended for moments.
//!
//! `NTLM_GATEWAY_SOAK_SECONDS` sets the duration (12), `NTLM_GATEWAY_SOAK_DIR` the folder for `soak.csv` and
//! `soak.svg`, and `NTLM_GATEWAY_SOAK_LOADTEST` the `ntlm-loadtest` that adds half of the maximum load.

#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod client;
mod mixed;
mod plot;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use client::{Dice, ExchangeOutcome, exchange};
use mixed::HalfLoad;
use ntlm_gateway::stub::{StubOptions, StubServer};
use plot::Curve;
use rustix::process::Signal;
use support::cutter::{Cut, CutKind, Cutter, Direction};
use support::gateway::{Gateway, GatewayOptions};
use support::in_process::ACCOUNT;
use support::listener::Refusing;
use support::scratch::wait_for;
use support::vitals::{Vitals, assert_nothing_leaked, get};

const CLIENTS: u64 = 12;

/// Descriptors of the empty pipes that two shards keep, two each.
const PIPES_KEPT: u64 = 2 * 8 * 2;

#[derive(Default)]
struct Tally {
    fine: AtomicU64,
    refused: AtomicU64,
    broken: AtomicU64,
    aborted: AtomicU64,
    bytes: AtomicU64,
    faults: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

impl Tally {
    fn take(&self, outcome: ExchangeOutcome) {
        let counter = match outcome {
            ExchangeOutcome::Fine(bytes) => {
                self.bytes.fetch_add(bytes, Ordering::Relaxed);
                &self.fine
            }
            ExchangeOutcome::Refused => &self.refused,
            ExchangeOutcome::Broken => &self.broken,
            ExchangeOutcome::Aborted => &self.aborted,
            ExchangeOutcome::Wrong(why) => {
                eprintln!("WRONG: {why}");
                return self.wrong.lock().unwrap_or_else(PoisonError::into_inner).push(why);
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn wrong(&self) -> Vec<String> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// An upstream that can be killed and restarted at the same address.
struct KillableUpstream {
    stub: Option<StubServer>,
    /// Keeps its port for it while it is dead.
    _place: Refusing,
    options: StubOptions,
    cutter: Cutter,
}

impl KillableUpstream {
    fn start() -> Self {
        let (domain, user, password) = ACCOUNT;
        let place = Refusing::new();
        let options = StubOptions { listen: place.address, ..StubOptions::default() }.account(domain, user, password);
        let stub = StubServer::start(options.clone()).expect("a stub");
        Self { cutter: Cutter::start(stub.address()), stub: Some(stub), options, _place: place }
    }

    /// Its connections are reset, not closed: an orderly end would mean that everything has arrived.
    fn kill(&mut self) {
        self.cutter.set_down(true);
        self.cutter.reset_all();
        self.stub = None;
    }

    fn revive(&mut self) {
        let options = &self.options;
        let stub = wait_for(Duration::from_secs(20), || StubServer::start(options.clone()).ok());
        self.stub = Some(stub.expect("its address is free again"));
        self.cutter.set_down(false);
    }
}

/// One random fault, and its end.
fn fault(gateway: &Gateway, upstreams: &mut [KillableUpstream; 2], dice: &mut Dice) {
    let chosen = usize::from(dice.roll(2) == 0);
    let pause = Duration::from_millis(50 + dice.roll(1_000));
    let upstream = &mut upstreams[chosen];
    match dice.roll(9) {
        0 | 1 => {
            upstream.kill();
            std::thread::sleep(pause);
            upstream.revive();
        }
        2 => {
            upstreams.iter_mut().for_each(KillableUpstream::kill);
            std::thread::sleep(pause / 2);
            upstreams.iter_mut().for_each(KillableUpstream::revive);
        }
        3 => upstream.cutter.reset_all(),
        4 => {
            let direction = if dice.roll(2) == 0 { Direction::Up } else { Direction::Down };
            let after = dice.roll(3_000);
            upstream.cutter.arm(Cut { direction, after, kind: CutKind::Reset }, 3);
        }
        5 => gateway.signal(Signal::HUP),
        6 => gateway.signal(Signal::USR1),
        7 => {
            gateway.signal(Signal::STOP);
            std::thread::sleep(pause / 2);
            gateway.signal(Signal::CONT);
        }
        _ => {
            // Nothing responds for a while, then all connections are cut.
            upstream.cutter.arm(Cut { direction: Direction::Down, after: 0, kind: CutKind::Stall }, 2);
        }
    }
}

/// One line of the table.
struct Sample {
    seconds: f64,
    vitals: Vitals,
    healthz_ms: f64,
    counts: [u64; 7],
}

const HEADING: &str = "seconds,rss_kib,descriptors,threads,cpu_seconds,tunnels_open,pipes_in_use,waiting,healthz_ms,fine,refused,broken,aborted,bytes,faults,wrong\n";

fn sample(began: Instant, gateway: &Gateway, tally: &Tally) -> Option<Sample> {
    let vitals = Vitals::of(gateway.admin_address()).ok()?;
    let asked = Instant::now();
    let alive = get(gateway.admin_address(), "/healthz", Duration::from_secs(20));
    // Nothing responds while the process is suspended; a loop that stalls longer is a violation.
    if !alive.is_ok_and(|(status, _)| status == 200) && asked.elapsed() > Duration::from_secs(5) {
        tally.take(ExchangeOutcome::Wrong("/healthz fails".into()));
    }
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let counts = [&tally.fine, &tally.refused, &tally.broken, &tally.aborted, &tally.bytes, &tally.faults].map(load);
    let [fine, refused, broken, aborted, bytes, faults] = counts;
    let counts = [fine, refused, broken, aborted, bytes, faults, tally.wrong().len() as u64];
    let healthz_ms = asked.elapsed().as_secs_f64() * 1000.0;
    Some(Sample { seconds: began.elapsed().as_secs_f64(), vitals, healthz_ms, counts })
}

fn table(samples: &[Sample]) -> String {
    let mut text = HEADING.to_owned();
    for Sample { seconds, vitals, healthz_ms, counts } in samples {
        let Vitals { rss_kib, descriptors, threads, cpu_seconds, tunnels_open, pipes_in_use, waiting } = vitals;
        let counts = counts.map(|count| count.to_string()).join(",");
        let _ = writeln!(
            text,
            "{seconds:.1},{rss_kib},{descriptors},{threads},{cpu_seconds},{tunnels_open},{pipes_in_use},{waiting},{healthz_ms:.1},{counts}"
        );
    }
    text
}

/// Writes the files repeatedly during a run, so that an interrupted run leaves its data.
fn keep(directory: &Path, samples: &[Sample]) {
    #[allow(clippy::cast_precision_loss, reason = "drawn with three digits")]
    fn curve(title: &str, samples: &[Sample], value: impl Fn(&Sample) -> u64) -> Curve {
        let points = samples.iter().map(|sample| (sample.seconds, value(sample) as f64)).collect();
        Curve { title: title.to_owned(), points }
    }
    /// Over ten samples, because it is counted in whole seconds.
    fn cpu_share(title: &str, samples: &[Sample]) -> Curve {
        let share = |span: &[Sample]| {
            let (from, to) = (&span[0], &span[span.len() - 1]);
            let cpu_seconds = to.vitals.cpu_seconds - from.vitals.cpu_seconds;
            (to.seconds, 100.0 * cpu_seconds / (to.seconds - from.seconds))
        };
        Curve { title: title.to_owned(), points: samples.windows(11).map(share).collect() }
    }
    let curves = [
        curve("memory in use (RSS), KiB", samples, |sample| sample.vitals.rss_kib),
        curve("open descriptors", samples, |sample| sample.vitals.descriptors),
        cpu_share("CPU of the gateway, % of a core", samples),
        curve("exchanges with every byte correct", samples, |sample| sample.counts[0]),
        curve("exchanges that failed as expected", samples, |sample| sample.counts[1] + sample.counts[2]),
        curve("wrong bytes, stalls, unreported cuts", samples, |sample| sample.counts[6]),
    ];
    std::fs::write(directory.join("soak.csv"), table(samples)).expect("soak.csv");
    std::fs::write(directory.join("soak.svg"), plot::svg("ntlm-gateway under load and faults", &curves))
        .expect("soak.svg");
}

fn median(samples: &[Sample], value: impl Fn(&Sample) -> u64) -> u64 {
    let mut values: Vec<u64> = samples.iter().map(value).collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Both quarters have the same load, so a difference is growth.
fn assert_flat(samples: &[Sample]) {
    let quarter = samples.len() / 4;
    let (early, late) = (&samples[quarter..2 * quarter], &samples[3 * quarter..]);
    let rss = |samples| median(samples, |sample: &Sample| sample.vitals.rss_kib);
    assert!(rss(late) <= rss(early) * 110 / 100 + 4096, "RSS in KiB: {} and later {}", rss(early), rss(late));
    let descriptors = |samples| median(samples, |sample: &Sample| sample.vitals.descriptors);
    let (early, late) = (descriptors(early), descriptors(late));
    assert!(late <= early * 125 / 100 + PIPES_KEPT, "descriptors: {early} and later {late}");
    let threads: Vec<u64> = samples.iter().map(|sample| sample.vitals.threads).collect();
    assert!(threads.iter().all(|count| *count < 40), "threads: {threads:?}");
}

fn seconds_asked_for() -> u64 {
    std::env::var("NTLM_GATEWAY_SOAK_SECONDS").map_or(12, |text| text.parse().expect("NTLM_GATEWAY_SOAK_SECONDS"))
}

#[test]
fn faults_under_load_corrupt_no_byte_and_leak_nothing() {
    let lasts = Duration::from_secs(seconds_asked_for());
    let directory = std::env::var_os("NTLM_GATEWAY_SOAK_DIR");
    let mut upstreams = [KillableUpstream::start(), KillableUpstream::start()];
    let mut options = GatewayOptions::through(upstreams[0].cutter.address());
    options.upstreams.push(upstreams[1].cutter.address().to_string());
    options.lifetime = lasts + Duration::from_secs(600);
    let arguments = ["--shards", "2", "--order", "balance", "--handshake-timeout", "10s"];
    options.args = arguments.map(String::from).into();
    options.env = vec![("RUST_LOG".into(), "info,access=off".into())];
    let mut gateway = Gateway::start(&options);
    let tally = Tally::default();
    let mut dice = Dice(1);
    assert!(matches!(exchange_of(&gateway, &mut Dice(0)), ExchangeOutcome::Fine(_)), "the first exchange");
    std::thread::sleep(Duration::from_secs(1));
    let before = Vitals::of(gateway.admin_address()).expect("metrics");

    let measured = (lasts / 60).max(Duration::from_secs(5));
    let half_load = mixed::program().map(|program| HalfLoad::start(&program, &gateway, measured, lasts));
    let (over, began) = (AtomicBool::new(false), Instant::now());
    let mut samples = Vec::new();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (tally, over, address) = (&tally, &over, gateway.address());
            scope.spawn(move || {
                let mut dice = Dice(1000 + client);
                while !over.load(Ordering::Relaxed) {
                    let outcome = exchange(address, &mut dice);
                    // A client that was rejected waits before it asks again.
                    let pause_ms = if matches!(outcome, ExchangeOutcome::Refused) { 500 } else { dice.roll(100) };
                    tally.take(outcome);
                    std::thread::sleep(Duration::from_millis(pause_ms));
                }
            });
        }
        let sampler = scope.spawn(|| {
            let every = (lasts / 500).max(Duration::from_millis(500));
            let mut samples = Vec::new();
            while !over.load(Ordering::Relaxed) {
                samples.extend(sample(began, &gateway, &tally));
                if let Some(directory) = directory.as_deref().filter(|_| samples.len() % 20 == 0) {
                    keep(Path::new(directory), &samples);
                }
                std::thread::sleep(every);
            }
            samples
        });
        while began.elapsed() < lasts {
            std::thread::sleep(Duration::from_millis(500 + dice.roll(4_000)));
            fault(&gateway, &mut upstreams, &mut dice);
            tally.faults.fetch_add(1, Ordering::Relaxed);
        }
        over.store(true, Ordering::Relaxed);
        samples = sampler.join().expect("the samples");
    });
    if let Some(directory) = &directory {
        keep(Path::new(directory), &samples);
    }
    for upstream in &upstreams {
        upstream.cutter.disarm();
    }
    assert!(gateway.is_running());
    let mut wrong = tally.wrong();
    wrong.extend(half_load.into_iter().flat_map(|load| load.end().wrong));
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_flat(&samples);
    // An ejected upstream is checked after 30 s at the latest.
    let flows = wait_for(Duration::from_secs(60), || {
        matches!(exchange_of(&gateway, &mut Dice(0)), ExchangeOutcome::Fine(_)).then_some(())
    });
    assert!(flows.is_some(), "no traffic after the last fault");
    assert_nothing_leaked(gateway.admin_address(), before, PIPES_KEPT);
    let fine = tally.fine.load(Ordering::Relaxed);
    assert!(fine > lasts.as_secs(), "only {fine} exchanges succeeded");
    println!("{}", table(&samples[samples.len() - 1..]));
}

fn exchange_of(gateway: &Gateway, dice: &mut Dice) -> ExchangeOutcome {
    exchange(gateway.address(), dice)
}
