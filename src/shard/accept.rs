//! Who may come in, and how many.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;

use crate::limits;
use crate::tunnel::Admission;

/// What the door goes by.
#[derive(Clone, Debug, Default)]
pub struct GateRules {
    /// Networks that may come in; loopback alone if there are none.
    pub allow_clients: Vec<IpNet>,
    /// Connections in at once.
    pub max_tunnels: usize,
    /// Connections of one address in at once; 0 for no such limit.
    pub per_client: usize,
    /// New connections of one address a second; 0 for no such limit. As many may come at once.
    pub per_client_second: usize,
}

/// The rule at the door, shared by all shards.
#[derive(Debug)]
pub struct Gate {
    rules: GateRules,
    open: AtomicUsize,
    /// By a part of the address's hash, so that shards seldom wait for each other. Empty without limits of this kind.
    clients: [Mutex<HashMap<IpAddr, OfClient>>; 16],
    hasher: RandomState,
}

/// What one address has.
#[derive(Debug, Default)]
struct OfClient {
    open: usize,
    /// Thousandths of connections that may still come, at `filled_ms`.
    allowance: u64,
    filled_ms: u64,
}

impl Gate {
    /// A door with nobody in.
    pub fn new(rules: GateRules) -> Arc<Gate> {
        let clients = std::array::from_fn(|_| Mutex::default());
        Arc::new(Gate { rules, open: AtomicUsize::new(0), clients, hasher: RandomState::new() })
    }

    /// Decides on a new connection and counts it; [`Gate::leave`] when it is closed.
    pub fn enter(&self, peer: SocketAddr, now_ms: u64) -> Admission {
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        let client = peer.ip().to_canonical();
        let within = self.count(client, now_ms);
        match self.allows(client) {
            false => Admission::NotAllowed,
            true if !within => Admission::TooMany,
            true if before >= self.rules.max_tunnels => Admission::Full,
            true => Admission::Welcome,
        }
    }

