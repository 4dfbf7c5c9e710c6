//! Which connections are admitted, and which idle connection is closed when there is no place left.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use ipnet::IpNet;

use super::balance::{Balance, OwnLines};
use super::message::{Accepted, Message};
use crate::event::Sender;
use crate::limits;
use crate::session::Admission;

/// The rules of admission.
#[derive(Clone, Debug, Default)]
pub struct GateRules {
    /// Networks whose clients are admitted; only loopback if there are none.
    pub allow_clients: Vec<IpNet>,
    /// Most connections at once.
    pub max_tunnels: usize,
    /// Most connections of one address at once; 0 for no limit.
    pub per_client: usize,
    /// New connections of one address per second, and in a burst; 0 for no limit.
    pub per_client_second: usize,
}

/// Admission control, shared by all shards.
///
/// A connection that is admitted has a place. When all places are taken, or all that one client may have, an idle
/// connection (one without a request, or between two) is closed in favour of the new one. If it is another shard's,
/// that shard is asked to close it, and the new connection is admitted at once. Each shard counts its idle connections
/// here, minus those that it has been asked to close, so that no place is given away twice.
pub struct Gate {
    rules: GateRules,
    /// Open connections, including those that are only accepted to be rejected.
    open: AtomicUsize,
    /// Accepted connections on their way to another shard.
    on_their_way: AtomicUsize,
    /// Admitted connections.
    places: AtomicUsize,
    /// Idle connections with a place, by shard, minus those that the shard has been asked to close.
    idle: Box<[OwnLines<AtomicI64>]>,
    /// How the connections are spread over the shards.
    pub balance: Balance,
    /// Clients by a part of their address's hash, so that shards rarely contend. Empty if no limit is per client.
    clients: [Mutex<HashMap<IpAddr, OfClient>>; 16],
    hasher: RandomState,
    shards: OnceLock<Vec<Sender<Message>>>,
}

/// What is known of one client's address.
#[derive(Debug, Default)]
struct OfClient {
    places: usize,
    /// As [`Gate::idle`]; may be shorter, if later shards never had an idle connection of this client.
    idle: Vec<i64>,
    /// Tokens for new connections, in thousandths, at `refilled_ms`.
    tokens: u64,
    refilled_ms: u64,
}

/// A request to a shard to close its oldest idle connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// The shard.
    pub shard: usize,
    /// If set, the oldest of this client's connections.
    pub client: Option<IpAddr>,
}

/// The decision about a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionDecision {
    /// Whether it is admitted.
    pub admission: Admission,
    /// What has to be closed in its favour.
    pub eviction: Option<Eviction>,
}

/// What a client's own limits allow.
enum WithinLimits {
    Yes,
    /// One of its idle connections, on this shard, has to be closed.
    InPlaceOfOneOn(usize),
    No,
}

impl Gate {
    /// Admission control for this number of shards.
    pub fn new(rules: GateRules, shards: usize) -> Arc<Gate> {
        Arc::new(Gate {
            rules,
            open: AtomicUsize::new(0),
            on_their_way: AtomicUsize::new(0),
            places: AtomicUsize::new(0),
            idle: (0..shards).map(|_| OwnLines(AtomicI64::new(0))).collect(),
            balance: Balance::new(shards),
            clients: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            shards: OnceLock::new(),
        })
    }

    /// Sets how the shards are reached. Until then no shard can ask another one for a place.
    pub fn set_shards(&self, shards: Vec<Sender<Message>>) {
        // It is set once, when all shards have been made.
        let _ = self.shards.set(shards);
    }

    /// Decides about a new connection of shard `own` and counts it until [`Gate::leave`].
    pub fn enter(&self, peer: SocketAddr, own: usize, now_ms: u64) -> AdmissionDecision {
        self.open.fetch_add(1, Ordering::Relaxed);
        let client = peer.ip().to_canonical();
        let without_eviction = |admission| AdmissionDecision { admission, eviction: None };
        if !self.allows(client) {
            return without_eviction(Admission::NotAllowed);
        }
        let eviction = match self.count(client, own, now_ms) {
            WithinLimits::No => return without_eviction(Admission::TooMany),
            WithinLimits::InPlaceOfOneOn(shard) => {
                self.idle[shard].0.fetch_sub(1, Ordering::Relaxed);
                Eviction { shard, client: Some(client) }
            }
            WithinLimits::Yes => {
                let decision = self.take_place(own);
                if decision.admission != Admission::Welcome {
                    self.uncount(client);
                }
                return decision;
            }
        };
        self.places.fetch_add(1, Ordering::Relaxed);
        AdmissionDecision { admission: Admission::Welcome, eviction: Some(eviction) }
    }

