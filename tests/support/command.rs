//! Runs client programs with a time limit.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::process::bounded_command;
use super::tools::path_of;

/// The result of a client program.
pub struct Finished {
    /// Its exit code; 124 after the time limit, `None` if a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error, as text.
    pub stderr: String,
}

impl Finished {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Panics with the program's output unless its exit code is 0.
    #[track_caller]
    pub fn expect_success(self, what: &str) -> Self {
        let stdout = self.text();
        assert_eq!(self.code, Some(0), "{what}\nstderr: {}\nstdout: {:.2000}", self.stderr, stdout);
        self
    }
}

/// Runs `program` for at most `bound`; `prepare` adds arguments and environment.
pub fn run(program: impl Into<PathBuf>, bound: Duration, prepare: impl FnOnce(&mut Command)) -> Finished {
    let program = program.into();
    let mut command = bounded_command(&program, bound);
    prepare(&mut command);
    let output = command.output().unwrap_or_else(|e| panic!("run {}: {e}", program.display()));
    Finished {
        code: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs curl for at most `max_time`, without progress output and without the user's own settings.
pub fn curl<'a>(max_time: Duration, args: impl IntoIterator<Item = &'a str>) -> Finished {
    run(path_of("curl"), max_time + Duration::from_secs(5), |command| {
        // `-q` ignores ~/.curlrc only as the first argument.
        command.args(["-q", "-sS", "--max-time", &max_time.as_secs().to_string()]).args(args);
    })
}
