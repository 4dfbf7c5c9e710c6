//! The commands other than `run`: the output of `demo`, and the files that `hash` writes.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::support::command::{Finished, run};
use crate::support::gateway::GATEWAY;
use crate::support::scratch::Scratch;

const BOUND: Duration = Duration::from_secs(30);
/// NTOWFv1("Password"), MS-NLMP 4.2.2.1.1.
const HASH: &str = "a4f49c406510bdcab6824ee7c30fd852\n";

fn demo(args: &[&str]) -> String {
    let output = run(GATEWAY, BOUND, |command| {
        command.args(["demo", "--once"]).args(args).env_remove("RUST_LOG");
    });
    output.expect_success("demo --once").text()
}

#[test]
fn the_demo_prints_the_upstream_name_that_the_metrics_use() {
    let output = demo(&[]);
    let printed =
        output.split_once("verifies NTLM is on ").and_then(|(_, rest)| rest.split_once(';')).expect("an address").0;
    let counted = output.lines().find(|line| line.contains("upstream=\"")).expect("a metric with an upstream");
    assert!(counted.contains(&format!("upstream=\"{printed}\"")), "{printed} in\n{output}");
}

#[test]
fn the_demo_listens_beyond_loopback_on_request() {
    let output = demo(&["--listen", "0.0.0.0:0", "--admin", "0.0.0.0:0"]);
    assert!(output.contains("The gateway is on 0.0.0.0:"), "{output}");
    assert!(output.contains("Hello from behind the proxy."), "{output}");
}

fn hash(args: &[&str], stdout: Stdio) -> Finished {
    let scratch = Scratch::new("hash");
    let password = scratch.write("password", "Password\n");
    let mut command = crate::support::process::bounded_command(GATEWAY, BOUND);
    command.arg("hash").args(args).stdin(File::open(password).expect("the password")).stdout(stdout);
    let output = command.output().expect("hash");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Finished { code: output.status.code(), stdout: output.stdout, stderr }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("the file").permissions().mode() & 0o777
}

#[test]
fn hash_output_creates_a_file_that_only_its_owner_can_read() {
    let scratch = Scratch::new("output");
    let file = scratch.join("nt-hash");
    // The second round replaces a file that others can read.
    for _ in 0..2 {
        let done = hash(&["--output", &file.display().to_string()], Stdio::piped()).expect_success("hash --output");
        assert_eq!((done.text().as_str(), done.stderr.as_str()), ("", ""));
        assert_eq!(std::fs::read_to_string(&file).expect("the hash"), HASH);
        assert_eq!(mode(&file), 0o600);
        std::fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("chmod");
    }
    assert_eq!(std::fs::read_dir(scratch.path()).expect("the directory").count(), 1, "only the hash file is left");
}

#[test]
fn hash_output_rejects_directories_devices_and_missing_parents() {
    let scratch = Scratch::new("output");
    for path in [scratch.path().to_owned(), scratch.join("none/nt-hash"), "/dev/null".into()] {
        let done = hash(&["--output", &path.display().to_string()], Stdio::piped());
        assert_eq!(done.code, Some(1), "{}", path.display());
        assert!(done.stderr.contains(&path.display().to_string()), "{}", done.stderr);
    }
    assert_eq!(std::fs::read_dir(scratch.path()).expect("the directory").count(), 0);
}

#[test]
fn hash_warns_when_its_output_is_redirected_to_a_readable_file() {
    let scratch = Scratch::new("redirection");
    for (permissions, warns) in [(0o644, true), (0o640, true), (0o600, false)] {
        let path = scratch.write("nt-hash", "");
        std::fs::set_permissions(&path, Permissions::from_mode(permissions)).expect("chmod");
        let file = File::options().write(true).open(&path).expect("the file");
        let done = hash(&[], file.into()).expect_success("hash > file");
        assert_eq!(std::fs::read_to_string(&path).expect("the hash"), HASH);
        assert_eq!(done.stderr.contains("others can read that file"), warns, "{permissions:o}: {}", done.stderr);
    }
    assert_eq!(hash(&[], Stdio::piped()).expect_success("hash").stderr, "", "no warning for a pipe");
}
