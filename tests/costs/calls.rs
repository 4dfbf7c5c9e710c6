//! System calls, counted by strace.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::scratch::{Scratch, wait_for};
use crate::support::tools::path_of;
use crate::work::{Scheme, Work, run};
use crate::{Comparison, program};

/// Repetitions in the first run, which is subtracted from the second to cancel the calls of start and stop.
const FEW: usize = 10;
const TIMES: usize = 50;

/// How long strace may take to write its table after the gateway has ended.
const BOUND: Duration = Duration::from_secs(20);

/// How many calls may be the work of chance: a connection may be accepted before its first bytes have come.
const TOLERANCE: f64 = 0.3;

/// Calls of the log's writer, which depend on time, and of threads that begin and end.
const NOT_COUNTED: [&str; 10] = [
    "brk",
    "clock_nanosleep",
    "futex",
    "madvise",
    "mmap",
    "mprotect",
    "munmap",
    "rt_sigprocmask",
    "sigaltstack",
    "write",
];

#[test]
fn a_tunnel_or_request_takes_no_more_system_calls_than_before() {
    require_tools!("strace");
    let Some(program) = program() else { return };
    let mut comparison = Comparison { tolerance: TOLERANCE, ..Comparison::new(file!()) };
    let mut wrong = Vec::new();
    // How many events a wake-up brings is chance, so wake-ups have an upper bound: one for each event.
    for (what, scheme, work, expected, most_waits) in [
        ("a tunnel with NTLM", Scheme::Ntlm, Work::Tunnels, 21.0, 8.5),
        ("a tunnel with Kerberos", Scheme::Kerberos, Work::Tunnels, 19.0, 7.5),
        ("a plain request on kept connections", Scheme::Ntlm, Work::Requests, 4.0, 2.5),
        ("a message of 1 KiB there and back", Scheme::Ntlm, Work::Messages(1024), 4.0, 2.5),
    ] {
        let counts = calls_each(&program, scheme, work);
        println!("{what}: {}", listed(&counts));
        let (waits, others): (Vec<_>, Vec<_>) = counts.into_iter().partition(|(name, _)| is_wait(name));
        let sum = |counts: Vec<(String, f64)>| counts.into_iter().map(|(_, count)| count).sum::<f64>();
        comparison.compare("system calls", what, sum(others), expected);
        let waits = sum(waits);
        if waits > most_waits {
            wrong.push(format!("{waits:.1} wake-ups for {what}, at most {most_waits}"));
        }
    }
    comparison.finish();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What waits for another thread makes a call for it: for a lock that is held, or to wake a thread that sleeps.
#[test]
fn shards_and_the_log_hardly_ever_wait_for_each_other() {
    const CLIENTS: usize = 16;
    const MOST: f64 = 0.05;
    require_tools!("strace");
    let Some(program) = program() else { return };
    let futex_calls = |times| {
        // Only futex stops the process, because strace slows down what it sees: the writer of the log would fall
        // asleep, and have to be woken, between two tunnels.
        let counts = count("--seccomp-bpf -e trace=futex", &program, Scheme::Ntlm, Work::TunnelsAtOnce(CLIENTS), times);
        counts.get("futex").copied().unwrap_or(0) as f64
    };
    let each = (futex_calls(FEW + TIMES) - futex_calls(FEW)) / (TIMES * CLIENTS) as f64;
    println!("{each:.3} futex calls for a tunnel, at most {MOST}");
    assert!(each <= MOST, "{each:.3} futex calls for a tunnel");
}

/// Whether a call waits for events: it is epoll_wait or epoll_pwait.
pub fn is_wait(name: &str) -> bool {
    name.ends_with("wait")
}

/// The calls of each of so many repetitions, by their names.
pub fn calls_each(program: &str, scheme: Scheme, work: Work) -> BTreeMap<String, f64> {
    let (few, many) = (calls(program, scheme, work, FEW), calls(program, scheme, work, FEW + TIMES));
    let each = |name: &str| (many[name] as f64 - few.get(name).copied().unwrap_or(0) as f64) / TIMES as f64;
    let counted = many.keys().filter(|name| !NOT_COUNTED.contains(&name.as_str()));
    counted.map(|name| (name.clone(), each(name))).collect()
}

/// The counts, in one line of text.
pub fn listed(counts: &BTreeMap<String, f64>) -> String {
    let counts = counts.iter().filter(|(_, count)| count.abs() >= 0.1);
    counts.map(|(name, count)| format!("{name} {count:.1}")).collect::<Vec<String>>().join(", ")
}

/// The calls of all threads of a gateway, by their names.
fn calls(program: &str, scheme: Scheme, work: Work, times: usize) -> BTreeMap<String, u64> {
    count("", program, scheme, work, times)
}

/// As [`calls`], with further options of strace.
fn count(options: &str, program: &str, scheme: Scheme, work: Work, times: usize) -> BTreeMap<String, u64> {
    let scratch = Scratch::new("calls");
    let table = scratch.join("table");
    let strace = path_of("strace");
    // With -D, strace is not the process that gets the signal to stop.
    let setup = format!("exec {} -D -f -c {options} -o {} {program} \"$@\"", strace.display(), table.display());
    run(scheme, setup, work, times);
    let written = || std::fs::read_to_string(&table).ok().filter(|text| text.contains(" total\n"));
    let table = wait_for(BOUND, written).expect("strace's table");
    // % time, seconds, usecs/call, calls, errors (may be missing), name.
    let row = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let name = fields.last().filter(|name| **name != "total")?;
        Some(((*name).to_owned(), fields.get(3)?.parse().ok()?))
    };
    table.lines().filter_map(row).collect()
}
