//! CPU, memory, descriptors and threads of a process and all its descendants, from `/proc`.
//!
//! CPU is read from each process's CPU clock (`clock_getcpuclockid`): nanoseconds, all threads, including those that
//! have ended. `/proc/PID/stat` counts in ticks of 10 ms, and `/proc/PID/task/*/schedstat` drops ended threads, of
//! which a proxy with a thread per tunnel has thousands. Only the time of children that have ended and were waited for
//! comes from `stat`, in ticks, because it is available nowhere else.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::time::ClockId;
use nix::unistd::Pid;

/// Linux has reported ticks in hundredths of a second on every architecture for two decades.
const TICK: Duration = Duration::from_millis(10);

/// CPU of this process so far, user and system.
pub fn own_cpu() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Duration::ZERO };
    let part = |time: nix::sys::time::TimeVal| {
        Duration::new(
            u64::try_from(time.tv_sec()).unwrap_or(0),
            u32::try_from(time.tv_usec()).unwrap_or(0).saturating_mul(1000),
        )
    };
    part(usage.user_time()) + part(usage.system_time())
}

/// What a process tree uses at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub cpu: Duration,
    pub rss_bytes: u64,
    pub descriptors: u64,
    pub threads: u64,
}

/// The usage of `root` and its descendants. Processes that have ended meanwhile count as nothing.
pub fn usage_of_tree(root: u32) -> Usage {
    let stats = all_stats();
    let tree = tree_of(root, &stats);
    let mut usage = Usage::default();
    for pid in &tree {
        let stat = stats.get(pid).copied().unwrap_or_default();
        usage.cpu += cpu_clock(*pid).unwrap_or(stat.cpu) + stat.cpu_of_ended_children;
        usage.rss_bytes += rss_bytes(*pid);
        usage.threads += stat.threads;
        usage.descriptors += fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |entries| entries.count() as u64);
    }
    usage
}

/// `root` and its current descendants.
pub fn tree(root: u32) -> Vec<u32> {
    tree_of(root, &all_stats())
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stat {
    parent: u32,
    threads: u64,
    cpu: Duration,
    cpu_of_ended_children: Duration,
}

fn all_stats() -> HashMap<u32, Stat> {
    let Ok(entries) = fs::read_dir("/proc") else { return HashMap::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| Some((pid, parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?))).collect()
}

/// Fields are numbered as in proc_pid_stat(5). The command's name may contain anything, so the other fields are looked
/// for behind the last parenthesis.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // `fields[0]` is field 3, the state.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let ticks = |field: usize| {
        let count = u32::try_from(number(field)?).ok()?;
        Some(TICK * count)
    };
    Some(Stat {
        parent: u32::try_from(number(4)?).ok()?,
        cpu: ticks(14)? + ticks(15)?,
        cpu_of_ended_children: ticks(16)? + ticks(17)?,
        threads: number(20)?,
    })
}

fn tree_of(root: u32, stats: &HashMap<u32, Stat>) -> Vec<u32> {
    let mut seen = HashSet::from([root]);
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(parent) = tree.get(next).copied() {
        next += 1;
        for (pid, _) in stats.iter().filter(|(_, stat)| stat.parent == parent) {
            if seen.insert(*pid) {
                tree.push(*pid);
            }
        }
    }
    tree
}

fn cpu_clock(pid: u32) -> Option<Duration> {
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(i32::try_from(pid).ok()?)).ok()?;
    let time = clock.now().ok()?;
    Some(Duration::new(u64::try_from(time.tv_sec()).ok()?, u32::try_from(time.tv_nsec()).ok()?))
}

/// Resident bytes: exact if the kernel provides `smaps_rollup`; `status` may be off by some hundred KiB per CPU.
fn rss_bytes(pid: u32) -> u64 {
    let exact = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok().and_then(|text| kib_field(&text, "Rss:"));
    let rough = || fs::read_to_string(format!("/proc/{pid}/status")).ok().and_then(|text| kib_field(&text, "VmRSS:"));
    exact.or_else(rough).unwrap_or(0)
}

/// The value of a line `name  N kB`, in bytes.
pub fn kib_field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_ascii_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_parentheses_does_not_shift_the_fields() {
        let text = "42 (a ) b (c)) S 7 42 42 0 -1 4194304 1 2 3 4 150 50 10 5 20 0 9 0 1 2 3";
        let stat = parse_stat(text).unwrap();
        let expected = Stat {
            parent: 7,
            threads: 9,
            cpu: Duration::from_secs(2),
            cpu_of_ended_children: Duration::from_millis(150),
        };
        assert_eq!(stat, expected);
    }

    #[test]
    fn a_process_is_measured_with_its_child() {
        let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
        let pids = tree(std::process::id());
        let usage = usage_of_tree(std::process::id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(pids.contains(&child.id()), "{pids:?}");
        assert!(usage.rss_bytes > 100_000 && usage.threads >= 2 && usage.descriptors >= 3, "{usage:?}");
        assert!(usage.cpu > Duration::ZERO);
    }
}
