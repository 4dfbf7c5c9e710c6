//! Instructions and allocations of a shard, counted by callgrind.

use std::collections::HashMap;
use std::path::Path;

use crate::support::scratch::Scratch;
use crate::support::tools::path_of;
use crate::work::{Scheme, Work, run};
use crate::{Comparison, program};

/// The function that a shard spends its life in.
const SHARD: &str = "ntlm_gateway::shard::run::Shard::run";

/// By how much an instruction count may exceed the expected one, in percent.
const TOLERANCE_PERCENT: f64 = 2.0;

/// By how much a number of allocations may.
const TOLERANCE_ALLOCATIONS: f64 = 0.5;

/// How often something is counted at most.
const ATTEMPTS: usize = 6;

/// Repetitions in the first run, which is subtracted from the second to cancel the cost of start and stop.
const FEW: usize = 50;

/// What a unit of work takes, with the compiler of `rust-version` in Cargo.toml on x86-64.
struct Expected {
    what: &'static str,
    scheme: Scheme,
    work: Work,
    times: usize,
    instructions: f64,
    allocations: f64,
    /// Functions of the program that one call takes so many instructions.
    functions: &'static [(&'static str, f64)],
}

#[test]
fn a_message_takes_no_more_instructions_than_before() {
    check(&Expected {
        what: "a message of 1 KiB in a tunnel, there and back",
        scheme: Scheme::Ntlm,
        work: Work::Messages(1024),
        times: 4_000,
        instructions: 1_465.0,
        allocations: 0.0,
        functions: &[],
    });
}

#[test]
fn bulk_data_takes_no_more_instructions_than_before() {
    check(&Expected {
        what: "64 KiB in a tunnel, there and back",
        scheme: Scheme::Ntlm,
        work: Work::Messages(64 * 1024),
        times: 500,
        instructions: 1_600.0,
        allocations: 0.0,
        functions: &[],
    });
}

#[test]
fn a_request_takes_no_more_instructions_than_before() {
    check(&Expected {
        what: "a plain request on kept connections",
        scheme: Scheme::Ntlm,
        work: Work::Requests,
        times: 500,
        instructions: 17_990.0,
        allocations: 5.1,
        functions: &[],
    });
}

#[test]
fn a_tunnel_with_ntlm_takes_no_more_instructions_than_before() {
    check(&Expected {
        what: "a tunnel with NTLM",
        scheme: Scheme::Ntlm,
        work: Work::Tunnels,
        times: 400,
        instructions: 47_900.0,
        allocations: 7.3,
        functions: &[
            ("auth::conversation::<impl ntlm_gateway::auth::handshake::Handshake>::begin", 578.0),
            ("auth::proxy_answer::ProxyAnswer::of_407", 2_755.0),
            ("ntlm::client::authenticate", 15_975.0),
        ],
    });
}

#[test]
fn a_tunnel_with_kerberos_takes_no_more_instructions_than_before() {
    check(&Expected {
        what: "a tunnel with Kerberos",
        scheme: Scheme::Kerberos,
        work: Work::Tunnels,
        times: 400,
        instructions: 60_100.0,
        allocations: 15.4,
        functions: &[
            ("kerberos::ticket::Credential::token", 21_500.0),
            ("kerberos::ticket::ExpectedReply::verify", 11_770.0),
        ],
    });
}

/// The latest instructions of this work in the history, which the load test's report shows.
fn latest_in_history(what: &str) -> Option<f64> {
    let mut rows = include_str!("history.tsv").lines().map(|line| line.split('\t').collect::<Vec<&str>>());
    rows.rfind(|row| row.get(1) == Some(&what))?.get(2)?.parse().ok()
}

fn check(expected: &Expected) {
    let recorded = latest_in_history(expected.what);
    assert_eq!(recorded, Some(expected.instructions), "please add a row to tests/costs/history.tsv: {}", expected.what);
    require_tools!("valgrind");
    let Some(program) = program() else { return };
    if !cfg!(target_arch = "x86_64") {
        crate::support::tools::skip("the counts are for x86-64");
        return;
    }
    let Expected { what, scheme, work, times, .. } = *expected;
    let percent = |expected: f64| expected * TOLERANCE_PERCENT / 100.0;
    let most = expected.instructions + percent(expected.instructions);
    let (few, many) = count(&program, scheme, work, times, most);
    let each = |count: fn(&Profile) -> u64| (count(&many) as f64 - count(&few) as f64) / times as f64;
    let mut comparison = Comparison::new(file!());
    comparison.tolerance = percent(expected.instructions);
    let instructions = each(Profile::of_shard);
    comparison.compare("instructions", what, instructions, expected.instructions);
    comparison.tolerance = TOLERANCE_ALLOCATIONS;
    comparison.compare("allocations", what, each(Profile::allocations), expected.allocations);
    for (function, expected) in expected.functions {
        comparison.tolerance = percent(*expected);
        let name = format!("ntlm_gateway::{function}");
        let each = many.inclusive[&name] as f64 / many.calls[&name] as f64;
        comparison.compare("instructions", function, each, *expected);
    }
    comparison.finish();
}

