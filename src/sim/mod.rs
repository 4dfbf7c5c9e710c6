//! Simulation: a real shard in a simulated world. Scripted clients and upstreams, a network that delays, splits, loses
//! and resets, and a poll that is late and noisy share one virtual clock, and one seed decides everything.
//!
//! Only what lies behind `transport::Stream`, `transport::Listener` and `transport::Pipe` is simulated; everything else
//! is the gateway's own code.
//!
//! | file | subject |
//! |---|---|
//! | `rng` | randomness |
//! | `scenario` | what a seed decides before a run |
//! | `network` | connections, pipes, the poll, and time |
//! | `client`, `opening`, `upstream`, `pump` | the peers |
//! | `plain` | plain HTTP clients and servers |
//! | `kerberos` | a KDC, its tickets, and upstreams that verify them |
//! | `tls` | upstreams with TLS |
//! | `world` | all of them together, until the shard ends |
//! | `invariants` | what must be true of every run |
//! | `cases`, `route_cases` | hand-written scenarios |
//! | `routes` | a scripted source of routes |
//! | `trace` | what happened in a run |
//!
//! A failure names its seed and the command that replays it with its scenario and every event:
//! `SIM_SEED=17 cargo test --lib sim::one_seed -- --ignored --nocapture`. To run many seeds:
//! `SIM_SEEDS=0..1000000 cargo test --release --lib sim::many_seeds -- --ignored --nocapture`. `SIM_TRACE=1` prints the
//! scenarios and events of the hand-written ones.

mod cases;
mod client;
mod invariants;
mod kerberos;
pub mod network;
mod opening;
mod plain;
mod pump;
pub(crate) mod rng;
mod route_cases;
mod routes;
mod scenario;
mod tls;
mod trace;
mod upstream;
mod world;

use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use invariants::RunSummary;
use kerberos::RealmCounts;
use network::TlsCounts;
use scenario::Scenario;

/// What a seed decides.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Ntlm,
    /// The same, and tickets in addition.
    Kerberos,
    /// As with NTLM, with SOCKS clients in place of those that send a CONNECT.
    Socks,
    /// As with NTLM, with redirected connections: TLS, plain HTTP and other protocols.
    Transparent,
    /// As with NTLM, with a client of a listener with a target.
    Forward,
    /// As with NTLM, with a PROXY header on each connection.
    ProxyHeader,
    /// As with NTLM, with TLS to most upstreams.
    Tls,
}

impl Kind {
    /// The kind in SIM_KIND.
    fn wanted() -> Kind {
        match std::env::var("SIM_KIND").as_deref() {
            Ok("kerberos") => Kind::Kerberos,
            Ok("socks") => Kind::Socks,
            Ok("transparent") => Kind::Transparent,
            Ok("forward") => Kind::Forward,
            Ok("proxy-header") => Kind::ProxyHeader,
            Ok("tls") => Kind::Tls,
            Err(_) | Ok("ntlm") => Kind::Ntlm,
            Ok(other) => {
                panic!("SIM_KIND is ntlm, kerberos, socks, transparent, forward, proxy-header or tls, not {other}")
            }
        }
    }
}

/// Runs one seed.
///
/// # Errors
/// The seed, everything that was wrong, and the command that replays it.
fn run(kind: Kind, seed: u64, print: bool) -> Result<RunSummary, String> {
    let (scenario, variable) = match kind {
        Kind::Ntlm => (Scenario::of(seed), ""),
        Kind::Kerberos => (Scenario::with_kerberos(seed), "SIM_KIND=kerberos "),
        Kind::Socks => (Scenario::with_socks(seed), "SIM_KIND=socks "),
        Kind::Transparent => (Scenario::with_transparent_clients(seed), "SIM_KIND=transparent "),
        Kind::Forward => (Scenario::with_forward(seed), "SIM_KIND=forward "),
        Kind::ProxyHeader => (Scenario::with_proxy_headers(seed), "SIM_KIND=proxy-header "),
        Kind::Tls => (Scenario::with_tls(seed), "SIM_KIND=tls "),
    };
    play(scenario, seed, print).map_err(|wrong| {
        format!(
            "seed {seed}: {wrong}\n    replay: {variable}SIM_SEED={seed} cargo test --lib sim::one_seed -- --ignored \
             --nocapture"
        )
    })
}

