//! Who may come in, and how many.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ipnet::IpNet;

use crate::tunnel::Admission;

/// The rule at the door, shared by all shards.
#[derive(Debug)]
pub struct Gate {
    allow_clients: Vec<IpNet>,
    max_tunnels: usize,
    open: AtomicUsize,
}

impl Gate {
    /// At most `max_tunnels` at once, from `allow_clients`; from loopback only if that list is empty.
    pub fn new(allow_clients: Vec<IpNet>, max_tunnels: usize) -> Arc<Gate> {
        Arc::new(Gate { allow_clients, max_tunnels, open: AtomicUsize::new(0) })
    }

    /// Decides on a new connection and counts it; [`Gate::leave`] when it is closed.
    pub fn enter(&self, peer: SocketAddr) -> Admission {
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        match self.allows(peer.ip().to_canonical()) {
            false => Admission::NotAllowed,
            true if before >= self.max_tunnels => Admission::Full,
            true => Admission::Welcome,
        }
    }

    /// A connection that had entered is closed.
    pub fn leave(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Connections that are in, those to be turned away included.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Connections that may be in before accepting pauses: some room is left to tell 503 to those over `max_tunnels`.
    pub fn is_overcrowded(&self) -> bool {
        self.open() >= self.max_tunnels + crate::limits::TURNED_AWAY_AT_ONCE
    }

    fn allows(&self, peer: IpAddr) -> bool {
        match self.allow_clients.is_empty() {
            true => peer.is_loopback(),
            false => self.allow_clients.iter().any(|network| network.contains(&peer)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> SocketAddr {
        SocketAddr::new(address.parse().unwrap(), 40_000)
    }

    #[test]
    fn without_a_list_only_loopback_enters() {
        let gate = Gate::new(vec![], 10);
        assert_eq!(gate.enter(peer("127.0.0.1")), Admission::Welcome);
        assert_eq!(gate.enter(peer("::1")), Admission::Welcome);
        assert_eq!(gate.enter(peer("10.0.0.1")), Admission::NotAllowed);
    }

    #[test]
    fn with_a_list_only_its_networks_enter() {
        let gate = Gate::new(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()], 10);
        assert_eq!(gate.enter(peer("10.200.0.1")), Admission::Welcome);
        assert_eq!(gate.enter(peer("::ffff:10.200.0.1")), Admission::Welcome);
        assert_eq!(gate.enter(peer("fd12::1")), Admission::Welcome);
        assert_eq!(gate.enter(peer("11.0.0.1")), Admission::NotAllowed);
        assert_eq!(gate.enter(peer("127.0.0.1")), Admission::NotAllowed);
    }

    #[test]
    fn over_the_limit_is_told_so_until_somebody_leaves() {
        let gate = Gate::new(vec![], 1);
        assert_eq!(gate.enter(peer("127.0.0.1")), Admission::Welcome);
        assert_eq!(gate.enter(peer("127.0.0.1")), Admission::Full);
        gate.leave();
        gate.leave();
        assert_eq!(gate.enter(peer("127.0.0.1")), Admission::Welcome);
    }
}
