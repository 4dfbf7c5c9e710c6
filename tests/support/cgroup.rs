//! A memory limit as containers have it: a control group of the test's own, of version 1 or 2, where one may be made.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::scratch::wait_for;

/// Removed when dropped; what runs in it must have ended by then.
pub struct MemoryCgroup {
    path: PathBuf,
    version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// What is charged to it, in bytes, and what became of the limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Charged {
    /// What the limit is for. In version 1 without `sockets`, which have a limit of their own there.
    pub all: u64,
    /// All of it, `sockets` included in either version.
    pub whole: u64,
    /// The kernel's own objects, such as sockets without their buffers. Part of `all`.
    pub kernel: u64,
    /// Socket buffers.
    pub sockets: u64,
    /// The highest that `all` ever was; 0 where the kernel does not say.
    pub peak: u64,
    /// Times that the limit was reached.
    pub reached: u64,
    /// Processes that the kernel killed for it.
    pub killed: u64,
}

impl MemoryCgroup {
    /// A group with this limit, in bytes. `None` where none can be made.
    pub fn new(limit: u64) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ntlm-gateway-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let (parent, version) = parent()?;
        let path = parent.join(name);
        fs::create_dir(&path).ok()?;
        let group = Self { path, version };
        group.limit(limit).then_some(group)
    }

    /// Sets another limit, in bytes; `false` when it may not be set.
    pub fn limit(&self, limit: u64) -> bool {
        let set = |file: &str, value: &str| fs::write(self.path.join(file), value).is_ok();
        match self.version {
            Version::One => {
                // Socket buffers are charged only once they have a limit.
                set("memory.limit_in_bytes", &limit.to_string())
                    && set("memory.kmem.tcp.limit_in_bytes", &limit.to_string())
            }
            Version::Two => {
                // There may be no swap to be limited.
                let _ = set("memory.swap.max", "0");
                set("memory.max", &limit.to_string())
            }
        }
    }

    /// The shell line by which a process puts itself in.
    pub fn enter(&self) -> String {
        format!("echo $$ > {}", self.path.join("cgroup.procs").display())
    }

    /// What it is charged for now.
    pub fn charged(&self) -> Charged {
        let number = |file: &str| fs::read_to_string(self.path.join(file)).ok()?.trim().parse().ok();
        let entry = |file: &str, name: &str| {
            let text = fs::read_to_string(self.path.join(file)).unwrap_or_default();
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
        };
        let [all, kernel, sockets, peak, reached, killed] = match self.version {
            Version::One => [
                number("memory.usage_in_bytes"),
                number("memory.kmem.usage_in_bytes"),
                number("memory.kmem.tcp.usage_in_bytes"),
                number("memory.max_usage_in_bytes"),
                number("memory.failcnt"),
                entry("memory.oom_control", "oom_kill"),
            ],
            Version::Two => [
                number("memory.current"),
                entry("memory.stat", "kernel"),
                entry("memory.stat", "sock"),
                number("memory.peak"),
                entry("memory.events", "max"),
                entry("memory.events", "oom_kill"),
            ],
        }
        .map(Option::unwrap_or_default);
        let whole = match self.version {
            Version::One => all + sockets,
            Version::Two => all,
        };
        Charged { all, whole, kernel, sockets, peak, reached, killed }
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        // Processes that were killed are in it for a moment longer.
        let removed = wait_for(Duration::from_secs(10), || fs::remove_dir(&self.path).ok());
        if removed.is_none() {
            eprintln!("the control group {} stays", self.path.display());
        }
    }
}

/// A group in which this process may make others that have a memory limit: its own or, for in version 2 that has processes, one above.
fn parent() -> Option<(PathBuf, Version)> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let of = |controller: &str| {
        let lines = own.lines().filter_map(|line| line.split_once(':').and_then(|(_, rest)| rest.split_once(':')));
        lines
            .filter(|(controllers, _)| controllers.split(',').any(|name| name == controller))
            .map(|(_, path)| path)
            .next()
    };
    let mut candidates = Vec::new();
    if let Some(path) = of("memory") {
        let root = Path::new("/sys/fs/cgroup/memory");
        // In a container the path may be that of the outside.
        candidates.extend([root.join(path.trim_start_matches('/')), root.into()].map(|path| (path, Version::One)));
    } else if let Some(path) = of("") {
        let own = Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/'));
        let above = own.ancestors().filter(|path| path.starts_with("/sys/fs/cgroup"));
        let gives_memory = |path: &&Path| {
            fs::read_to_string(path.join("cgroup.subtree_control"))
                .is_ok_and(|given| given.split_whitespace().any(|controller| controller == "memory"))
        };
        candidates.extend(above.filter(gives_memory).map(|path| (path.to_owned(), Version::Two)));
    }
    candidates.into_iter().find(|(path, _)| {
        let trial = path.join(format!("ntlm-gateway-trial-{}-{:?}", std::process::id(), std::thread::current().id()));
        let made = fs::create_dir(&trial).is_ok();
        made && fs::remove_dir(&trial).is_ok()
    })
}
