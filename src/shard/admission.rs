//! Who may come in, and how many; and who gives way when there is no place left.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use ipnet::IpNet;

use super::message::Message;
use crate::event::Sender;
use crate::limits;
use crate::session::Admission;

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
///
/// When all places are taken, or all that one client may have, a connection that is idle (its request has not begun, or it rests between
/// two) gives its place to the newcomer. It may be another shard's: then that shard is asked to close it, and the newcomer is let in
/// at once. Each shard counts its idle connections here, less those that it was asked to close, so that none is promised twice.
pub struct Gate {
    rules: GateRules,
    /// Connections that are there, those to be turned away included.
    open: AtomicUsize,
    /// Those that were let in.
    places: AtomicUsize,
    /// Idle connections with a place, by shard, less those that it was asked to close.
    idle: Box<[AtomicI64]>,
    /// By a part of the address's hash, so that shards seldom wait for each other. Empty without limits of this kind.
    clients: [Mutex<HashMap<IpAddr, OfClient>>; 16],
    hasher: RandomState,
    shards: OnceLock<Vec<Sender<Message>>>,
}

/// What one address has.
#[derive(Debug, Default)]
struct OfClient {
    places: usize,
    /// As [`Gate::idle`]. Shards that never had one of its connections may be missing at the end.
    idle: Vec<i64>,
    /// Thousandths of connections that may still come, at `filled_ms`.
    allowance: u64,
    filled_ms: u64,
}

/// A shard is to close its oldest idle connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GiveWay {
    /// Which shard.
    pub shard: usize,
    /// The oldest of this client.
    pub client: Option<IpAddr>,
}

/// What was decided about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whether it is let in.
    pub admission: Admission,
    /// Who makes room for it.
    pub gives_way: Option<GiveWay>,
}

/// How a client's own limits decide.
enum WithinLimits {
    Yes,
    /// One of its idle connections, on this shard, gives way.
    InPlaceOfOneOn(usize),
    No,
}

impl Gate {
    /// A door with nobody in, for so many shards.
    pub fn new(rules: GateRules, shards: usize) -> Arc<Gate> {
        Arc::new(Gate {
            rules,
            open: AtomicUsize::new(0),
            places: AtomicUsize::new(0),
            idle: (0..shards).map(|_| AtomicI64::new(0)).collect(),
            clients: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            shards: OnceLock::new(),
        })
    }

    /// How the shards are reached; before it is known, each makes room by itself.
    pub fn set_shards(&self, shards: Vec<Sender<Message>>) {
        // It is set once, when all shards have been made.
        let _ = self.shards.set(shards);
    }

    /// Decides on a new connection of a shard and counts it; [`Gate::leave`] when it is closed.
    pub fn enter(&self, peer: SocketAddr, own: usize, now_ms: u64) -> Entry {
        self.open.fetch_add(1, Ordering::Relaxed);
        let client = peer.ip().to_canonical();
        let turned_away = |admission| Entry { admission, gives_way: None };
        if !self.allows(client) {
            return turned_away(Admission::NotAllowed);
        }
        let gives_way = match self.count(client, own, now_ms) {
            WithinLimits::No => return turned_away(Admission::TooMany),
            WithinLimits::InPlaceOfOneOn(shard) => {
                self.idle[shard].fetch_sub(1, Ordering::Relaxed);
                Some(GiveWay { shard, client: Some(client) })
            }
            WithinLimits::Yes => {
                let room = |places: usize| (places < self.rules.max_tunnels).then_some(places + 1);
                if self.places.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok() {
                    return turned_away(Admission::Welcome);
                }
                let Some(shard) = self.promise(own) else {
                    self.uncount(client);
                    return turned_away(Admission::Full);
                };
                Some(GiveWay { shard, client: None })
            }
        };
        self.places.fetch_add(1, Ordering::Relaxed);
        Entry { admission: Admission::Welcome, gives_way }
    }

