//! SPECIFICATION.md: every promise has its number and the tests that enforce it, and the limits have the stated values.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::LazyLock;
use std::time::Duration;

use ntlm_gateway::limits;

use super::pages::{self, cells};

/// What a promise says if no test enforces it.
const NOT_ENFORCED: &str = "not enforced";

/// One row of a table of promises or limits.
struct Promise {
    number: usize,
    /// Its last cell.
    enforced_by: &'static str,
    /// The value and the constant of a limit.
    limit: Option<(&'static str, &'static str)>,
}

fn promises(text: &'static str) -> Vec<Promise> {
    let mut promises = Vec::new();
    for row in text.lines().filter(|line| line.starts_with('|')).map(cells) {
        let Ok(number) = row[0].parse() else { continue };
        let limit = match row.len() {
            3 => None,
            5 => Some((row[2], row[3].trim_matches('`'))),
            cells => panic!("promise {number} has {cells} cells"),
        };
        assert!(row.iter().all(|cell| !cell.is_empty()), "promise {number} has an empty cell");
        promises.push(Promise { number, enforced_by: row[row.len() - 1], limit });
    }
    promises
}

/// Why a promise's tests do not count, if they do not.
fn fault(promise: &Promise) -> Option<String> {
    let tests = pages::codes(promise.enforced_by);
    let named: Vec<(&str, &str)> = tests.iter().filter_map(|test| test.split_once("::")).collect();
    let missing: Vec<String> =
        named.iter().filter(|(path, name)| !has_test(path, name)).map(|(path, name)| missing(path, name)).collect();
    let is_named = !named.is_empty() && named.len() == tests.len();
    match promise.enforced_by.starts_with(NOT_ENFORCED) || is_named {
        true if missing.is_empty() => None,
        true => Some(format!("{}: {}", promise.number, missing.join("; "))),
        false => Some(format!("{}: name each test as `file::function`, or say \"{NOT_ENFORCED}\"", promise.number)),
    }
}

/// Reports that a test is missing, and where the test with the most similar name is: tests are renamed and moved.
fn missing(path: &str, name: &str) -> String {
    let likeness = |other: &str| strsim::normalized_damerau_levenshtein(name, other);
    let functions = SOURCES.iter().flat_map(|(path, text)| functions(text).map(move |function| (path, function)));
    let nearest = functions.max_by(|one, other| likeness(one.1).total_cmp(&likeness(other.1)));
    let hint = nearest.map(|(path, function)| format!("; did you mean {path}::{function}?")).unwrap_or_default();
    format!("{path} has no test {name}{hint}")
}

/// The Rust sources with their paths from the repository's root.
static SOURCES: LazyLock<Vec<(String, String)>> = LazyLock::new(|| {
    let mut sources = Vec::new();
    let mut folders = vec!["src".to_owned(), "tests".to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(crate::root().join(&folder));
        for entry in entries.unwrap_or_else(|error| panic!("{folder}: {error}")).map(|entry| entry.expect("an entry")) {
            let path = format!("{folder}/{}", entry.file_name().to_str().expect("UTF-8"));
            if entry.path().is_dir() {
                folders.push(path);
            } else if path.ends_with(".rs") {
                let text = fs::read_to_string(entry.path()).unwrap_or_else(|error| panic!("{path}: {error}"));
                sources.push((path, text));
            }
        }
    }
    sources
});

/// The names of the functions in a source.
fn functions(text: &str) -> impl Iterator<Item = &str> {
    text.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next())
}

/// Whether a source has this function under `#[test]`, or generates it with a test macro.
fn has_test(path: &str, name: &str) -> bool {
    let Some((_, text)) = SOURCES.iter().find(|(known, _)| known == path) else { return false };
    let is_function = |at: usize| {
        let before = text[..at].trim_end();
        text[..at].ends_with("fn ") && before.rfind("#[test]\n").is_some_and(|test| !before[test..].contains('}'))
    };
    let is_replay = |at: usize| text[..at].rfind("replays! {").is_some_and(|begin| !text[begin..at].contains('}'));
    let is_whole = |at: usize| {
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        !text[at + name.len()..].starts_with(is_part) && !text[..at].ends_with(is_part)
    };
    text.match_indices(name).any(|(at, _)| is_whole(at) && (is_function(at) || is_replay(at)))
}

#[test]
fn every_promise_has_its_number_and_its_tests() {
    let promises = promises(pages::page("SPECIFICATION.md").text);
    assert!(promises.len() > 80, "only {} promises were found", promises.len());
    let numbers: Vec<usize> = promises.iter().map(|promise| promise.number).collect();
    assert_eq!(numbers, (1..=promises.len()).collect::<Vec<_>>());
    let faults: Vec<String> = promises.iter().filter_map(fault).collect();
    assert!(faults.is_empty(), "{faults:#?}");
    let unenforced = promises.iter().filter(|promise| promise.enforced_by.starts_with(NOT_ENFORCED)).count();
    assert!(unenforced * 5 < promises.len(), "{unenforced} of {} promises are not enforced", promises.len());
}