/// Runs a scenario; the seed decides what it leaves open.
///
/// # Errors
/// Everything that was wrong.
fn play(scenario: Scenario, seed: u64, print: bool) -> Result<RunSummary, String> {
    if print {
        println!("{scenario:#?}");
    }
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let (mut world, mut shard) = world::build(scenario, seed, print);
        let run = world.run(&mut shard).map_err(|why| vec![why]);
        let remains = shard.remains();
        drop(shard);
        run?;
        world.settle().map_err(|why| vec![why])?;
        match (invariants::check(&world), remains.is_empty()) {
            (Ok(summary), true) => Ok(summary),
            (Ok(_), false) => Err(remains),
            (Err(wrong), _) => Err(wrong.into_iter().chain(remains).collect()),
        }
    }));
    network::install(None);
    let wrong = match outcome {
        Ok(Ok(summary)) => return Ok(summary),
        Ok(Err(wrong)) => wrong.join("\n    "),
        Err(panic) => format!("panicked: {}", panic_message(&*panic)),
    };
    world::forget_metrics();
    Err(wrong)
}

fn panic_message(panic: &dyn Any) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}

/// The totals of many runs.
#[derive(Debug, Default)]
struct Totals {
    ends: BTreeMap<&'static str, u64>,
    spliced: u64,
    pauses: u64,
    carried: u64,
    tickets: RealmCounts,
    tls: TlsCounts,
    wrong: Vec<String>,
}

/// Runs seeds on as many threads as there are processors; stops early after ten failures.
fn run_all(kind: Kind, seeds: Range<u64>) -> Totals {
    let (next, totals) = (AtomicU64::new(seeds.start), Mutex::new(Totals::default()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || totals.lock().unwrap().wrong.len() >= 10 {
                return;
            }
            let summary = run(kind, seed, false);
            let mut totals = totals.lock().unwrap();
            match summary {
                Ok(summary) => {
                    summary.ends.iter().for_each(|end| *totals.ends.entry(end).or_default() += 1);
                    totals.spliced += summary.spliced;
                    totals.pauses += summary.pauses;
                    totals.carried += summary.carried;
                    totals.tickets.add(&summary.tickets);
                    totals.tls.add(&summary.tls);
                }
                Err(wrong) => totals.wrong.push(wrong),
            }
        }
    };
    let threads = thread::available_parallelism().map_or(2, usize::from);
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    totals.into_inner().unwrap()
}

#[test]
fn every_byte_arrives_or_a_fault_is_reported_and_nothing_leaks() {
    let totals = run_all(Kind::Ntlm, 0..4_000);
    assert!(totals.wrong.is_empty(), "{}", totals.wrong.join("\n"));
    for end in
        ["finished", "declined", "upstream_reset", "client_gone", "idle_timeout", "half_closed_timeout", "drained"]
    {
        assert!(
            totals.ends.get(end).is_some_and(|count| *count > 10),
            "too few tunnels ended as {end}: {:?}",
            totals.ends
        );
    }
    assert!(totals.spliced > totals.carried / 50, "only {} of {} bytes were spliced", totals.spliced, totals.carried);
    assert!(totals.pauses > 1_000, "bulk transfers paused only {} times", totals.pauses);
}

#[test]
fn tickets_are_used_replaced_and_never_the_way_around_the_configuration() {
    let totals = run_all(Kind::Kerberos, 0..1_000);
    assert!(totals.wrong.is_empty(), "{}", totals.wrong.join("\n"));
    let RealmCounts { logons, wrong_logons, issued, accepted, refused, replaced, ntlm } = totals.tickets;
    let counts = [logons, wrong_logons, issued, accepted, refused, replaced, ntlm];
    assert!(counts.iter().all(|count| *count > 50), "{:?}", totals.tickets);
    for end in
        ["kdc_unreachable", "ticket_unavailable", "credentials_refused", "mutual_auth_failed", "scheme_not_offered"]
    {
        assert!(totals.ends.get(end).is_some_and(|count| *count > 10), "too few ended as {end}: {:?}", totals.ends);
    }
}

