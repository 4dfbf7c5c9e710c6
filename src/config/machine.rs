//! The available memory: the smallest limit of the machine and of the control groups around the process.

use std::fs;
use std::path::Path;

/// Where control groups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// A mebibyte; the result is rounded down to a multiple of it.
const MIB: u64 = 1024 * 1024;

/// Assumed if nothing can be read: the memory of a small pod.
const UNKNOWN_BYTES: u64 = 512 * MIB;

/// The memory that this process may use, in bytes, a multiple of 1 MiB.
pub(super) fn memory_bytes() -> usize {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let least = of_groups(&own, Path::new(CGROUPS)).into_iter().chain(of_machine(&meminfo)).min();
    // An even number of MiB, so that half of it is a whole number too.
    usize::try_from((least.unwrap_or(UNKNOWN_BYTES) / (2 * MIB) * 2 * MIB).max(8 * MIB)).unwrap_or(usize::MAX)
}

/// The smallest limit of the groups that `/proc/self/cgroup` names, and of their parents. A container often sees its
/// own group as the root: the named group then does not exist, and the root has the limit.
fn of_groups(own: &str, root: &Path) -> Option<u64> {
    own.lines()
        .filter_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (hierarchy, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            let (mount, file) = match (hierarchy, controllers) {
                ("0", "") => (root.to_owned(), "memory.max"),
                (_, names) if names.split(',').any(|name| name == "memory") => {
                    (root.join("memory"), "memory.limit_in_bytes")
                }
                _ => return None,
            };
            let group = mount.join(path.trim_start_matches('/'));
            let groups = group.ancestors().take_while(|group| group.starts_with(&mount));
            groups.filter_map(|group| fs::read_to_string(group.join(file)).ok()?.trim().parse().ok()).min()
        })
        .min()
}

/// The machine's memory according to `/proc/meminfo`, in bytes.
fn of_machine(meminfo: &str) -> Option<u64> {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    total.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// Files like those of control groups, removed when dropped.
    struct Groups(PathBuf);

    impl Groups {
        fn new(name: &str, limits: &[(&str, &str)]) -> Groups {
            let root = std::env::temp_dir().join(format!("ntlm-gateway-groups-{name}-{}", std::process::id()));
            for (file, limit) in limits {
                let path = root.join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, format!("{limit}\n")).unwrap();
            }
            Groups(root)
        }
    }

    impl Drop for Groups {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn in_version_2_the_smallest_limit_of_a_group_and_its_parents_applies() {
        let groups = Groups::new("v2", &[("a/memory.max", "1000"), ("a/b/memory.max", "max"), ("memory.max", "3000")]);
        assert_eq!(of_groups("0::/a/b\n", &groups.0), Some(1000));
        assert_eq!(of_groups("0::/\n", &groups.0), Some(3000), "a container's own group is its root");
        assert_eq!(of_groups("0::/../../elsewhere\n", &groups.0), Some(3000));
    }

    #[test]
    fn in_version_1_the_group_of_the_memory_controller_applies() {
        let own = "5:cpu,cpuacct:/x\n3:memory:/docker/1\n0::/\n";
        let groups = Groups::new(
            "v1",
            &[
                ("memory/docker/1/memory.limit_in_bytes", "2000"),
                ("memory/memory.limit_in_bytes", "9223372036854771712"),
            ],
        );
        assert_eq!(of_groups(own, &groups.0), Some(2000));
        assert_eq!(of_groups("3:memory:/elsewhere\n", &groups.0), Some(9_223_372_036_854_771_712));
    }

    #[test]
    fn without_groups_the_memory_of_the_machine_applies() {
        assert_eq!(of_groups("", Path::new("/nonexistent")), None);
        assert_eq!(of_machine("MemTotal:       16384 kB\nMemFree: 1 kB\n"), Some(16 * 1024 * 1024));
        assert_eq!(of_machine("nothing"), None);
        assert!(memory_bytes().is_multiple_of(2 * 1024 * 1024));
    }
}
