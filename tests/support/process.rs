//! A process that ends, with its descendants, when its guard is dropped.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::scratch::wait_for;

/// How long a server may run, whatever happens to the test that started it.
pub const LIFETIME_BOUND: Duration = Duration::from_secs(300);

/// A program under `timeout`, which leads a process group and forwards signals to the program.
pub struct Process {
    name: String,
    leader: Child,
    status: Option<ExitStatus>,
}

impl Process {
    /// A command that runs `program` for at most [`LIFETIME_BOUND`], without proxy settings from the environment of the
    /// tests: a `no_proxy` with the loopback address would make every client bypass the gateway.
    pub fn command(program: impl Into<PathBuf>) -> Command {
        bounded_command(program, LIFETIME_BOUND)
    }

    /// Starts a command made by [`Process::command`].
    pub fn spawn(name: &str, command: &mut Command) -> Self {
        let leader = command.spawn().unwrap_or_else(|e| panic!("start {name}: {e}"));
        Self { name: name.to_owned(), leader, status: None }
    }

    /// The `timeout` process that leads the group; it holds the pipes.
    pub fn leader(&mut self) -> &mut Child {
        &mut self.leader
    }

    /// The process id of the program itself, once `timeout` has started it.
    pub fn pid(&self) -> Pid {
        let leader = leader_pid(&self.leader);
        wait_for(Duration::from_secs(5), || children_of(leader).first().copied())
            .unwrap_or_else(|| panic!("{} has no process", self.name))
    }

    /// Sends a signal to the program itself.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap_or_else(|e| panic!("signal {}: {e}", self.name));
    }

    /// The program's exit status, with code 124 after the time limit; `None` while it runs.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.leader.try_wait().unwrap_or_else(|e| panic!("wait for {}: {e}", self.name));
        }
        self.status
    }

    /// Waits for the program to end by itself; `None` if `bound` passes first.
    pub fn wait(&mut self, bound: Duration) -> Option<ExitStatus> {
        wait_for(bound, || self.exit_status())
    }

    /// Sends SIGTERM, waits up to `grace`, kills the group, and makes sure that every descendant is gone.
    pub fn stop(&mut self, grace: Duration) {
        let leader = leader_pid(&self.leader);
        let descendants = descendants_of(leader);
        if self.exit_status().is_none() && !grace.is_zero() {
            // `timeout` forwards SIGTERM. It may have ended in between.
            let _ = kill_process(leader, Signal::TERM);
            self.wait(grace);
        }
        if self.exit_status().is_none() {
            let _ = kill_process_group(leader, Signal::KILL);
            self.wait(Duration::from_secs(5));
        }
        let ended = |process: &(Pid, u64)| start_time(process.0) != Some(process.1);
        // Helpers in their own process sessions end when their pipe closes. Kill those that do not.
        if wait_for(Duration::from_secs(2), || descendants.iter().all(ended).then_some(())).is_none() {
            for process in descendants.iter().filter(|process| !ended(process)) {
                let _ = kill_process(process.0, Signal::KILL);
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

/// A command that runs `program` under `timeout`, so that nothing outlives the test run by more than `bound`.
pub fn bounded_command(program: impl Into<PathBuf>, bound: Duration) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", &bound.as_secs().to_string()]).arg(program.into());
    for scheme in ["http", "https", "all", "no", "ftp"] {
        command.env_remove(format!("{scheme}_proxy")).env_remove(format!("{}_PROXY", scheme.to_uppercase()));
    }
    // Settings from the environment and those of the tests themselves: the gateway rejects unknown variables.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("NTLM_GATEWAY_")) {
        command.env_remove(name);
    }
    // `timeout` creates its own group as well, but only some time after it has started.
    command.process_group(0).stdin(std::process::Stdio::null());
    command
}

fn leader_pid(leader: &Child) -> Pid {
    Pid::from_child(leader)
}

/// Every process with its parent, from /proc.
fn processes() -> Vec<(Pid, Option<Pid>)> {
    let entries = std::fs::read_dir("/proc").expect("read /proc");
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid: i32| {
            let parent = stat_fields(pid)?.get(1)?.parse().ok().and_then(Pid::from_raw);
            Some((Pid::from_raw(pid)?, parent))
        })
        .collect()
}

fn children_of(parent: Pid) -> Vec<Pid> {
    processes().into_iter().filter(|process| process.1 == Some(parent)).map(|process| process.0).collect()
}

/// All descendants with their start times, which distinguish a process from a later one with the same id.
fn descendants_of(ancestor: Pid) -> Vec<(Pid, u64)> {
    let all = processes();
    let mut family = vec![ancestor];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(all.iter().filter(|process| process.1 == Some(parent)).map(|process| process.0));
        next += 1;
    }
    family.into_iter().skip(1).filter_map(|pid| Some((pid, start_time(pid)?))).collect()
}

/// When the process started, in clock ticks since boot; `None` if it is gone or a zombie.
fn start_time(pid: Pid) -> Option<u64> {
    let fields = stat_fields(pid.as_raw_nonzero().get())?;
    if fields.first()? == "Z" {
        return None;
    }
    fields.get(19)?.parse().ok()
}

/// The fields of /proc/PID/stat from the third (state) on; the second is the name, which may contain spaces.
fn stat_fields(pid: i32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}