/// The instructions of a shard for each of so many repetitions; counted again while they are more than `most`.
pub fn instructions_each(program: &str, scheme: Scheme, work: Work, times: usize, most: f64) -> f64 {
    of_shard_each(&count(program, scheme, work, times, most), times)
}

/// Counts a few repetitions, and so many more.
///
/// In how many pieces a message arrives, and how many events a turn handles, is chance, and each piece and turn beyond
/// the fewest adds instructions. So this counts again while there are more than `most` for each repetition, and keeps
/// the least.
fn count(program: &str, scheme: Scheme, work: Work, times: usize, most: f64) -> (Profile, Profile) {
    let count = || [FEW, FEW + times].map(|times| Profile::of(program, scheme, work, times)).into();
    let mut least = count();
    for _ in 1..ATTEMPTS {
        if of_shard_each(&least, times) <= most {
            break;
        }
        let other = count();
        if of_shard_each(&other, times) < of_shard_each(&least, times) {
            least = other;
        }
    }
    least
}

fn of_shard_each((few, many): &(Profile, Profile), times: usize) -> f64 {
    (many.of_shard() as f64 - few.of_shard() as f64) / times as f64
}

/// What callgrind has counted in a thread, by the functions' names.
#[derive(Default)]
struct Profile {
    /// Instructions of a function and of what it calls.
    inclusive: HashMap<String, u64>,
    calls: HashMap<String, u64>,
}

/// Those of all threads.
fn profiles_in(folder: &Path) -> Vec<Profile> {
    let entries = std::fs::read_dir(folder).expect("callgrind's folder");
    let files = entries.filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok());
    files.map(|text| Profile::read(&text)).collect()
}

impl Profile {
    /// That of the shard, in a run in which something is done so many times.
    fn of(program: &str, scheme: Scheme, work: Work, times: usize) -> Profile {
        let scratch = Scratch::new("instructions");
        let valgrind = path_of("valgrind");
        let setup = format!(
            "exec {} --tool=callgrind --separate-threads=yes --callgrind-out-file={} {program} \"$@\"",
            valgrind.display(),
            scratch.join("counts").display()
        );
        run(scheme, setup, work, times);
        let of_shard = profiles_in(scratch.path()).into_iter().find(|profile| profile.inclusive.contains_key(SHARD));
        of_shard.unwrap_or_else(|| panic!("callgrind has counted no {SHARD}"))
    }

    /// Instructions of the shard and of what it calls.
    fn of_shard(&self) -> u64 {
        self.inclusive[SHARD]
    }

    /// Allocations.
    fn allocations(&self) -> u64 {
        ["malloc", "calloc", "realloc"].iter().filter_map(|name| self.calls.get(*name)).sum()
    }

    /// Reads a file in callgrind's format. A name is defined where it comes first, as `(number) name`, and is only its
    /// number from then on.
    fn read(text: &str) -> Profile {
        let mut names: HashMap<String, String> = HashMap::new();
        let mut name_of = |field: &str| {
            let (number, name) = field.split_once(' ').unwrap_or((field, ""));
            if !name.is_empty() {
                names.insert(number.to_owned(), name.to_owned());
            }
            names.get(number).cloned().unwrap_or_else(|| field.to_owned())
        };
        let mut profile = Profile::default();
        let (mut function, mut callee) = (String::new(), String::new());
        for line in text.lines() {
            if let Some(field) = line.strip_prefix("fn=") {
                function = name_of(field);
            } else if let Some(field) = line.strip_prefix("cfn=") {
                callee = name_of(field);
            } else if let Some(rest) = line.strip_prefix("calls=") {
                let count = rest.split(' ').next().and_then(|count| count.parse::<u64>().ok()).unwrap_or(0);
                *profile.calls.entry(callee.clone()).or_default() += count;
            } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
                // A position and a cost: of the function itself, or of the call in the line before.
                let cost = line.split(' ').nth(1).and_then(|cost| cost.parse::<u64>().ok()).unwrap_or(0);
                *profile.inclusive.entry(function.clone()).or_default() += cost;
            }
        }
        profile
    }
}
