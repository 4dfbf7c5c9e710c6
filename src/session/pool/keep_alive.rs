//! Upstream connections that are authenticated and wait for the next request, whoever's it is: the identity is the gateway's.
//!
//! The one used last is taken first, so that what is too many grows old and goes.

use std::sync::Arc;

use mio::{Interest, Token};
use slab::Slab;

use crate::egress::Hop;
use crate::event::{Deadline, Endpoint, EventToken, Key, Lane, Readiness};
use crate::limits;
use crate::session::Context;

/// Marks the keys of kept connections, which live beside the slab of tunnels.
const KEPT_INDEX: u32 = 1 << 27;

struct Kept {
    generation: u32,
    hop: Arc<Hop>,
    upstream: Endpoint,
    deadline: Deadline,
    /// When its last answer had been read, in ms.
    since_ms: u64,
}

/// A shard's kept connections.
#[derive(Default)]
pub struct KeepAlivePool {
    connections: Slab<Kept>,
    next_generation: u32,
    /// Those of each hop by its number, the one used last behind the others.
    hops: Vec<Vec<usize>>,
}

impl KeepAlivePool {
    /// Whether a key is one of this pool's.
    pub fn owns(key: Key) -> bool {
        key.index & KEPT_INDEX != 0
    }

    fn slot(&self, key: Key) -> Option<usize> {
        let index = (key.index & !KEPT_INDEX) as usize;
        self.connections.get(index).filter(|kept| kept.generation == key.generation).map(|_| index)
    }

    fn of(&mut self, hop: &Hop) -> &mut Vec<usize> {
        if self.hops.len() <= hop.number {
            self.hops.resize_with(hop.number + 1, Vec::new);
        }
        &mut self.hops[hop.number]
    }

    fn remove(&mut self, index: usize) -> Option<Kept> {
        let kept = self.connections.try_remove(index)?;
        self.of(&kept.hop).retain(|other| *other != index);
        kept.hop.metrics.kept.dec();
        Some(kept)
    }
}

/// Takes a connection for a client's request and gives its events to the client's tunnel. One that was used so long ago that
/// its upstream may be closing it just now is only for requests that can be made again.
pub(in crate::session) fn take(
    hop: &Arc<Hop>,
    key: Key,
    number: u8,
    can_be_repeated: bool,
    context: &mut Context,
) -> Option<Endpoint> {
    while let Some(index) = context.keep_alive.of(hop).last().copied() {
        let since_ms = context.keep_alive.connections.get(index).map_or(0, |kept| kept.since_ms);
        if !can_be_repeated && context.now_ms() - since_ms > limits::millis(limits::KEPT_FRESH) {
            // The others were used even earlier.
            return None;
        }
        let Some(kept) = context.keep_alive.remove(index) else { continue };
        let mut upstream = kept.upstream;
        let token = Token::from(EventToken { key, lane: Lane::Upstream(number) });
        let interest = Interest::READABLE | Interest::WRITABLE;
        // A reload numbers the hops anew: the number alone may be another upstream's or another identity's.
        if Arc::ptr_eq(&kept.hop, hop)
            && is_at_rest(&mut upstream)
            && context.registry.reregister(&mut upstream.stream, token, interest).is_ok()
        {
            return Some(upstream);
        }
    }
    None
}

/// Whether a connection stands and nothing has come since its last answer; what has come would be taken for the answer to the
/// next request. Asks the socket, because an event may be on its way.
pub(in crate::session) fn is_at_rest(upstream: &mut Endpoint) -> bool {
    let nothing = upstream.stream.is_silent();
    if nothing {
        upstream.ready.read_blocked();
    }
    nothing && !upstream.ready.read_closed() && !upstream.ready.reset()
}

/// Keeps a connection whose last answer has been read to its end; the oldest of too many goes.
pub(in crate::session) fn put(hop: &Arc<Hop>, mut upstream: Endpoint, context: &mut Context) {
    let is_of_present_fleet = context.settings.egress.hops.get(hop.number).is_some_and(|other| Arc::ptr_eq(other, hop));
    if hop.keep_cap == 0
        || hop.habits.is_forgetful(context.now_ms())
        || context.draining
        || !is_of_present_fleet
        || !is_at_rest(&mut upstream)
    {
        return;
    }
    let pool = &mut context.keep_alive;
    if pool.of(hop).len() >= hop.keep_cap
        && let Some(oldest) = pool.of(hop).first().copied()
    {
        pool.remove(oldest);
    }
    let index = pool.connections.vacant_key();
    let Ok(slot) = u32::try_from(index) else { return };
    pool.next_generation = pool.next_generation.wrapping_add(1).max(1);
    let key = Key { index: slot | KEPT_INDEX, generation: pool.next_generation };
    let token = Token::from(EventToken { key, lane: Lane::Upstream(0) });
    // The edge that this brings tells whether something has come meanwhile.
    if context.registry.reregister(&mut upstream.stream, token, Interest::READABLE | Interest::WRITABLE).is_err() {
        return;
    }
    let mut deadline = Deadline::UNARMED;
    context.timers.set(key, &mut deadline, context.now_us / 1000 + context.settings.timeouts.keep);
    let since_ms = context.now_ms();
    let pool = &mut context.keep_alive;
    pool.connections.insert(Kept { generation: key.generation, hop: Arc::clone(hop), upstream, deadline, since_ms });
    pool.of(hop).push(index);
    hop.metrics.kept.inc();
}

/// Deals with an event of a kept connection; `false` when it came too late.
pub fn on_event(key: Key, ready: Readiness, context: &mut Context) -> bool {
    let Some(index) = context.keep_alive.slot(key) else { return false };
    let Some(kept) = context.keep_alive.connections.get_mut(index) else { return false };
    kept.upstream.ready.learn(ready);
    // It was asked nothing: whatever comes is its end.
    if kept.upstream.ready.readable() {
        context.keep_alive.remove(index);
    }
    true
}

/// The entry of a kept connection's deadline has come up.
pub fn deadline_due(key: Key, context: &mut Context) {
    let now_ms = context.now_ms();
    let Some(index) = context.keep_alive.slot(key) else { return };
    let Some(kept) = context.keep_alive.connections.get_mut(index) else { return };
    if context.timers.expired(key, &mut kept.deadline, now_ms) {
        context.keep_alive.remove(index);
    }
}

/// Closes all: they were authenticated as somebody who may have no say any more, or the gateway is shutting down.
pub fn clear(context: &mut Context) {
    let all: Vec<usize> = context.keep_alive.connections.iter().map(|(index, _)| index).collect();
    for index in all {
        context.keep_alive.remove(index);
    }
    context.keep_alive.hops.clear();
}