#[test]
fn a_promise_without_a_test_or_with_one_that_is_missing_is_found() {
    let fault_of = |enforced_by| fault(&Promise { number: 7, enforced_by, limit: None });
    let this = "tests/project/specification.rs";
    assert_eq!(fault_of("`tests/project/links.rs::every_link_of_the_documents_leads_to_a_file_and_a_heading`"), None);
    let replayed = "`tests/project/corpus.rs::base64_is_decoded_as_a_plain_decoder_does`";
    assert_eq!(fault_of(replayed), None);
    assert_eq!(fault_of("not enforced; measured by `benches/ntlm.rs`"), None);
    for wrong in ["", "by `benches/ntlm.rs`", "the tests", "not enforced, see `tests/none.rs::none`"] {
        assert!(fault_of(wrong).is_some(), "{wrong}");
    }
    // A function that is no test, one that does not exist, and the beginning of a name are all rejected.
    for name in ["has_test", "no_such_test", "every_promise_has_its_number"] {
        assert!(!has_test(this, name), "{name}");
    }
    let moved = fault_of("`tests/none.rs::base64_is_decoded_as_a_plain_decoder_does`").unwrap_or_default();
    assert!(moved.contains("tests/none.rs has no test"), "{moved}");
    let renamed = fault_of("`tests/project/links.rs::every_link_of_a_document_leads_to_a_file`").unwrap_or_default();
    assert!(renamed.contains("did you mean tests/project/links.rs::every_link_of_the_documents"), "{renamed}");
    assert!(promises("| 1 | a | b |\n| x | y | z |\n").len() == 1);
}

fn bytes(value: impl TryInto<u64>) -> String {
    let value = whole(value);
    match value {
        _ if value.is_multiple_of(1 << 20) => format!("{} MiB", value >> 20),
        _ if value.is_multiple_of(1 << 10) => format!("{} KiB", value >> 10),
        _ => format!("{value} bytes"),
    }
}

fn count(value: impl TryInto<u64>) -> String {
    let value = whole(value);
    if value < 1_000 { value.to_string() } else { format!("{},{:03}", value / 1_000, value % 1_000) }
}

fn time(value: Duration) -> String {
    let (seconds, ms) = (value.as_secs(), value.as_millis());
    match ms % 1_000 {
        0 if seconds.is_multiple_of(3_600) => format!("{} h", seconds / 3_600),
        0 if seconds.is_multiple_of(60) => format!("{} min", seconds / 60),
        0 => format!("{seconds} s"),
        _ => format!("{ms} ms"),
    }
}

fn whole(value: impl TryInto<u64>) -> u64 {
    value.try_into().ok().expect("a limit fits into 64 bits")
}

macro_rules! values {
    ($($form:ident $constant:ident)*) => {
        BTreeMap::from([$((stringify!($constant), $form(limits::$constant))),*])
    };
}

#[test]
fn the_limits_have_the_values_that_the_specification_says() {
    let values = values! {
        bytes HEAD_LIMIT_BYTES
        count FIELD_LIMIT
        bytes DISCARD_LIMIT_BYTES
        bytes DECLINED_BODY_LIMIT_BYTES
        bytes BUFFERED_BODY_BYTES
        count HANDSHAKE_INTERIM_ANSWERS
        count HANDSHAKE_CONNECTIONS
        count MAX_TUNNELS
        count REQUESTS_PER_CONNECTION
        bytes MEMORY_MIN_BYTES
        count WARM_MOST
        count KEEP_PER_SHARD
        count PIPES_PER_SHARD
        bytes TURN_BYTES
        count MAX_UPSTREAMS
        count MAX_IDENTITIES
        count GUARD_ATTEMPTS
        time GUARD_WINDOW
        time GUARD_PENDING_WAIT
        count GUARD_UNDECIDED
        count LOGIN_ATTEMPTS
        time LOGIN_INTERVAL
        count EJECT_AFTER
        time CHECK_MAX_DELAY
        time CONNECTION_ATTEMPT_DELAY
        count LOOKUP_THREADS
        count ADMIN_CONNECTIONS
        bytes LOG_WAITING_BYTES
        bytes LOG_FIELD_BYTES
        count LISTED_TUNNELS
        time HEAD_TIMEOUT
        time CONNECT_TIMEOUT
        time CHALLENGE_TIMEOUT
        time HANDSHAKE_TIMEOUT
        time IDLE_TIMEOUT
        time HALF_CLOSED_TIMEOUT
        time BODY_TIMEOUT
        time RESPONSE_TIMEOUT
        time KEEP_ALIVE_TIMEOUT
        time KEEP_AGE
        time WARM_AGE
        time DRAIN_TIMEOUT
        time ADMIN_TIMEOUT
        time SHARD_REPLY_TIMEOUT
        time WATCH_SETTLE
    };
    let promises = promises(pages::page("SPECIFICATION.md").text);
    let said: BTreeMap<&str, &str> =
        promises.iter().filter_map(|promise| promise.limit).map(|(value, constant)| (constant, value)).collect();
    let differing: BTreeSet<String> = values
        .iter()
        .filter(|(constant, value)| said.get(*constant) != Some(&value.as_str()))
        .map(|(constant, value)| format!("{constant} is {value}, and the page says {:?}", said.get(constant)))
        .collect();
    assert!(differing.is_empty(), "{differing:#?}");
    assert_eq!(said.keys().collect::<Vec<_>>(), values.keys().collect::<Vec<_>>());
}
