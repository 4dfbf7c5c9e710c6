//! Authenticated upstream connections between two requests. Any client may use them, because the identity is the
//! gateway's.
//!
//! The connection that was used last is taken first, so that those beyond the present demand grow old and are closed.
//! But a session that has used one a moment ago gets that one again: its events still carry the session's token, which
//! saves the two system calls that change it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Loan;
use crate::egress::Hop;
use crate::event::{Deadline, EventToken, Key, Lane, Owner, Slots};
use crate::limits::{self, millis};
use crate::transport::{Endpoint, Readiness};

struct Kept {
    hop: Arc<Hop>,
    upstream: Endpoint,
    deadline: Deadline,
    /// When its last answer had been read, in ms.
    since_ms: u64,
    /// What its events carry: still the token of the session that used it last, or the pool's own.
    token: EventToken,
    /// The next of the connections whose events carry tokens of the same slot of a session.
    next: Option<Key>,
}

/// A connection that was taken from the pool.
pub struct Taken {
    /// The connection.
    pub upstream: Endpoint,
    /// The number of its dial, which its events carry.
    pub number: u8,
}

/// A shard's kept connections.
pub struct KeepAlivePool {
    connections: Slots<Kept>,
    /// Those of each hop, by its number.
    hops: Vec<KeptOfHop>,
    /// The first of the connections whose events carry a session's token, by the session's slot. Nearly always there is
    /// one at most, because a session parks one connection.
    parked: Vec<Option<Key>>,
}

/// The connections of a hop.
#[derive(Default)]
struct KeptOfHop {
    /// The one that was used last at the end. Keys of connections that have left stay among them for a while: to look
    /// for a key would take longer the more connections there are.
    order: VecDeque<Key>,
    /// How many have not left.
    count: usize,
}

impl Kept {
    /// It was used so recently that its upstream is not closing it yet.
    fn is_fresh(&self, now_ms: u64) -> bool {
        now_ms - self.since_ms <= millis(limits::KEPT_FRESH)
    }
}

impl Default for KeepAlivePool {
    fn default() -> Self {
        KeepAlivePool { connections: Slots::new(Owner::KeepAlive), hops: Vec::new(), parked: Vec::new() }
    }
}

impl KeepAlivePool {
    /// Takes a connection for a client's request; its events carry `token`, or the token under which the session
    /// has `parked` it. A connection whose last use was so long ago that its upstream may be closing it is only for
    /// requests that can be repeated.
    pub fn take(
        &mut self,
        hop: &Arc<Hop>,
        token: EventToken,
        parked: &mut Option<u8>,
        can_be_repeated: bool,
        loan: &Loan<'_>,
    ) -> Option<Taken> {
        if !loan.is_in_force(hop) {
            return None;
        }
        if let Some(number) = *parked {
            let own = EventToken::upstream(token.key, number);
            match self.find(own) {
                None => *parked = None,
                Some(key) => {
                    let is_fit = |kept: &Kept| Arc::ptr_eq(&kept.hop, hop) && kept.is_fresh(loan.now_ms);
                    if self.connections.get(key).is_some_and(is_fit) {
                        *parked = None;
                        if let Some(upstream) = self.open(key, can_be_repeated) {
                            return Some(Taken { upstream, number });
                        }
                    }
                }
            }
        }
        while let Some(key) = self.latest(hop) {
            if !can_be_repeated && !self.connections.get(key).is_some_and(|kept| kept.is_fresh(loan.now_ms)) {
                // The others were used even earlier.
                return None;
            }
            let Some(mut upstream) = self.open(key, can_be_repeated) else { continue };
            if let Lane::Upstream(number) = token.lane
                && upstream.hand_over(token, loan.registry).is_ok()
            {
                return Some(Taken { upstream, number });
            }
        }
        None
    }

    /// Removes a connection and returns it if it is still open. A request that must not be repeated is not left to what
    /// events have reported.
    fn open(&mut self, key: Key, can_be_repeated: bool) -> Option<Endpoint> {
        let mut upstream = self.remove(key)?.upstream;
        let is_at_rest = if can_be_repeated { upstream.seems_at_rest() } else { upstream.is_at_rest() };
        is_at_rest.then_some(upstream)
    }

    /// Keeps a connection whose last answer has been read to its end; closes the oldest when there are too many. Its
    /// events carry `token`, as far as the session has not `parked` another connection; `parked` becomes its number
    /// if they go on to.
    pub fn put(
        &mut self,
        hop: &Arc<Hop>,
        mut upstream: Endpoint,
        token: EventToken,
        parked: &mut Option<u8>,
        loan: &mut Loan<'_>,
    ) {
        if hop.keep_cap == 0
            || hop.habits.authenticates_single_requests(loan.now_ms)
            || loan.draining
            || !loan.is_in_force(hop)
            || !(upstream.seems_at_rest() || upstream.is_at_rest())
        {
            return;
        }
        if self.of(hop).count >= hop.keep_cap
            && let Some(oldest) = self.oldest(hop)
        {
            self.remove(oldest);
        }
        let Some(vacancy) = self.connections.vacancy() else { return };
        let key = vacancy.key();
        let token = match (token.lane, &parked) {
            (Lane::Upstream(number), None) => {
                *parked = Some(number);
                token
            }
            _ => {
                let token = EventToken::upstream(key, 0);
                // Reregistering reports anything that has come meanwhile as a new edge.
                if upstream.hand_over(token, loan.registry).is_err() {
                    return;
                }
                token
            }
        };
        let mut deadline = Deadline::UNARMED;
        // The earlier one first, so that there is one entry.
        loan.timers.wake_by(key, &mut deadline, loan.now_ms + millis(limits::LASTING_CONNECTION_AGE));
        loan.timers.set(key, &mut deadline, loan.now_ms + loan.timeouts.keep);
        vacancy.insert(Kept { hop: Arc::clone(hop), upstream, deadline, since_ms: loan.now_ms, token, next: None });
        self.link(key, token);
        self.append(hop, key);
        hop.metrics.kept.inc();
    }

