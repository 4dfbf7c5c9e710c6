//! A network namespace in which connections to an address are redirected to a gateway.
//!
//! The whole comparison moves there, client, stubs and all candidates, so that they all bear the cost of connection
//! tracking. Two settings keep the kernel out of the figures:
//!
//! - `tcp_tw_reuse`. By default a port in TIME_WAIT is used again after a second only between loopback addresses, and
//!   otherwise after a minute. Clients of the redirected address would run out of ports after 28,232 connections, and
//!   after half of them the search for a free one would take longer than the tunnel.
//! - `nf_conntrack_tcp_timeout_time_wait`. By default the kernel tracks a connection for two minutes after its end. A
//!   tunnel has two entries, so a few rounds would reach the usual limit of 262,144.

use std::env;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::candidate::find;

/// Set in the namespace.
const INSIDE: &str = "LOADTEST_INSIDE";
/// Where clients connect to. RFC 5737 keeps the address for examples.
pub const ORIGIN: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 10), 443));
/// Where the gateway takes their connections.
pub const LISTENER: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 15001));
const TOOLS: [&str; 4] = ["unshare", "sh", "ip", "nft"];

/// Why there can be no such namespace; `None` if there can.
pub fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("redirecting connections needs root".to_owned());
    }
    let tool = TOOLS.into_iter().find(|tool| find(tool).is_none())?;
    Some(format!("redirecting connections needs {tool}, which is not installed"))
}

/// Runs this program again in such a namespace; returns if it is there already.
///
/// # Errors
/// If it could not be started again.
pub fn enter() -> io::Result<()> {
    if env::var_os(INSIDE).is_some() {
        return Ok(());
    }
    let script = format!(
        "ip link set lo up
         ip address add {}/32 dev lo
         nft 'table ip loadtest {{
           chain output {{
             type nat hook output priority -100
             ip daddr {} tcp dport {} redirect to :{}
           }}
         }}'
         echo 1 > /proc/sys/net/ipv4/tcp_tw_reuse
         echo 2 > /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait
         exec \"$0\" \"$@\"",
        ORIGIN.ip(),
        ORIGIN.ip(),
        ORIGIN.port(),
        LISTENER.port()
    );
    let mut command = Command::new(find("unshare").ok_or(io::ErrorKind::NotFound)?);
    command.args(["--net", "sh", "-ec", &script]).arg(env::current_exe()?).args(env::args_os().skip(1));
    Err(command.env(INSIDE, "1").exec())
}
