//! A wall clock that a test controls for one process, by libfaketime. Other clocks of the process are not affected.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ntlm_gateway::ntlm::FileTime;
use rustix::process::Pid;

use super::scratch::Scratch;

/// Seconds from 1601 to 1970.
const UNIX_EPOCH_SECONDS: i64 = 11_644_473_600;

/// The clock of one process.
pub struct FakeClock {
    library: PathBuf,
    scratch: Scratch,
}

impl FakeClock {
    /// A clock without an offset. `None` if libfaketime is not installed.
    pub fn new() -> Option<Self> {
        // It is in the directory of the machine's architecture.
        let directories = std::fs::read_dir("/usr/lib").ok()?.filter_map(|entry| Some(entry.ok()?.path()));
        let library = directories.map(|path| path.join("faketime/libfaketimeMT.so.1")).find(|path| path.is_file())?;
        let clock = Self { library, scratch: Scratch::new("clock") };
        clock.step(0);
        Some(clock)
    }

    /// The environment for the process.
    pub fn environment(&self) -> Vec<(String, String)> {
        let file = self.file().display().to_string();
        [
            ("LD_PRELOAD", self.library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", file),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            // The older name of the previous one.
            ("DONT_FAKE_MONOTONIC", "1".into()),
            ("NO_FAKE_STAT", "1".into()),
            ("FAKETIME_SKIP_CMDS", "timeout".into()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    fn file(&self) -> PathBuf {
        self.scratch.join("offset")
    }

    /// Sets the process's clock ahead of the real time, in seconds; behind if negative.
    pub fn step(&self, ahead: i64) {
        let next = self.scratch.write("next", format!("{ahead:+}\n"));
        // Renamed into place, because a half-written file would be another step.
        std::fs::rename(next, self.file()).expect("a new offset");
    }

    /// Removes what libfaketime leaves in shared memory when its process is killed. The files are named after the first
    /// process that loaded it, which is the parent of `pid`.
    pub fn clean_up(pid: Pid) -> SharedMemoryCleanUp {
        let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap_or_default();
        SharedMemoryCleanUp(parent.trim().to_owned())
    }
}

/// Cleans up when dropped.
pub struct SharedMemoryCleanUp(String);

impl Drop for SharedMemoryCleanUp {
    fn drop(&mut self) {
        for name in ["faketime_shm_", "sem.faketime_sem_"] {
            let _ = std::fs::remove_file(Path::new("/dev/shm").join(format!("{name}{}", self.0)));
        }
    }
}

/// The real time, in seconds since 1970.
pub fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_secs()).expect("a time that fits in 63 bits")
}

/// The file time of a moment in seconds since 1970, which may be negative.
pub fn file_time(unix_seconds: i64) -> FileTime {
    FileTime(u64::try_from(unix_seconds + UNIX_EPOCH_SECONDS).expect("a time after 1601") * 10_000_000)
}

/// A moment in the format of log lines, to the second.
pub fn rfc3339(unix_seconds: i64) -> String {
    let text = file_time(unix_seconds).to_string().replace(' ', "T");
    text.get(..19).expect("a date and a time").to_owned()
}
