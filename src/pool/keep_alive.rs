//! Authenticated upstream connections between two requests. Any client may use them, because the identity is the
//! gateway's.
//!
//! The connection that was used last is taken first, so that those beyond the present demand grow old and are closed.

use std::sync::Arc;

use super::Loan;
use crate::egress::Hop;
use crate::event::{Deadline, EventToken, Key, Owner, Slots};
use crate::limits::{self, millis};
use crate::transport::{Endpoint, Readiness};

struct Kept {
    hop: Arc<Hop>,
    upstream: Endpoint,
    deadline: Deadline,
    /// When its last answer had been read, in ms.
    since_ms: u64,
}

/// A shard's kept connections.
pub struct KeepAlivePool {
    connections: Slots<Kept>,
    /// Those of each hop by its number, the one that was used last at the end.
    hops: Vec<Vec<Key>>,
}

impl Default for KeepAlivePool {
    fn default() -> Self {
        KeepAlivePool { connections: Slots::new(Owner::KeepAlive), hops: Vec::new() }
    }
}

impl KeepAlivePool {
    /// Takes a connection for a client's request; its events carry `token` from now on. A connection whose last use was
    /// so long ago that its upstream may be closing it is only for requests that can be repeated.
    pub fn take(
        &mut self,
        hop: &Arc<Hop>,
        token: EventToken,
        can_be_repeated: bool,
        loan: &Loan<'_>,
    ) -> Option<Endpoint> {
        if !loan.is_in_force(hop) {
            return None;
        }
        while let Some(key) = self.of(hop).last().copied() {
            let since_ms = self.connections.get(key).map_or(0, |kept| kept.since_ms);
            if !can_be_repeated && loan.now_ms - since_ms > millis(limits::KEPT_FRESH) {
                // The others were used even earlier.
                return None;
            }
            let Some(kept) = self.remove(key) else { continue };
            let mut upstream = kept.upstream;
            if upstream.is_at_rest() && upstream.hand_over(token, loan.registry).is_ok() {
                return Some(upstream);
            }
        }
        None
    }

    /// Keeps a connection whose last answer has been read to its end; closes the oldest when there are too many.
    pub fn put(&mut self, hop: &Arc<Hop>, mut upstream: Endpoint, loan: &mut Loan<'_>) {
        if hop.keep_cap == 0
            || hop.habits.authenticates_single_requests(loan.now_ms)
            || loan.draining
            || !loan.is_in_force(hop)
            || !upstream.is_at_rest()
        {
            return;
        }
        if self.of(hop).len() >= hop.keep_cap
            && let Some(oldest) = self.of(hop).first().copied()
        {
            self.remove(oldest);
        }
        let Some(vacancy) = self.connections.vacancy() else { return };
        let key = vacancy.key();
        // Reregistering reports anything that has come meanwhile as a new edge.
        if upstream.hand_over(EventToken::upstream(key, 0), loan.registry).is_err() {
            return;
        }
        let mut deadline = Deadline::UNARMED;
        loan.timers.set(key, &mut deadline, loan.now_ms + loan.timeouts.keep);
        vacancy.insert(Kept { hop: Arc::clone(hop), upstream, deadline, since_ms: loan.now_ms });
        self.of(hop).push(key);
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

    pub(super) fn deadline_due(&mut self, key: Key, loan: &mut Loan<'_>) {
        let Some(kept) = self.connections.get_mut(key) else { return };
        if loan.timers.expired(key, &mut kept.deadline, loan.now_ms) {
            self.remove(key);
        }
    }

    pub(super) fn clear(&mut self) {
        for (_, kept) in self.connections.take_all() {
            kept.hop.metrics.kept.dec();
        }
        self.hops.clear();
    }

    fn of(&mut self, hop: &Hop) -> &mut Vec<Key> {
        if self.hops.len() <= hop.number {
            self.hops.resize_with(hop.number + 1, Vec::new);
        }
        &mut self.hops[hop.number]
    }

    fn remove(&mut self, key: Key) -> Option<Kept> {
        let kept = self.connections.remove(key)?;
        self.of(&kept.hop).retain(|other| *other != key);
        kept.hop.metrics.kept.dec();
        Some(kept)
    }
}
