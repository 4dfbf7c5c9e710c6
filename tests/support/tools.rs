//! What a test requires of the machine, mainly other programs. If it is missing, the test reports SKIPPED, or fails
//! where tools are mandatory.
//!
//! A test names its programs with [`crate::require_tools`] before it uses them. Use of a program that was not named
//! fails even if it is installed, so that no test passes on one machine and fails on one with fewer programs.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;

/// If set to 1, a missing program fails the test instead of skipping it.
const REQUIRE_TOOLS: &str = "NTLM_GATEWAY_TESTS_REQUIRE_TOOLS";

/// Names a file for what tests report outside the harness; `tests/run` prints it at the end.
const NOTES: &str = "NTLM_GATEWAY_TESTS_NOTES";

thread_local! {
    /// The programs that this test has named.
    static NAMED: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
}

/// The path of `program`, from `PATH` or the directories of daemons, which are not on every user's `PATH`.
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
/// If the test has not named it.
pub fn path_of(program: &str) -> PathBuf {
    // Only the test's main thread has a name. Its other threads may run any program.
    let is_test = std::thread::current().name().is_some();
    let is_named = NAMED.with_borrow(|named| named.contains(program));
    assert!(is_named || !is_test, "{program} is used without require_tools!({program:?})");
    find(program).unwrap_or_else(|| panic!("{program} is no longer installed"))
}

/// True if all of `programs` are installed; the test may use them from now on. Otherwise reports SKIPPED, and the test
/// must return. Panics where tools are mandatory.
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

/// True if the test must be skipped because `tool` is missing; reports it. Panics where tools are mandatory.
pub fn skip_for_want_of(tool: &str) -> bool {
    skip_or_fail(&format!("{tool} not found"))
}

/// True if the test must be skipped because it does not run as root; reports it. Panics where tools are mandatory.
pub fn skip_without_root() -> bool {
    // Mandatory like the tools, because their installation requires root as well.
    !rustix::process::geteuid().is_root() && skip_or_fail("needs root")
}

/// True if the test must be skipped because it cannot create a mount namespace; reports it. Never panics.
pub fn skip_without_mounts() -> bool {
    NAMED.with_borrow_mut(|named| named.insert("unshare".to_owned()));
    // Never mandatory: no package provides it, and containers deny it even to root.
    let may =
        std::process::Command::new("unshare").args(["--mount", "true"]).stderr(std::process::Stdio::null()).status();
    !may.is_ok_and(|status| status.success()) && skip("needs a mount namespace of its own")
}

/// Reports SKIPPED with the reason and returns true; panics where tools are mandatory.
pub fn skip_or_fail(why: &str) -> bool {
    let required = std::env::var_os(REQUIRE_TOOLS).is_some_and(|value| value == "1");
    assert!(!required, "{}: {why}, and {REQUIRE_TOOLS}=1", test_name());
    skip(why)
}

/// Reports SKIPPED with the reason and returns true, for what is never mandatory.
pub fn skip(why: &str) -> bool {
    say(&format!("SKIPPED {}: {why}", test_name()));
    true
}

/// The test's name, after which the harness names its thread.
fn test_name() -> String {
    std::thread::current().name().unwrap_or("test").to_owned()
}

/// Reports a line outside the test harness's capture, which hides the output of tests that pass.
pub fn say(line: &str) {
    let notes = std::env::var_os(NOTES).and_then(|path| std::fs::OpenOptions::new().append(true).open(path).ok());
    // A single write, so that lines of several tests do not mix. An error must not fail the test.
    let _ = match notes {
        Some(mut file) => file.write_all(format!("{line}\n").as_bytes()),
        // The harness may have started a line.
        None => std::io::stderr().lock().write_all(format!("\n{line}\n").as_bytes()),
    };
}

/// Ends the test as SKIPPED if one of the named programs is missing; otherwise the test may use them.
#[macro_export]
macro_rules! require_tools {
    ($($program:literal),+ $(,)?) => {
        if !$crate::support::tools::require(&[$($program),+]) {
            return;
        }
    };
}