    /// As [`Gate::enter`], for a connection whose client will be known only when its PROXY header has come: it has a
    /// place of its own, and counts for no client.
    pub fn enter_unnamed(&self, own: usize) -> AdmissionDecision {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.take_place(own)
    }

    /// Takes a free place, or that of an idle connection.
    fn take_place(&self, own: usize) -> AdmissionDecision {
        let take_free = |places: usize| (places < self.rules.max_tunnels).then_some(places + 1);
        if self.places.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take_free).is_ok() {
            return AdmissionDecision { admission: Admission::Welcome, eviction: None };
        }
        let Some(shard) = self.claim_idle(own) else {
            return AdmissionDecision { admission: Admission::Full, eviction: None };
        };
        self.places.fetch_add(1, Ordering::Relaxed);
        AdmissionDecision { admission: Admission::Welcome, eviction: Some(Eviction { shard, client: None }) }
    }

    /// A connection that had entered is closed. `peer` is `None` if its client was not known.
    pub fn leave(&self, peer: Option<SocketAddr>, had_place: bool) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        if had_place {
            self.places.fetch_sub(1, Ordering::Relaxed);
            if let Some(peer) = peer {
                self.uncount(peer.ip().to_canonical());
            }
        }
    }

    /// A connection with a place has become idle (`by` 1), or is not idle any more (-1). `peer` is as for
    /// [`Gate::leave`].
    pub fn count_idle(&self, peer: Option<SocketAddr>, shard: usize, by: i64) {
        self.idle[shard].0.fetch_add(by, Ordering::Relaxed);
        if let Some(peer) = peer.filter(|_| self.limits_clients()) {
            let client = peer.ip().to_canonical();
            if let Some(of_client) = self.clients_like(client).get_mut(&client) {
                of_client.count_idle(shard, by);
            }
        }
    }

    /// Sends an eviction to the shard that has to do it.
    pub fn send(&self, eviction: Eviction) {
        match self.shards.get().and_then(|shards| shards.get(eviction.shard)) {
            Some(shard) => shard.send(Message::Evict(eviction)),
            None => self.settle(eviction),
        }
    }

    /// Hands a connection over to another shard, which has it counted already.
    pub fn hand_over(&self, shard: usize, accepted: Accepted) {
        match self.shards.get().and_then(|shards| shards.get(shard)) {
            Some(to) => {
                self.on_their_way.fetch_add(1, Ordering::Relaxed);
                to.send(Message::HandedOver(Box::new(accepted)));
            }
            // There are several shards only once they can be reached.
            None => self.balance.leave(shard),
        }
    }

    /// A connection that was handed over has entered.
    pub fn has_arrived(&self) {
        self.on_their_way.fetch_sub(1, Ordering::Relaxed);
    }

    /// Tells the other shards that memory is short.
    pub fn ask_for_memory(&self, own: usize) {
        for (_, shard) in self.shards.get().into_iter().flatten().enumerate().filter(|(number, _)| *number != own) {
            shard.send(Message::FreeMemory);
        }
    }

    /// An eviction is done, or its shard had no such connection any more.
    pub fn settle(&self, eviction: Eviction) {
        self.idle[eviction.shard].0.fetch_add(1, Ordering::Relaxed);
        if let Some(client) = eviction.client
            && let Some(of_client) = self.clients_like(client).get_mut(&client)
        {
            of_client.count_idle(eviction.shard, 1);
        }
    }

    /// Claims an idle connection, so that nobody else does, and returns its shard: `own` if that has a good part of
    /// them, otherwise the one that has most.
    pub fn claim_idle(&self, own: usize) -> Option<usize> {
        let idle: Vec<i64> = self.idle.iter().map(|idle| idle.0.load(Ordering::Relaxed)).collect();
        let shard = fullest(&idle, own)?;
        let one_less = |idle: i64| (idle > 0).then_some(idle - 1);
        let taken = self.idle[shard].0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        taken.is_ok().then_some(shard)
    }

    /// Open connections, including those that are only accepted to be rejected.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Whether accepting has to pause. Some connections over `max_tunnels` are accepted to answer them with 503.
    pub fn is_overcrowded(&self) -> bool {
        let accepted = self.open() + self.on_their_way.load(Ordering::Relaxed);
        accepted >= self.rules.max_tunnels + limits::REJECTIONS_AT_ONCE
    }

    /// Most idle connections without a place that a shard may have.
    pub fn rejected_per_shard(&self) -> usize {
        (limits::REJECTIONS_AT_ONCE / 2 / self.idle.len().max(1)).max(1)
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

    /// Gives a client's connection a place among those of the client, if its limits allow it.
    fn count(&self, client: IpAddr, own: usize, now_ms: u64) -> WithinLimits {
        if !self.limits_clients() {
            return WithinLimits::Yes;
        }
        let rules = &self.rules;
        let most_tokens = 1000 * rules.per_client_second as u64;
        let refilled = |of_client: &OfClient| {
            let since_ms = now_ms.saturating_sub(of_client.refilled_ms);
            let more = since_ms.saturating_mul(rules.per_client_second as u64);
            most_tokens.min(of_client.tokens.saturating_add(more))
        };
        let mut clients = self.clients_like(client);
        if clients.len() >= limits::CLIENTS_REMEMBERED && !clients.contains_key(&client) {
            clients.retain(|_, of_client| of_client.places > 0 || refilled(of_client) < most_tokens);
        }
        let unknown = || OfClient { tokens: most_tokens, refilled_ms: now_ms, ..OfClient::default() };
        let of_client = clients.entry(client).or_insert_with(unknown);
        of_client.tokens = refilled(of_client);
        of_client.refilled_ms = now_ms;
        // Rejected connections do not consume tokens: a client that keeps trying still gets its share.
        if rules.per_client_second > 0 && of_client.tokens < 1000 {
            return WithinLimits::No;
        }
        let within = if rules.per_client == 0 || of_client.places < rules.per_client {
            WithinLimits::Yes
        } else if let Some(shard) = fullest(&of_client.idle, own) {
            of_client.count_idle(shard, -1);
            WithinLimits::InPlaceOfOneOn(shard)
        } else {
            return WithinLimits::No;
        };
        of_client.places += 1;
        of_client.tokens = of_client.tokens.saturating_sub(1000);
        within
    }

    fn uncount(&self, client: IpAddr) {
        if self.limits_clients()
            && let Some(of_client) = self.clients_like(client).get_mut(&client)
        {
            of_client.places = of_client.places.saturating_sub(1);
        }
    }

    /// The clients with the same part of the hash.
    fn clients_like(&self, client: IpAddr) -> MutexGuard<'_, HashMap<IpAddr, OfClient>> {
        let part = usize::from(self.hasher.hash_one(client).to_be_bytes()[0]) % self.clients.len();
        self.clients[part].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OfClient {
    fn count_idle(&mut self, shard: usize, by: i64) {
        if self.idle.len() <= shard {
            self.idle.resize(shard + 1, 0);
        }
        self.idle[shard] += by;
    }
}

/// The shard with most idle connections; `own` if it has at least half as many, which saves a message.
fn fullest(idle: &[i64], own: usize) -> Option<usize> {
    let (shard, most) =
        idle.iter().copied().enumerate().max_by_key(|(_, count)| *count).filter(|(_, most)| *most > 0)?;
    let of_own = idle.get(own).copied().unwrap_or_default();
    Some(if of_own > 0 && 2 * of_own >= most { own } else { shard })
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

    /// Enters through shard 0.
    fn enter(gate: &Gate, peer: SocketAddr, now_ms: u64) -> Admission {
        gate.enter(peer, 0, now_ms).admission
    }

    #[test]
    fn one_client_cannot_take_the_places_of_the_others() {
        let rules = GateRules { per_client: 2, ..rules(vec!["10.0.0.0/8".parse().unwrap()], 10) };
        let gate = Gate::new(rules, 1);
        let (greedy, modest) = (peer("10.0.0.1"), peer("10.0.0.2"));
        let admitted: Vec<Admission> = (0..3).map(|_| enter(&gate, greedy, 0)).collect();
        assert_eq!(admitted, [Admission::Welcome, Admission::Welcome, Admission::TooMany]);
        assert_eq!(enter(&gate, modest, 0), Admission::Welcome);
        gate.leave(Some(greedy), false);
        assert_eq!(enter(&gate, greedy, 0), Admission::TooMany);
        gate.leave(Some(greedy), true);
        assert_eq!(enter(&gate, greedy, 0), Admission::Welcome);
    }

    #[test]
    fn a_connection_whose_client_is_not_known_counts_for_nobody() {
        let rules = GateRules { per_client: 1, ..rules(vec!["10.0.0.0/8".parse().unwrap()], 2) };
        let gate = Gate::new(rules, 1);
        let client = peer("10.0.0.1");
        assert_eq!(gate.enter_unnamed(0).admission, Admission::Welcome);
        gate.count_idle(None, 0, 1);
        assert_eq!(gate.enter_unnamed(0).admission, Admission::Welcome);
        let eviction = Eviction { shard: 0, client: None };
        let decision = AdmissionDecision { admission: Admission::Welcome, eviction: Some(eviction) };
        assert_eq!(gate.enter(client, 0, 0), decision, "the idle one gives way");
        gate.count_idle(None, 0, -1);
        gate.leave(None, true);
        gate.settle(eviction);
        assert_eq!(enter(&gate, client, 0), Admission::TooMany);
        // Its header names the client, which has a place already.
        gate.leave(None, true);
        assert_eq!(enter(&gate, client, 0), Admission::TooMany);
        gate.leave(Some(client), true);
        assert_eq!(enter(&gate, client, 0), Admission::Welcome);
    }

    #[test]
    fn an_idle_connection_gives_its_place_away_once() {
        let gate = Gate::new(rules(vec![], 2), 2);
        let client = peer("127.0.0.1");
        assert_eq!((enter(&gate, client, 0), enter(&gate, client, 0)), (Admission::Welcome, Admission::Welcome));
        gate.count_idle(Some(client), 1, 1);
        let eviction = Eviction { shard: 1, client: None };
        let decision = AdmissionDecision { admission: Admission::Welcome, eviction: Some(eviction) };
        assert_eq!(gate.enter(client, 0, 0), decision);
        assert_eq!(enter(&gate, client, 0), Admission::Full, "the only idle one has been claimed");
        // The other shard closes it.
        gate.count_idle(Some(client), 1, -1);
        gate.leave(Some(client), true);
        gate.settle(eviction);
        assert_eq!(enter(&gate, client, 0), Admission::Full);
        gate.leave(Some(client), true);
        assert_eq!(enter(&gate, client, 0), Admission::Welcome);
    }

    #[test]
    fn an_eviction_that_comes_too_late_keeps_the_count_right() {
        let gate = Gate::new(rules(vec![], 1), 1);
        let client = peer("127.0.0.1");
        assert_eq!(enter(&gate, client, 0), Admission::Welcome);
        gate.count_idle(Some(client), 0, 1);
        let decision = gate.enter(client, 0, 0);
        // Its request begins before it is closed.
        gate.count_idle(Some(client), 0, -1);
        gate.settle(decision.eviction.unwrap());
        assert_eq!(enter(&gate, client, 0), Admission::Full);
        gate.count_idle(Some(client), 0, 1);
        assert_eq!(gate.enter(client, 0, 0).eviction, Some(Eviction { shard: 0, client: None }));
    }

    #[test]
    fn a_client_at_its_limit_gives_up_only_its_own_idle_connections() {
        let gate = Gate::new(GateRules { per_client: 1, ..rules(vec!["10.0.0.0/8".parse().unwrap()], 10) }, 2);
        let (one, other) = (peer("10.0.0.1"), peer("10.0.0.2"));
        assert_eq!((enter(&gate, one, 0), enter(&gate, other, 0)), (Admission::Welcome, Admission::Welcome));
        gate.count_idle(Some(other), 1, 1);
        assert_eq!(enter(&gate, one, 0), Admission::TooMany, "the idle one is another's");
        gate.count_idle(Some(one), 1, 1);
        let eviction = Eviction { shard: 1, client: Some(one.ip()) };
        assert_eq!(gate.enter(one, 0, 0).eviction, Some(eviction));
        assert_eq!(enter(&gate, one, 0), Admission::TooMany);
        gate.count_idle(Some(one), 1, -1);
        gate.leave(Some(one), true);
        gate.settle(eviction);
        assert_eq!(enter(&gate, one, 0), Admission::TooMany);
    }

    #[test]
    fn clients_that_are_not_allowed_take_no_place() {
        let gate = Gate::new(rules(vec![], 1), 1);
        for _ in 0..5 {
            assert_eq!(enter(&gate, peer("10.0.0.1"), 0), Admission::NotAllowed);
        }
        assert_eq!(enter(&gate, peer("127.0.0.1"), 0), Admission::Welcome);
        assert_eq!(gate.open(), 6);
    }

    #[test]
    fn a_client_that_connects_too_fast_waits_for_its_next_second() {
        let gate = Gate::new(GateRules { per_client_second: 5, ..rules(vec![], 1000) }, 1);
        let client = peer("127.0.0.1");
        let welcome_at = |now_ms| {
            let welcome = enter(&gate, client, now_ms) == Admission::Welcome;
            gate.leave(Some(client), welcome);
            welcome
        };
        assert_eq!((0..20).filter(|_| welcome_at(0)).count(), 5);
        assert!(!welcome_at(199));
        assert!(welcome_at(400));
        assert_eq!((0..20).filter(|_| welcome_at(10_000)).count(), 5, "unused tokens do not add up");
        assert_eq!(
            (0..1000).filter(|step| welcome_at(20_000 + step * 10)).count(),
            54,
            "five a second, and five at once"
        );
    }

    #[test]
    fn addresses_without_connections_are_forgotten() {
        let gate = Gate::new(GateRules { per_client: 1, ..rules(vec!["::/0".parse().unwrap()], 10) }, 1);
        for number in 0..100_000_u128 {
            let client = SocketAddr::new(IpAddr::V6((0x2001_0db8_u128 << 96 | number).into()), 1);
            enter(&gate, client, 0);
            gate.leave(Some(client), true);
        }
        let remembered: usize = gate.clients.iter().map(|clients| clients.lock().unwrap().len()).sum();
        assert!(remembered <= 16 * limits::CLIENTS_REMEMBERED, "{remembered}");
    }

    #[test]
    fn without_a_list_only_loopback_enters() {
        let gate = Gate::new(rules(vec![], 10), 1);
        assert_eq!(enter(&gate, peer("127.0.0.1"), 0), Admission::Welcome);
        assert_eq!(enter(&gate, peer("::1"), 0), Admission::Welcome);
        assert_eq!(enter(&gate, peer("10.0.0.1"), 0), Admission::NotAllowed);
    }

    #[test]
    fn with_a_list_only_its_networks_enter() {
        let gate = Gate::new(rules(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()], 10), 1);
        assert_eq!(enter(&gate, peer("10.200.0.1"), 0), Admission::Welcome);
        assert_eq!(enter(&gate, peer("::ffff:10.200.0.1"), 0), Admission::Welcome);
        assert_eq!(enter(&gate, peer("fd12::1"), 0), Admission::Welcome);
        assert_eq!(enter(&gate, peer("11.0.0.1"), 0), Admission::NotAllowed);
        assert_eq!(enter(&gate, peer("127.0.0.1"), 0), Admission::NotAllowed);
    }

    #[test]
    fn connections_over_the_limit_are_rejected_until_one_closes() {
        let gate = Gate::new(rules(vec![], 1), 1);
        assert_eq!(enter(&gate, peer("127.0.0.1"), 0), Admission::Welcome);
        assert_eq!(enter(&gate, peer("127.0.0.1"), 0), Admission::Full);
        gate.leave(Some(peer("127.0.0.1")), false);
        assert_eq!(enter(&gate, peer("127.0.0.1"), 0), Admission::Full);
        gate.leave(Some(peer("127.0.0.1")), true);
        assert_eq!(enter(&gate, peer("127.0.0.1"), 0), Admission::Welcome);
    }
}
