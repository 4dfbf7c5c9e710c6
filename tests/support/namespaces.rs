//! Namespaces of its own for a test, which starts itself again in them.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::command::run;
use super::scratch::Scratch;
use super::tools::path_of;

/// Set in the namespaces.
const INSIDE: &str = "NAMESPACES_INSIDE";

/// What is prepared before a test starts again.
pub struct Preparation<'a> {
    /// A shell script, with the files in `$TMPDIR`.
    pub script: &'a str,
    /// Names and contents. Everybody may read them.
    pub files: &'a [(&'a str, &'a str)],
    /// Further arguments for the test harness.
    pub harness: &'a [&'a str],
    /// How long the test may take.
    pub bound: Duration,
}

/// Whether this test runs in namespaces of its own.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs a test again, in namespaces of its own for mounts, the network and processes.
///
/// # Panics
/// If it fails.
pub fn run_inside(test: &str, preparation: &Preparation<'_>) {
    let scratch = Scratch::new("namespaces");
    for (name, content) in preparation.files {
        let path = scratch.write(name, content);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    }
    let myself = std::env::current_exe().expect("this program");
    let script = format!("{}\n\"$0\" \"$@\"", preparation.script);
    let inside = run(path_of("unshare"), preparation.bound, |command| {
        command.args(["-m", "-n", "-p", "-f", "--kill-child", "--mount-proc", "sh", "-ec", &script]).arg(myself);
        command.args(["--exact", test, "--nocapture"]).args(preparation.harness);
        // Other variables with the gateway's prefix would be settings of the gateways under test.
        let is_of_tests = |name: &OsString| name.to_string_lossy().starts_with("NTLM_GATEWAY_TESTS_");
        command.envs(std::env::vars_os().filter(|(name, _)| is_of_tests(name)));
        command.env(INSIDE, "1").env("TMPDIR", scratch.path());
    });
    let (said, errors) = (inside.text(), &inside.stderr);
    // The harness keeps it unless the test fails.
    eprintln!("{said}\n{errors}");
    assert!(inside.code == Some(0) && said.contains("1 passed"), "see above");
}
