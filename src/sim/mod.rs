//! A shard against a world that is made up: scripted clients and upstreams, a network that delays, splits, loses and
//! resets, a poll that is late and noisy, all on a clock of its own and all from one seed.
//!
//! The shard is the real one, with everything that it steps; only what lies behind `event::Stream`, `event::Listener` and
//! `event::Pipe` is not the kernel.
//!
//! | file | subject |
//! |---|---|
//! | `rng` | chance |
//! | `scenario` | what a seed decides beforehand |
//! | `network` | connections, pipes, the poll, and time |
//! | `client`, `upstream`, `pump` | the peers |
//! | `plain` | clients that speak plain HTTP, and who answers them |
//! | `world` | all of them together, until the shard ends |
//! | `verdict` | what must be true of every run |
//! | `cases` | scenarios made up for one purpose |
//! | `trace` | what happened, as a number and as text |
//!
//! To see one seed: `SIM_SEED=17 cargo test --lib sim::one_seed -- --ignored --nocapture`. To run many:
//! `SIM_SEEDS=0..1000000 cargo test --release --lib sim::many_seeds -- --ignored --nocapture`.

mod cases;
mod client;
pub mod network;
mod plain;
mod pump;
pub(crate) mod rng;
mod scenario;
mod trace;
mod upstream;
mod verdict;
mod world;

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use scenario::Scenario;
use verdict::Outcome;

/// Runs one seed from its beginning to its end.
///
/// # Errors
/// What was not as it must be.
fn run(seed: u64, prints: bool) -> Result<Outcome, String> {
    play(Scenario::of(seed), seed, prints)
}

/// Runs a scenario from its beginning to its end.
fn play(scenario: Scenario, seed: u64, prints: bool) -> Result<Outcome, String> {
    let told = catch_unwind(AssertUnwindSafe(|| {
        let (mut world, mut shard) = world::build(scenario, seed, prints);
        let run = world.run(&mut shard).map_err(|why| vec![why]);
        let remains = shard.remains();
        drop(shard);
        run?;
        world.settle().map_err(|why| vec![why])?;
        let outcome = verdict::judge(&world);
        match (outcome, remains.is_empty()) {
            (Ok(outcome), true) => Ok(outcome),
            (Ok(_), false) => Err(remains),
            (Err(wrong), _) => Err(wrong.into_iter().chain(remains).collect()),
        }
    }));
    network::install(None);
    let wrong = match told {
        Ok(Ok(outcome)) => return Ok(outcome),
        Ok(Err(wrong)) => wrong.join("\n    "),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
        }
    };
    world::forget_metrics();
    Err(format!("seed {seed}: {wrong}"))
}

/// What many runs came to.
#[derive(Debug, Default)]
struct Sum {
    ends: BTreeMap<&'static str, u64>,
    spliced: u64,
    carried: u64,
    wrong: Vec<String>,
}

/// Runs seeds on as many threads as there are processors; stops early when several have gone wrong.
fn run_all(seeds: Range<u64>) -> Sum {
    let (next, sum) = (AtomicU64::new(seeds.start), Mutex::new(Sum::default()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || sum.lock().unwrap().wrong.len() >= 10 {
                return;
            }
            let outcome = run(seed, false);
            let mut sum = sum.lock().unwrap();
            match outcome {
                Ok(outcome) => {
                    outcome.ends.iter().for_each(|end| *sum.ends.entry(end).or_default() += 1);
                    sum.spliced += outcome.spliced;
                    sum.carried += outcome.carried;
                }
                Err(wrong) => sum.wrong.push(wrong),
            }
        }
    };
    let threads = thread::available_parallelism().map_or(2, usize::from);
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    sum.into_inner().unwrap()
}

#[test]
fn every_byte_arrives_in_order_or_a_fault_is_told_and_nothing_is_left_behind() {
    let sum = run_all(0..4_000);
    assert!(sum.wrong.is_empty(), "{}", sum.wrong.join("\n"));
    for end in
        ["finished", "declined", "upstream_reset", "client_gone", "idle_timeout", "half_closed_timeout", "drained"]
    {
        assert!(sum.ends.get(end).is_some_and(|count| *count > 10), "hardly any tunnel ended as {end}: {:?}", sum.ends);
    }
    assert!(sum.spliced > sum.carried / 50, "{} of {} bytes were spliced", sum.spliced, sum.carried);
}

#[test]
fn a_seed_does_the_same_every_time() {
    for seed in 0..100 {
        let hash = || run(seed, false).map(|outcome| outcome.hash);
        assert_eq!(hash(), hash(), "seed {seed}");
    }
}

#[test]
#[ignore = "one seed, in the variable SIM_SEED, with everything that happens in it"]
fn one_seed() {
    let seed = std::env::var("SIM_SEED").ok().and_then(|text| text.parse().ok()).expect("SIM_SEED is a number");
    println!("{:#?}", Scenario::of(seed));
    println!("{:?}", run(seed, true).unwrap());
}

#[test]
#[ignore = "as many seeds as the variable SIM_SEEDS says: FIRST..BEHIND_LAST"]
fn many_seeds() {
    let text = std::env::var("SIM_SEEDS").unwrap_or_else(|_| "0..1000000".into());
    let (first, end) = text.split_once("..").expect("SIM_SEEDS is a range");
    let sum = run_all(first.parse().unwrap()..end.parse().unwrap());
    println!("{:#?}\n{} of {} bytes spliced", sum.ends, sum.spliced, sum.carried);
    assert!(sum.wrong.is_empty(), "{}", sum.wrong.join("\n"));
}
