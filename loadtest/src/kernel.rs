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
//! - less what connections in TIME_WAIT hold: those of an earlier run end in a burst a minute later, which is no merit of
//!   whoever is measured then
//! - pipes' pages are in none of these. They are counted as long as they hold bytes, which no idle tunnel's do.

use std::fs;

use crate::process::kib_field;

const PAGE_BYTES: u64 = 4096;

/// A connection in TIME_WAIT: its socket (`tw_sock_TCP`) and its port's bucket.
const TIME_WAIT_BYTES: u64 = 256 + 128;

/// Bytes of the kernel's memory that grow with connections; 0 where `/proc` does not tell.
pub fn memory_bytes() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let fields = ["Slab:", "KernelStack:", "PageTables:", "Percpu:"];
    let held: u64 = fields.iter().filter_map(|name| kib_field(&meminfo, name)).sum();
    let sockstat = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let buffers = of_tcp(&sockstat, "mem").unwrap_or(0) * PAGE_BYTES;
    (held + buffers).saturating_sub(of_tcp(&sockstat, "tw").unwrap_or(0) * TIME_WAIT_BYTES)
}

/// The number behind `name` on the line of TCP.
fn of_tcp(sockstat: &str, name: &str) -> Option<u64> {
    let line = sockstat.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    line.split_ascii_whitespace().skip_while(|word| *word != name).nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_and_time_waits_of_tcp_are_found() {
        let text = "sockets: used 13\nTCP: inuse 1 orphan 0 tw 5 alloc 1 mem 33\nUDP: inuse 0 mem 7\n";
        assert_eq!((of_tcp(text, "mem"), of_tcp(text, "tw")), (Some(33), Some(5)));
        assert!(memory_bytes() > 1 << 20);
    }
}
