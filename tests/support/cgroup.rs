//! A memory limit as for containers: a control group of version 1 or 2 for one test, on systems that allow it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::scratch::wait_for;

/// Removed when dropped; its processes must have ended by then.
pub struct MemoryCgroup {
    path: PathBuf,
    version: CgroupVersion,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CgroupVersion {
    One,
    Two,
}

/// The memory charged to a group, in bytes, and how often it hit its limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryCharge {
    /// The memory that counts towards the limit. In version 1 without `sockets`, which have a separate limit there.
    pub all: u64,
    /// The total, with `sockets` in either version.
    pub whole: u64,
    /// Kernel objects, such as sockets without their buffers. Part of `all`.
    pub kernel: u64,
    /// Socket buffers.
    pub sockets: u64,
    /// The highest value of `all` so far; 0 if the kernel does not report it.
    pub peak: u64,
    /// How often the limit was reached.
    pub reached: u64,
    /// Processes that the kernel killed because of the limit.
    pub killed: u64,
}

impl MemoryCgroup {
    /// A group with this limit, in bytes. `None` if the system does not allow it.
    pub fn new(limit: u64) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ntlm-gateway-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let (parent, version) = parent()?;
        let path = parent.join(name);
        fs::create_dir(&path).ok()?;
        let group = Self { path, version };
        group.limit(limit).then_some(group)
    }

    /// Sets another limit, in bytes; `false` if that fails.
    pub fn limit(&self, limit: u64) -> bool {
        let set = |file: &str, value: &str| fs::write(self.path.join(file), value).is_ok();
        match self.version {
            CgroupVersion::One => {
                // Socket buffers are charged only once they have a limit.
                set("memory.limit_in_bytes", &limit.to_string())
                    && set("memory.kmem.tcp.limit_in_bytes", &limit.to_string())
            }
            CgroupVersion::Two => {
                // Fails on a system without swap.
                let _ = set("memory.swap.max", "0");
                set("memory.max", &limit.to_string())
            }
        }
    }

    /// The shell line with which a process enters the group.
    pub fn enter(&self) -> String {
        format!("echo $$ > {}", self.path.join("cgroup.procs").display())
    }

    /// The current charge.
    pub fn charged(&self) -> MemoryCharge {
        let number = |file: &str| fs::read_to_string(self.path.join(file)).ok()?.trim().parse().ok();
        let entry = |file: &str, name: &str| {
            let text = fs::read_to_string(self.path.join(file)).unwrap_or_default();
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
        };
        let [all, kernel, sockets, peak, reached, killed] = match self.version {
            CgroupVersion::One => [
                number("memory.usage_in_bytes"),
                number("memory.kmem.usage_in_bytes"),
                number("memory.kmem.tcp.usage_in_bytes"),
                number("memory.max_usage_in_bytes"),
                number("memory.failcnt"),
                entry("memory.oom_control", "oom_kill"),
            ],
            CgroupVersion::Two => [
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
            CgroupVersion::One => all + sockets,
            CgroupVersion::Two => all,
        };
        MemoryCharge { all, whole, kernel, sockets, peak, reached, killed }
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        // Killed processes stay in the group for a moment.
        let removed = wait_for(Duration::from_secs(10), || fs::remove_dir(&self.path).ok());
        if removed.is_none() {
            eprintln!("the control group {} cannot be removed", self.path.display());
        }
    }
}

/// A group in which this process can create groups with a memory limit. In version 1 its own; in version 2 one above,
/// because there a group with processes cannot have such children.
fn parent() -> Option<(PathBuf, CgroupVersion)> {
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
        // In a container the path may be the one outside.
        candidates
            .extend([root.join(path.trim_start_matches('/')), root.into()].map(|path| (path, CgroupVersion::One)));
    } else if let Some(path) = of("") {
        let own = Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/'));
        let above = own.ancestors().filter(|path| path.starts_with("/sys/fs/cgroup"));
        let controls_memory = |path: &&Path| {
            fs::read_to_string(path.join("cgroup.subtree_control"))
                .is_ok_and(|given| given.split_whitespace().any(|controller| controller == "memory"))
        };
        candidates.extend(above.filter(controls_memory).map(|path| (path.to_owned(), CgroupVersion::Two)));
    }
    candidates.into_iter().find(|(path, _)| {
        let trial = path.join(format!("ntlm-gateway-trial-{}-{:?}", std::process::id(), std::thread::current().id()));
        let made = fs::create_dir(&trial).is_ok();
        made && fs::remove_dir(&trial).is_ok()
    })
}