    /// Handles an event; `false` when it is stale.
    pub(super) fn on_event(&mut self, key: Key, ready: Readiness) -> bool {
        let Some(kept) = self.connections.get_mut(key) else { return false };
        kept.upstream.learn(ready);
        // Nothing was asked of it: whatever comes ends its use.
        if kept.upstream.has_input() {
            self.remove(key);
        }
        true
    }

    /// Handles an event that carries the token of a session which does not use the connection any more, or is gone;
    /// `false` when it is stale.
    pub fn on_parked_event(&mut self, token: EventToken, ready: Readiness) -> bool {
        self.find(token).is_some_and(|key| self.on_event(key, ready))
    }

    /// The connection whose events carry this token.
    fn find(&self, token: EventToken) -> Option<Key> {
        let mut next = *self.parked.get(token.key.slot())?;
        while let Some(key) = next {
            let kept = self.connections.get(key)?;
            if kept.token == token {
                return Some(key);
            }
            next = kept.next;
        }
        None
    }

    /// Has a connection found by the token of a session that its events carry.
    fn link(&mut self, key: Key, token: EventToken) {
        if token.key.owner() != Owner::Session {
            return;
        }
        let slot = token.key.slot();
        if self.parked.len() <= slot {
            self.parked.resize(slot + 1, None);
        }
        let next = self.parked[slot].replace(key);
        if let Some(kept) = self.connections.get_mut(key) {
            kept.next = next;
        }
    }

    /// The reverse of `link`, for a connection that has been removed.
    fn unlink(&mut self, key: Key, removed: &Kept) {
        let token_of = removed.token.key;
        let Some(first) = self.parked.get_mut(token_of.slot()).filter(|_| token_of.owner() == Owner::Session) else {
            return;
        };
        if *first == Some(key) {
            *first = removed.next;
            return;
        }
        let mut before = *first;
        while let Some(kept) = before.and_then(|key| self.connections.get_mut(key)) {
            if kept.next == Some(key) {
                kept.next = removed.next;
                return;
            }
            before = kept.next;
        }
    }

    pub(super) fn deadline_due(&mut self, key: Key, loan: &mut Loan<'_>) {
        let Some(kept) = self.connections.get_mut(key) else { return };
        match loan.timers.expired(key, &mut kept.deadline, loan.now_ms) {
            true => drop(self.remove(key)),
            false => kept.upstream.lasts(&loan.socket_options),
        }
    }

    pub(super) fn clear(&mut self) {
        for (_, kept) in self.connections.take_all() {
            kept.hop.metrics.kept.dec();
        }
        self.hops.clear();
        self.parked.clear();
    }

    fn of(&mut self, hop: &Hop) -> &mut KeptOfHop {
        if self.hops.len() <= hop.number {
            self.hops.resize_with(hop.number + 1, KeptOfHop::default);
        }
        &mut self.hops[hop.number]
    }

    /// The connection of a hop that was used last.
    fn latest(&mut self, hop: &Hop) -> Option<Key> {
        let order = &mut self.hops.get_mut(hop.number)?.order;
        while order.pop_back_if(|key| self.connections.get(*key).is_none()).is_some() {}
        order.back().copied()
    }

    /// The connection of a hop whose last use is longest ago.
    fn oldest(&mut self, hop: &Hop) -> Option<Key> {
        let order = &mut self.hops.get_mut(hop.number)?.order;
        while order.pop_front_if(|key| self.connections.get(*key).is_none()).is_some() {}
        order.front().copied()
    }

    /// Adds the connection that was used last.
    fn append(&mut self, hop: &Hop, key: Key) {
        let of_hop = self.of(hop);
        of_hop.count += 1;
        of_hop.order.push_back(key);
        if of_hop.order.len() > 2 * of_hop.count + limits::KEYS_LEFT_BEHIND {
            self.hops[hop.number].order.retain(|key| self.connections.get(*key).is_some());
        }
    }

    fn remove(&mut self, key: Key) -> Option<Kept> {
        let kept = self.connections.remove(key)?;
        self.unlink(key, &kept);
        let of_hop = self.of(&kept.hop);
        of_hop.count = of_hop.count.saturating_sub(1);
        kept.hop.metrics.kept.dec();
        Some(kept)
    }
}
