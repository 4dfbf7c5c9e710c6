//! What a test needs of the machine, outside programs above all; a test without it says SKIPPED, or fails where it is required.

use std::io::Write;
use std::path::PathBuf;

/// Set to 1 where a missing program must fail the test instead of skipping it.
const REQUIRE_TOOLS: &str = "NTLM_GATEWAY_TESTS_REQUIRE_TOOLS";

/// The path of `program`, from `PATH` and the directories of daemons, which are not on every user's `PATH`.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// The path of `program`; panics when it is not there, which [`crate::require_tools`] rules out.
pub fn path_of(program: &str) -> PathBuf {
    find(program).unwrap_or_else(|| panic!("{program} not found; ask for it with require_tools!"))
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

/// True when the test must be skipped for it is not run by root, having said so; panics where tools are required.
pub fn skip_without_root() -> bool {
    // Whoever installs the tools is root.
    !rustix::process::geteuid().is_root() && skip_or_fail("root alone may do what it does")
}

/// True when the test must be skipped for it may not have mounts of its own, having said so; wherever it is.
pub fn skip_without_mounts() -> bool {
    // No package brings it, and containers withhold it from root: never required.
    let may =
        std::process::Command::new("unshare").args(["--mount", "true"]).stderr(std::process::Stdio::null()).status();
    !may.is_ok_and(|status| status.success()) && skip("a mount namespace is not to be had here")
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

/// Writes a line past the test harness's capture, which would swallow it in a test that passes.
pub fn say(line: &str) {
    // A closed stderr is no reason to fail a test.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Ends the test here, as SKIPPED, when one of the named programs is missing.
#[macro_export]
macro_rules! require_tools {
    ($($program:literal),+ $(,)?) => {
        $(if $crate::support::tools::find($program).is_none()
            && $crate::support::tools::skip_for_want_of($program) { return; })+
    };
}
