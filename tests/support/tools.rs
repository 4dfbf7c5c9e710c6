//! What a test needs of the machine, other programs above all. A test without it says SKIPPED, or fails where it is required.
//!
//! A test names its programs with [`crate::require_tools`] before it uses them. A program that was not named is refused even where it
//! is installed, so that no test passes on a full machine and fails on a bare one.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;

/// Set to 1 where a missing program must fail the test instead of skipping it.
const REQUIRE_TOOLS: &str = "NTLM_GATEWAY_TESTS_REQUIRE_TOOLS";

/// Names a file that takes what tests say past the harness; `tests/run` prints it at the end.
const NOTES: &str = "NTLM_GATEWAY_TESTS_NOTES";

thread_local! {
    /// The programs that this test has named.
    static NAMED: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
}

/// The path of `program`, from `PATH` and the directories of daemons, which are not on every user's `PATH`.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// The path of a program that the test has named with [`crate::require_tools`].
///
/// # Panics
/// When the test has not named it.
pub fn path_of(program: &str) -> PathBuf {
    // Only a test's own thread has a name. The threads that it starts run what the test has named.
    let is_test = std::thread::current().name().is_some();
    let is_named = NAMED.with_borrow(|named| named.contains(program));
    assert!(is_named || !is_test, "{program} is used without require_tools!({program:?})");
    find(program).unwrap_or_else(|| panic!("{program} has gone"))
}

/// True when all of `programs` are there, which this test may use from now on. Otherwise the test must be skipped, which has been said;
/// panics where tools are required.
pub fn require(programs: &[&str]) -> bool {
    let missing: Vec<&str> = programs.iter().copied().filter(|program| find(program).is_none()).collect();
    NAMED.with_borrow_mut(|named| named.extend(programs.iter().map(|program| (*program).to_owned())));
    missing.is_empty() || !skip_for_want_of(&missing.join(", "))
}

/// A Python that can import `module`: the first on `PATH`, or else the distribution's, which has its packages.
pub fn python_with(module: &str) -> Option<PathBuf> {
    let own = find("python3");
    own.into_iter().chain([PathBuf::from("/usr/bin/python3")]).filter(|python| python.is_file()).find(|python| {
        std::process::Command::new(python)
            .args(["-c", &format!("import {module}")])
            .stderr(std::process::Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    })
}

/// True when the test must be skipped for want of `tool`, having said so; panics where tools are required.
pub fn skip_for_want_of(tool: &str) -> bool {
    skip_or_fail(&format!("{tool} not found"))
}

/// True when the test must be skipped because root does not run it, having said so; panics where tools are required.
pub fn skip_without_root() -> bool {
    // Whoever installs the tools is root.
    !rustix::process::geteuid().is_root() && skip_or_fail("needs root")
}

/// True when the test must be skipped because it may not have mounts of its own, having said so; wherever it is.
pub fn skip_without_mounts() -> bool {
    NAMED.with_borrow_mut(|named| named.insert("unshare".to_owned()));
    // No package brings it, and containers withhold it from root: never required.
    let may =
        std::process::Command::new("unshare").args(["--mount", "true"]).stderr(std::process::Stdio::null()).status();
    !may.is_ok_and(|status| status.success()) && skip("needs a mount namespace of its own")
}

/// True, having said SKIPPED and why; panics where tools are required.
pub fn skip_or_fail(why: &str) -> bool {
    let required = std::env::var_os(REQUIRE_TOOLS).is_some_and(|value| value == "1");
    assert!(!required, "{}: {why}, and {REQUIRE_TOOLS}=1", test_name());
    skip(why)
}

/// True, having said SKIPPED and why, for want of what no machine must have.
pub fn skip(why: &str) -> bool {
    say(&format!("SKIPPED {}: {why}", test_name()));
    true
}

/// The harness names the thread after its test.
fn test_name() -> String {
    std::thread::current().name().unwrap_or("test").to_owned()
}

/// Says a line past the test harness's capture, which would swallow it in a test that passes.
pub fn say(line: &str) {
    let notes = std::env::var_os(NOTES).and_then(|path| std::fs::OpenOptions::new().append(true).open(path).ok());
    // One write each, so that lines of several tests do not mix. That nobody reads them is no reason to fail a test.
    let _ = match notes {
        Some(mut file) => file.write_all(format!("{line}\n").as_bytes()),
        // The harness may have begun a line.
        None => std::io::stderr().lock().write_all(format!("\n{line}\n").as_bytes()),
    };
}

/// Ends the test here, as SKIPPED, when one of the named programs is missing; otherwise the test may use them.
#[macro_export]
macro_rules! require_tools {
    ($($program:literal),+ $(,)?) => {
        if !$crate::support::tools::require(&[$($program),+]) {
            return;
        }
    };
}
