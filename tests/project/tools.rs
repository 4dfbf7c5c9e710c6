//! Tests use only programs that they have named, so that each test can be skipped if a program is missing. `tests/run`
//! installs these programs and prints the results of the tests at its end.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::tools::{find, path_of};

/// Part of every Debian, or needed only by `tests/long`.
const NOT_INSTALLED: [&str; 10] =
    ["apt-get", "sh", "sha256sum", "buildah", "cargo-auditable", "samba", "samba-tool", "wbinfo", "pdbedit", "ip"];

#[test]
#[should_panic(expected = "sh is used without require_tools!(\"sh\")")]
fn an_installed_program_that_a_test_has_not_named_is_rejected() {
    assert!(find("sh").is_some());
    path_of("sh");
}

#[test]
fn a_program_that_a_test_has_named_is_found() {
    require_tools!("sh");
    assert!(path_of("sh").is_file());
}

/// A module of Python itself.
const STANDARD: &str = "tomllib";

/// Collects the string literals of each call below a folder that begins so.
fn collect_named(folder: &Path, begin: &str, named: &mut BTreeSet<String>) {
    for path in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if path.is_dir() {
            collect_named(&path, begin, named);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let lists = text.split(begin).skip(1).filter_map(|rest| rest.split("\")").next());
            named.extend(lists.flat_map(|list| list.split("\", \"")).map(str::to_owned));
        }
    }
}

/// What a list of the runner installs, without the packages.
fn installed(list: &str) -> BTreeSet<String> {
    let root = crate::root();
    let runner = fs::read_to_string(root.join("tests/run")).expect("the runner");
    let (_, rest) = runner.split_once(&format!("\n{list}=(\n")).expect("the list");
    let entries = rest.split_once("\n)").expect("its end").0.lines();
    entries.filter_map(|line| Some(line.trim().trim_matches('"').split_once(':')?.0.to_owned())).collect()
}

/// What tests name in calls that begin so.
fn named(begin: &str) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    collect_named(&crate::root().join("tests"), begin, &mut named);
    named
}

#[test]
fn every_program_that_a_test_names_is_installed_by_the_runner() {
    let (named, installed) = (named("require_tools!(\""), installed("tools"));
    assert!(named.len() >= 10, "only {named:?} were found");
    let known = |name: &str| installed.contains(name) || NOT_INSTALLED.contains(&name);
    let missing: Vec<&String> = named.iter().filter(|name| !known(name)).collect();
    assert!(missing.is_empty(), "tests/run does not install {missing:?}");
}

/// Modules that are installed for two Pythons, one for each, are of no use to a test that needs both.
#[test]
fn python_modules_that_a_test_needs_together_are_installed_together_by_the_runner() {
    let (named, installed) = (named("python_with(\""), installed("modules"));
    assert!(named.contains("requests, socks"), "only {named:?} were found");
    let known = |modules: &str| installed.contains(modules) || NOT_INSTALLED.contains(&modules) || modules == STANDARD;
    let missing: Vec<&String> = named.iter().filter(|modules| !known(modules)).collect();
    assert!(missing.is_empty(), "tests/run does not install {missing:?}");
}

/// Cargo's output for two binaries.
const PRINTED: &str = "     Running tests/a.rs (target/a-1)\n\nrunning 2 tests\ntest one ... ok\ntest two::three ... FAILED\n\n\
    test result: FAILED. 1 passed; 1 failed\n\n   Doc-tests it\n\ntest result: ok. 0 passed; 0 failed\n\nerror: 1 target failed:";

#[test]
fn the_runner_prints_cargos_results_at_its_end_and_the_rest_at_once() {
    let root = crate::root();
    let runner = fs::read_to_string(root.join("tests/run")).expect("the runner");
    let begin = runner.find("hold_results() {\n").expect("the function");
    let function = runner[begin..].split_inclusive("\n}\n").next().expect("its end");
    let script = format!(
        "set -euo pipefail; work=$(mktemp -d)\n{function}\nhold_results\necho '=='; cat \"$work/failed\"; cat \"$work/results\"; rm -r \"$work\""
    );
    let mut bash = Command::new("bash");
    bash.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut bash = bash.spawn().expect("bash");
    bash.stdin.take().expect("its input").write_all(PRINTED.as_bytes()).expect("a write");
    let output = bash.wait_with_output().expect("its end");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let (passed, end) = printed.split_once("\n==\n").expect("two parts");
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let is_result = |line: &String| line.starts_with("test result: ");
    let (results, others): (Vec<_>, Vec<_>) = lines(PRINTED).into_iter().partition(is_result);
    assert_eq!(lines(passed), others);
    let wanted =
        ["FAILED two::three", "     Running tests/a.rs (target/a-1)", &results[0], "   Doc-tests it", &results[1]];
    assert_eq!(lines(end), wanted);
}