#[test]
fn bytes_of_socks_clients_arrive_or_a_fault_is_reported() {
    passes(Kind::Socks, 1_000, &["finished", "declined", "client_gone", "head_timeout", "drained"]);
}

/// Runs seeds of a kind; ends with these labels must be common among them.
fn passes(kind: Kind, seeds: u64, ends: &[&str]) -> Totals {
    let totals = run_all(kind, 0..seeds);
    assert!(totals.wrong.is_empty(), "{}", totals.wrong.join("\n"));
    for end in ends {
        assert!(totals.ends.get(end).is_some_and(|count| *count > 10), "too few ended as {end}: {:?}", totals.ends);
    }
    totals
}

#[test]
fn bytes_over_tls_arrive_or_a_fault_is_reported() {
    let ends = ["finished", "upstream_reset", "client_gone", "connect_timeout", "half_closed_timeout"];
    let TlsCounts { new, resumed, failed, truncated, new_keys, .. } = passes(Kind::Tls, 1_000, &ends).tls;
    let counts = [new, resumed, failed, truncated, new_keys];
    assert!(counts.iter().all(|count| *count > 20), "{counts:?}");
}

/// In this run TLS sends the rest of an AUTHENTICATE_MESSAGE by itself, and the upstream opens the tunnel at once.
#[test]
fn the_end_of_a_request_may_be_sent_and_answered_within_a_turn() {
    run(Kind::Tls, 27_147, false).unwrap();
}

#[test]
fn bytes_of_redirected_clients_arrive_or_a_fault_is_reported() {
    let ends = ["finished", "declined", "client_gone", "destination_denied", "drained", "answer: complete"];
    passes(Kind::Transparent, 1_000, &ends);
}

#[test]
fn bytes_through_a_fixed_target_arrive_or_the_connection_is_reset() {
    passes(Kind::Forward, 2_000, &["finished", "declined", "client_gone", "destination_denied"]);
}

#[test]
fn clients_with_proxy_headers_are_served_as_without() {
    let ends = ["finished", "declined", "client_gone", "client_not_allowed", "head_timeout", "answer: complete"];
    passes(Kind::ProxyHeader, 1_000, &ends);
}

#[test]
fn a_seed_always_gives_the_same_run() {
    for (kind, seed) in (0..100).flat_map(|seed| [Kind::Ntlm, Kind::Kerberos, Kind::Tls].map(|kind| (kind, seed))) {
        let hash = || run(kind, seed, false).map(|outcome| outcome.hash);
        assert_eq!(hash(), hash(), "{kind:?}, seed {seed}");
    }
}

#[test]
#[ignore = "replays the seed in SIM_SEED and prints its scenario and every event"]
fn one_seed() {
    let seed = std::env::var("SIM_SEED").ok().and_then(|text| text.parse().ok()).expect("SIM_SEED is a number");
    match run(Kind::wanted(), seed, true) {
        Ok(summary) => println!("seed {seed} passed: {summary:?}"),
        Err(wrong) => panic!("{wrong}"),
    }
}

#[test]
#[ignore = "runs the seeds in SIM_SEEDS: FIRST..END, without END itself"]
fn many_seeds() {
    let text = std::env::var("SIM_SEEDS").unwrap_or_else(|_| "0..1000000".into());
    let (first, end) = text.split_once("..").expect("SIM_SEEDS is a range");
    let totals = run_all(Kind::wanted(), first.parse().unwrap()..end.parse().unwrap());
    println!("{:#?}\n{} of {} bytes spliced", totals.ends, totals.spliced, totals.carried);
    println!("{} pauses of bulk transfers", totals.pauses);
    println!("{:?}\n{:?}", totals.tickets, totals.tls);
    assert!(totals.wrong.is_empty(), "{}", totals.wrong.join("\n"));
}