    /// A connection that had entered is closed.
    pub fn leave(&self, peer: SocketAddr) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        if self.limits_clients() {
            let client = peer.ip().to_canonical();
            if let Some(of_client) = self.clients_like(client).get_mut(&client) {
                of_client.open = of_client.open.saturating_sub(1);
            }
        }
    }

    /// Connections that are in, those to be turned away included.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Connections that may be in before accepting pauses: some room is left to tell 503 to those over `max_tunnels`.
    pub fn is_overcrowded(&self) -> bool {
        self.open() >= self.rules.max_tunnels + limits::TURNED_AWAY_AT_ONCE
    }

    fn allows(&self, peer: IpAddr) -> bool {
        match self.rules.allow_clients.is_empty() {
            true => peer.is_loopback(),
            false => self.rules.allow_clients.iter().any(|network| network.contains(&peer)),
        }
    }

    fn limits_clients(&self) -> bool {
        self.rules.per_client > 0 || self.rules.per_client_second > 0
    }

    /// Counts a connection of a client; `false` when it is one too many.
    fn count(&self, client: IpAddr, now_ms: u64) -> bool {
        if !self.limits_clients() {
            return true;
        }
        let rules = &self.rules;
        let full = 1000 * rules.per_client_second as u64;
        let refilled = |of_client: &OfClient| {
            let since_ms = now_ms.saturating_sub(of_client.filled_ms);
            full.min(of_client.allowance.saturating_add(since_ms.saturating_mul(rules.per_client_second as u64)))
        };
        let mut clients = self.clients_like(client);
        if clients.len() >= limits::CLIENTS_REMEMBERED && !clients.contains_key(&client) {
            clients.retain(|_, of_client| of_client.open > 0 || refilled(of_client) < full);
        }
        let of_client = clients.entry(client).or_insert(OfClient { open: 0, allowance: full, filled_ms: now_ms });
        of_client.open += 1;
        of_client.allowance = refilled(of_client);
        of_client.filled_ms = now_ms;
        let in_time = rules.per_client_second == 0 || of_client.allowance >= 1000;
        // Who is turned away has used nothing up: one that presses on gets its share all the same.
        of_client.allowance = of_client.allowance.saturating_sub(if in_time { 1000 } else { 0 });
        in_time && (rules.per_client == 0 || of_client.open <= rules.per_client)
    }

    fn clients_like(&self, client: IpAddr) -> MutexGuard<'_, HashMap<IpAddr, OfClient>> {
        let place = usize::from(self.hasher.hash_one(client).to_be_bytes()[0]) % self.clients.len();
        self.clients[place].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> SocketAddr {
        SocketAddr::new(address.parse().unwrap(), 40_000)
    }

    fn rules(allow_clients: Vec<IpNet>, max_tunnels: usize) -> GateRules {
        GateRules { allow_clients, max_tunnels, ..GateRules::default() }
    }

    #[test]
    fn one_client_cannot_take_the_places_of_the_others() {
        let gate = Gate::new(GateRules { per_client: 2, ..rules(vec!["10.0.0.0/8".parse().unwrap()], 10) });
        let (greedy, modest) = (peer("10.0.0.1"), peer("10.0.0.2"));
        let admitted: Vec<Admission> = (0..3).map(|_| gate.enter(greedy, 0)).collect();
        assert_eq!(admitted, [Admission::Welcome, Admission::Welcome, Admission::TooMany]);
        assert_eq!(gate.enter(modest, 0), Admission::Welcome);
        gate.leave(greedy);
        gate.leave(greedy);
        assert_eq!(gate.enter(greedy, 0), Admission::Welcome);
    }

    #[test]
    fn a_client_that_comes_too_fast_waits_for_its_next_second() {
        let gate = Gate::new(GateRules { per_client_second: 5, ..rules(vec![], 1000) });
        let client = peer("127.0.0.1");
        let welcome_at = |now_ms| {
            let welcome = gate.enter(client, now_ms) == Admission::Welcome;
            gate.leave(client);
            welcome
        };
        assert_eq!((0..20).filter(|_| welcome_at(0)).count(), 5);
        assert!(!welcome_at(199));
        assert!(welcome_at(400));
        assert_eq!((0..20).filter(|_| welcome_at(10_000)).count(), 5, "the rest is not saved up");
        assert_eq!(
            (0..1000).filter(|step| welcome_at(20_000 + step * 10)).count(),
            54,
            "five a second, and five at once"
        );
    }

    #[test]
    fn addresses_that_have_gone_are_forgotten() {
        let gate = Gate::new(GateRules { per_client: 1, ..rules(vec!["::/0".parse().unwrap()], 10) });
        for number in 0..100_000_u128 {
            let client = SocketAddr::new(IpAddr::V6((0x2001_0db8_u128 << 96 | number).into()), 1);
            gate.enter(client, 0);
            gate.leave(client);
        }
        let remembered: usize = gate.clients.iter().map(|clients| clients.lock().unwrap().len()).sum();
        assert!(remembered <= 16 * limits::CLIENTS_REMEMBERED, "{remembered}");
    }

    #[test]
    fn without_a_list_only_loopback_enters() {
        let gate = Gate::new(rules(vec![], 10));
        assert_eq!(gate.enter(peer("127.0.0.1"), 0), Admission::Welcome);
        assert_eq!(gate.enter(peer("::1"), 0), Admission::Welcome);
        assert_eq!(gate.enter(peer("10.0.0.1"), 0), Admission::NotAllowed);
    }

    #[test]
    fn with_a_list_only_its_networks_enter() {
        let gate = Gate::new(rules(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()], 10));
        assert_eq!(gate.enter(peer("10.200.0.1"), 0), Admission::Welcome);
        assert_eq!(gate.enter(peer("::ffff:10.200.0.1"), 0), Admission::Welcome);
        assert_eq!(gate.enter(peer("fd12::1"), 0), Admission::Welcome);
        assert_eq!(gate.enter(peer("11.0.0.1"), 0), Admission::NotAllowed);
        assert_eq!(gate.enter(peer("127.0.0.1"), 0), Admission::NotAllowed);
    }

    #[test]
    fn over_the_limit_is_told_so_until_somebody_leaves() {
        let gate = Gate::new(rules(vec![], 1));
        assert_eq!(gate.enter(peer("127.0.0.1"), 0), Admission::Welcome);
        assert_eq!(gate.enter(peer("127.0.0.1"), 0), Admission::Full);
        gate.leave(peer("127.0.0.1"));
        gate.leave(peer("127.0.0.1"));
        assert_eq!(gate.enter(peer("127.0.0.1"), 0), Admission::Welcome);
    }
}
