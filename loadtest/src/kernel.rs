//! Memory that the kernel uses, system-wide.
//!
//! Sockets, their queues, epoll entries and thread stacks are not part of any process's RSS. The growth of these
//! figures with idle tunnels, divided by the number of tunnels, is the kernel memory per tunnel. It includes the
//! sockets of the client and the stub, which are the same for every candidate; the comparison measures `direct` as well
//! and subtracts its figure.
//!
//! - `/proc/slabinfo` (readable by root): objects in use, times the space that each takes in its slab. Caches of file
//!   systems are left out, because they grow whenever a file is read, and so are those of connections in TIME_WAIT and
//!   of bound ports, which belong to earlier runs. A socket's dentry is counted with its inode, because most dentries
//!   belong to files.
//! - without `/proc/slabinfo`, `Slab` of `/proc/meminfo`, which is much less precise: it includes free space in slabs
//! - `KernelStack`, `PageTables`, `Percpu` of `/proc/meminfo`: what threads and processes cost beyond their RSS
//! - `mem` of the TCP line in `/proc/net/sockstat`, in pages: socket buffers
//! - pages of pipes are in none of these. They exist only while a pipe holds data, which it does not in an idle tunnel.

use std::collections::HashMap;
use std::fs;

use crate::process::kib_field;

const PAGE_BYTES: u64 = 4096;
/// Prefixes of caches that do not belong to tunnels.
const NOT_OF_TUNNELS: [&str; 13] = [
    "dentry",
    "radix_tree_node",
    "buffer_head",
    "ext4",
    "jbd2",
    "btrfs",
    "xfs",
    "fuse",
    "ovl",
    "kernfs",
    "tw_sock",
    "tcp_bind",
    "bio-",
];

/// Bytes of kernel memory that grow with connections; 0 if `/proc` does not provide them.
pub fn memory_bytes() -> u64 {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let meminfo = read("/proc/meminfo");
    let fields = ["KernelStack:", "PageTables:", "Percpu:"];
    let held: u64 = fields.iter().filter_map(|name| kib_field(&meminfo, name)).sum();
    let slabs = in_slabs(&read("/proc/slabinfo")).or_else(|| kib_field(&meminfo, "Slab:")).unwrap_or(0);
    held + slabs + tcp_pages(&read("/proc/net/sockstat")).unwrap_or(0) * PAGE_BYTES
}

/// Objects in use of a cache, and the bytes that each takes, including its share of the slab's unused rest.
struct Cache {
    active: u64,
    bytes_each: u64,
}

impl Cache {
    /// Reads `name active total size per_slab pages_per_slab …`.
    fn parse(line: &str) -> Option<(&str, Cache)> {
        let mut words = line.split_ascii_whitespace();
        let name = words.next()?;
        let mut number = || words.next()?.parse::<u64>().ok();
        let (active, _total, _size, per_slab, pages) = (number()?, number()?, number()?, number()?, number()?);
        Some((name, Cache { active, bytes_each: (pages * PAGE_BYTES).checked_div(per_slab)? }))
    }

    fn bytes(&self) -> u64 {
        self.active * self.bytes_each
    }
}

/// Bytes in caches that may belong to tunnels; `None` if the text lists none.
fn in_slabs(slabinfo: &str) -> Option<u64> {
    let caches: HashMap<&str, Cache> = slabinfo.lines().filter_map(Cache::parse).collect();
    let sockets = caches.get("sock_inode_cache")?;
    let of_files = |name: &str| name.ends_with("inode_cache") && name != "sock_inode_cache";
    let counted = |name: &str| !of_files(name) && !NOT_OF_TUNNELS.iter().any(|beginning| name.starts_with(beginning));
    let sum: u64 = caches.iter().filter(|(name, _)| counted(name)).map(|(_, cache)| cache.bytes()).sum();
    Some(sum + sockets.active * caches.get("dentry").map_or(0, |dentry| dentry.bytes_each))
}

/// The number after `mem` on the TCP line.
fn tcp_pages(sockstat: &str) -> Option<u64> {
    let line = sockstat.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    line.split_ascii_whitespace().skip_while(|word| *word != "mem").nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_pages_are_found() {
        let text = "sockets: used 13\nTCP: inuse 1 orphan 0 tw 5 alloc 1 mem 33\nUDP: inuse 0 mem 7\n";
        assert_eq!(tcp_pages(text), Some(33));
        assert!(memory_bytes() > 100_000);
    }

    #[test]
    fn only_caches_that_may_belong_to_tunnels_are_counted() {
        let text = "slabinfo - version: 2.1\n# name <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab>\n\
                    TCP 10 13 2368 13 8 : tunables 0 0 0\n\
                    ext4_inode_cache 1000 1000 1000 4 1 : tunables 0 0 0\n\
                    tw_sock_TCP 1000 1000 256 16 1 : tunables 0 0 0\n\
                    sock_inode_cache 20 38 832 19 4 : tunables 0 0 0\n\
                    dentry 100000 100000 192 21 1 : tunables 0 0 0\n";
        assert_eq!(in_slabs(text), Some(10 * (8 * 4096 / 13) + 20 * (4 * 4096 / 19) + 20 * (4096 / 21)));
        assert_eq!(in_slabs(""), None);
    }
}
