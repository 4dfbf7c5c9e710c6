//! Git without the settings of the user who runs the tests.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::command::{Finished, run};
use super::tools::path_of;

/// How long it may take.
const BOUND: Duration = Duration::from_secs(60);

/// Runs git in this directory, which is also its home.
#[track_caller]
pub fn git(home: &Path, args: &[&str]) -> Finished {
    git_with(home, args, |_| {})
}

/// The same, with further settings of the command.
#[track_caller]
pub fn git_with(home: &Path, args: &[&str], further: impl FnOnce(&mut Command)) -> Finished {
    run(path_of("git"), BOUND, |command| {
        command.env("HOME", home).env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_TERMINAL_PROMPT", "0").current_dir(home);
        command.env_remove("GIT_DIR");
        command.args(["-c", "user.name=T", "-c", "user.email=t@example.test", "-c", "init.defaultBranch=main"]);
        further(command.args(args));
    })
    .expect_success(&args.join(" "))
}