    /// A connection that had entered is closed.
    pub fn leave(&self, peer: SocketAddr, had_place: bool) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        if had_place {
            self.places.fetch_sub(1, Ordering::Relaxed);
            self.uncount(peer.ip().to_canonical());
        }
    }

    /// A connection with a place is idle from now on (`by` 1), or is not any more (-1).
    pub fn count_idle(&self, peer: SocketAddr, shard: usize, by: i64) {
        self.idle[shard].fetch_add(by, Ordering::Relaxed);
        if self.limits_clients() {
            let client = peer.ip().to_canonical();
            if let Some(of_client) = self.clients_like(client).get_mut(&client) {
                of_client.count_idle(shard, by);
            }
        }
    }

    /// Asks another shard to make room.
    pub fn ask(&self, room: GiveWay) {
        match self.shards.get().and_then(|shards| shards.get(room.shard)) {
            Some(shard) => shard.send(Message::GiveWay(room)),
            None => self.done(room),
        }
    }

    /// Tells the other shards that memory runs short.
    pub fn ask_for_memory(&self, own: usize) {
        for (_, shard) in self.shards.get().into_iter().flatten().enumerate().filter(|(number, _)| *number != own) {
            shard.send(Message::FreeMemory);
        }
    }

    /// The shard has done what it was asked to, or had no such connection any more.
    pub fn done(&self, room: GiveWay) {
        self.idle[room.shard].fetch_add(1, Ordering::Relaxed);
        if let Some(client) = room.client
            && let Some(of_client) = self.clients_like(client).get_mut(&client)
        {
            of_client.count_idle(room.shard, 1);
        }
    }

    /// Promises an idle connection away and says whose shard has it: this one's if it has a good part of them, else the one's with most.
    pub fn promise(&self, own: usize) -> Option<usize> {
        let idle: Vec<i64> = self.idle.iter().map(|idle| idle.load(Ordering::Relaxed)).collect();
        let shard = fullest(&idle, own)?;
        let one_less = |idle: i64| (idle > 0).then_some(idle - 1);
        let taken = self.idle[shard].fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        taken.is_ok().then_some(shard)
    }

    /// Connections that are in, those to be turned away included.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Connections that may be in before accepting pauses: some room is left to tell 503 to those over `max_tunnels`.
    pub fn is_overcrowded(&self) -> bool {
        self.open() >= self.rules.max_tunnels + limits::REJECTIONS_AT_ONCE
    }

    /// Idle connections without a place that a shard may have.
    pub fn turned_away_per_shard(&self) -> usize {
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

    /// Counts a connection of a client, which has a place unless it is one too many.
    fn count(&self, client: IpAddr, own: usize, now_ms: u64) -> WithinLimits {
        if !self.limits_clients() {
            return WithinLimits::Yes;
        }
        let rules = &self.rules;
        let full = 1000 * rules.per_client_second as u64;
        let refilled = |of_client: &OfClient| {
            let since_ms = now_ms.saturating_sub(of_client.filled_ms);
            full.min(of_client.allowance.saturating_add(since_ms.saturating_mul(rules.per_client_second as u64)))
        };
        let mut clients = self.clients_like(client);
        if clients.len() >= limits::CLIENTS_REMEMBERED && !clients.contains_key(&client) {
            clients.retain(|_, of_client| of_client.places > 0 || refilled(of_client) < full);
        }
        let fresh = || OfClient { allowance: full, filled_ms: now_ms, ..OfClient::default() };
        let of_client = clients.entry(client).or_insert_with(fresh);
        of_client.allowance = refilled(of_client);
        of_client.filled_ms = now_ms;
        // Rejected connections do not consume tokens: a client that presses on gets its share all the same.
        if rules.per_client_second > 0 && of_client.allowance < 1000 {
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
        of_client.allowance = of_client.allowance.saturating_sub(1000);
        within
    }

    fn uncount(&self, client: IpAddr) {
        if self.limits_clients()
            && let Some(of_client) = self.clients_like(client).get_mut(&client)
        {
            of_client.places = of_client.places.saturating_sub(1);
        }
    }

    fn clients_like(&self, client: IpAddr) -> MutexGuard<'_, HashMap<IpAddr, OfClient>> {
        let place = usize::from(self.hasher.hash_one(client).to_be_bytes()[0]) % self.clients.len();
        self.clients[place].lock().unwrap_or_else(PoisonError::into_inner)
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

/// The shard with most idle connections; the own one if it has at least half as many, which saves a message.
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

    /// Enters by shard 0.
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
        gate.leave(greedy, false);
        assert_eq!(enter(&gate, greedy, 0), Admission::TooMany);
        gate.leave(greedy, true);
        assert_eq!(enter(&gate, greedy, 0), Admission::Welcome);
    }

    #[test]
    fn an_idle_connection_makes_room_and_is_promised_once() {
        let gate = Gate::new(rules(vec![], 2), 2);
        let client = peer("127.0.0.1");
        assert_eq!((enter(&gate, client, 0), enter(&gate, client, 0)), (Admission::Welcome, Admission::Welcome));
        gate.count_idle(client, 1, 1);
        let room = GiveWay { shard: 1, client: None };
        let entry = Entry { admission: Admission::Welcome, gives_way: Some(room) };
        assert_eq!(gate.enter(client, 0, 0), entry);
        assert_eq!(enter(&gate, client, 0), Admission::Full, "the only idle one has been promised");
        // The other shard closes it.
        gate.count_idle(client, 1, -1);
        gate.leave(client, true);
        gate.done(room);
        assert_eq!(enter(&gate, client, 0), Admission::Full);
        gate.leave(client, true);
        assert_eq!(enter(&gate, client, 0), Admission::Welcome);
    }

    #[test]
    fn a_promise_that_comes_too_late_leaves_the_count_true() {
        let gate = Gate::new(rules(vec![], 1), 1);
        let client = peer("127.0.0.1");
        assert_eq!(enter(&gate, client, 0), Admission::Welcome);
        gate.count_idle(client, 0, 1);
        let entry = gate.enter(client, 0, 0);
        // Its request begins before it is closed.
        gate.count_idle(client, 0, -1);
        gate.done(entry.gives_way.unwrap());
        assert_eq!(enter(&gate, client, 0), Admission::Full);
        gate.count_idle(client, 0, 1);
        assert_eq!(gate.enter(client, 0, 0).gives_way, Some(GiveWay { shard: 0, client: None }));
    }

    #[test]
    fn a_client_at_its_limit_makes_room_for_itself_and_for_nobody_else() {
        let gate = Gate::new(GateRules { per_client: 1, ..rules(vec!["10.0.0.0/8".parse().unwrap()], 10) }, 2);
        let (one, other) = (peer("10.0.0.1"), peer("10.0.0.2"));
        assert_eq!((enter(&gate, one, 0), enter(&gate, other, 0)), (Admission::Welcome, Admission::Welcome));
        gate.count_idle(other, 1, 1);
        assert_eq!(enter(&gate, one, 0), Admission::TooMany, "the idle one is another's");
        gate.count_idle(one, 1, 1);
        let room = GiveWay { shard: 1, client: Some(one.ip()) };
        assert_eq!(gate.enter(one, 0, 0).gives_way, Some(room));
        assert_eq!(enter(&gate, one, 0), Admission::TooMany);
        gate.count_idle(one, 1, -1);
        gate.leave(one, true);
        gate.done(room);
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
    fn a_client_that_comes_too_fast_waits_for_its_next_second() {
        let gate = Gate::new(GateRules { per_client_second: 5, ..rules(vec![], 1000) }, 1);
        let client = peer("127.0.0.1");
        let welcome_at = |now_ms| {
            let welcome = enter(&gate, client, now_ms) == Admission::Welcome;
            gate.leave(client, welcome);
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
        let gate = Gate::new(GateRules { per_client: 1, ..rules(vec!["::/0".parse().unwrap()], 10) }, 1);
        for number in 0..100_000_u128 {
            let client = SocketAddr::new(IpAddr::V6((0x2001_0db8_u128 << 96 | number).into()), 1);
            enter(&gate, client, 0);
            gate.leave(client, true);
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
    fn over_the_limit_is_told_so_until_somebody_leaves() {
        let gate = Gate::new(rules(vec![], 1), 1);
        assert_eq!(enter(&gate, peer("127.0.0.1"), 0), Admission::Welcome);
        assert_eq!(enter(&gate, peer("127.0.0.1"), 0), Admission::Full);
        gate.leave(peer("127.0.0.1"), false);
        assert_eq!(enter(&gate, peer("127.0.0.1"), 0), Admission::Full);
        gate.leave(peer("127.0.0.1"), true);
        assert_eq!(enter(&gate, peer("127.0.0.1"), 0), Admission::Welcome);
    }
}
