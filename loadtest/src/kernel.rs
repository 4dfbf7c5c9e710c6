//! What the kernel itself holds, system-wide.
//!
//! Sockets, their queues, epoll entries and thread stacks are charged to no process' RSS. The sum of these figures
//! before and with idle tunnels, divided by their number, is the kernel's price of a tunnel on this machine. It
//! includes the sockets of the client and of the stub, which are the same for every candidate: the comparison
//! measures `direct` too, and takes its figure off.
//!
//! - `Slab` of `/proc/meminfo`: sockets, inodes, dentries, file structures, epoll items; reclaimable ones included,
//!   for socket inodes are among them
//! - `KernelStack`, `PageTables`, `Percpu`: what threads and processes cost beyond their RSS
//! - `mem` of the TCP line in `/proc/net/sockstat`, in pages: socket buffers
//! - pipes' pages are in none of these. They are counted as long as they hold bytes, which no idle tunnel's do.

use std::fs;

use crate::process::kib_field;

const PAGE_BYTES: u64 = 4096;

/// Bytes of the kernel's memory that grow with connections; 0 where `/proc` does not tell.
pub fn memory_bytes() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let fields = ["Slab:", "KernelStack:", "PageTables:", "Percpu:"];
    let held: u64 = fields.iter().filter_map(|name| kib_field(&meminfo, name)).sum();
    let sockets =
        ["/proc/net/sockstat"].iter().filter_map(|path| tcp_pages(&fs::read_to_string(path).ok()?)).sum::<u64>();
    held + sockets * PAGE_BYTES
}

/// The number behind `mem` on the line of TCP.
fn tcp_pages(sockstat: &str) -> Option<u64> {
    let line = sockstat.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    let mut words = line.split_ascii_whitespace().skip_while(|word| *word != "mem");
    words.nth(1)?.parse().ok()
}

/// Waits until the connections of earlier runs have gone: those in TIME_WAIT hold memory, too, and may end while
/// idle tunnels are being measured. At most so long.
pub fn wait_for_quiet(limit: std::time::Duration) {
    let deadline = std::time::Instant::now() + limit;
    let waiting = || -> Option<u64> {
        let text = fs::read_to_string("/proc/net/sockstat").ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("TCP:"))?.to_owned();
        line.split_ascii_whitespace().skip_while(|word| *word != "tw").nth(1)?.parse().ok()
    };
    while waiting().is_some_and(|count| count > 200) && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(250));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_tcp_are_found() {
        let text = "sockets: used 13\nTCP: inuse 1 orphan 0 tw 0 alloc 1 mem 33\nUDP: inuse 0 mem 7\n";
        assert_eq!(tcp_pages(text), Some(33));
        assert!(memory_bytes() > 1 << 20);
    }
}
