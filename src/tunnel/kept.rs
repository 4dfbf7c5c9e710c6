//! Upstream connections that are authenticated and wait for the next request, whoever's it is: the identity is the gateway's.
//!
//! The one used last is taken first, so that what is too many grows old and goes.
//!
//! A connection stays registered under its place in the pool while a client's tunnel has it, and the pool tells whose its
//! events are. To register it anew at each change of hands would cost two system calls a request, and two events, because the
//! kernel tells of a writable socket each time.

use std::io;
use std::sync::Arc;

use mio::{Interest, Token};
use slab::Slab;

use super::Context;
use crate::event::{Deadline, Endpoint, EventToken, Key, Lane, Readiness};
use crate::fleet::Hop;

/// Marks the keys of kept connections, which live beside the slab of tunnels.
const KEPT_INDEX: u32 = 1 << 27;

struct Kept {
    generation: u32,
    hop: Arc<Hop>,
    hands: Hands,
    deadline: Deadline,
}

/// Who has a connection.
enum Hands {
    Pool(Endpoint),
    /// The tunnel that it was lent to, which knows it by that number.
    Tunnel(Key, u8),
}

/// The place in the pool of a connection that was lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(Key);

/// Whose an event was.
#[derive(Debug, PartialEq, Eq)]
pub enum Whose {
    /// The pool's, which has dealt with it.
    Pool,
    /// A tunnel's.
    Tunnel(EventToken),
    /// Nobody's: it came too late.
    Nobody,
}

/// A shard's kept connections.
#[derive(Default)]
pub struct KeptPool {
    connections: Slab<Kept>,
    next_generation: u32,
    /// Those of each hop that nobody has, by its number, the one used last behind the others.
    hops: Vec<Vec<usize>>,
}

impl KeptPool {
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

    /// Closes a connection that nobody has.
    fn remove(&mut self, index: usize) {
        if let Some(kept) = self.connections.try_remove(index) {
            self.of(&kept.hop).retain(|other| *other != index);
            kept.hop.metrics.kept.dec();
        }
    }

    /// Makes a connection wait for the next request; the oldest of too many goes.
    fn shelve(&mut self, index: usize, upstream: Endpoint) {
        let Some(kept) = self.connections.get_mut(index) else { return };
        kept.hands = Hands::Pool(upstream);
        let hop = Arc::clone(&kept.hop);
        hop.metrics.kept.inc();
        let waiting = self.of(&hop);
        waiting.push(index);
        if waiting.len() > hop.keep_cap
            && let Some(oldest) = waiting.first().copied()
        {
            self.remove(oldest);
        }
    }
}

/// Lends a connection to a client's tunnel, which knows it by `number`. It must come back by [`put`], or be given up by
/// [`forget`] or [`own`].
pub(super) fn take(hop: &Arc<Hop>, key: Key, number: u8, context: &mut Context) -> Option<(Endpoint, Place)> {
    while let Some(index) = context.kept.of(hop).pop() {
        let Some(kept) = context.kept.connections.get_mut(index) else { continue };
        kept.hop.metrics.kept.dec();
        let slot = u32::try_from(index).ok()?;
        let place = Place(Key { index: slot | KEPT_INDEX, generation: kept.generation });
        // A hop of that number before the configuration changed was another upstream's, or another identity's.
        let is_the_same = Arc::ptr_eq(&kept.hop, hop);
        match std::mem::replace(&mut kept.hands, Hands::Tunnel(key, number)) {
            // Anything that came since its last answer is its end.
            Hands::Pool(upstream) if is_the_same && !upstream.ready.readable() => return Some((upstream, place)),
            Hands::Pool(_) | Hands::Tunnel(..) => drop(context.kept.connections.try_remove(index)),
        }
    }
    None
}

/// Keeps a connection whose last answer has been read to its end. `place` is where it was lent from, if it was.
pub(super) fn put(hop: &Arc<Hop>, mut upstream: Endpoint, place: Option<Place>, context: &mut Context) {
    let at_ms = context.now_ms() + context.settings.timeouts.keep;
    if hop.keep_cap == 0 || context.draining || upstream.ready.read_closed() || upstream.ready.reset() {
        return give_up(place, context);
    }
    let lent = place.and_then(|Place(key)| Some((key, context.kept.slot(key)?)));
    let (key, index) = match lent {
        Some(found) => found,
        None => {
            let index = context.kept.connections.vacant_key();
            let Ok(slot) = u32::try_from(index) else { return };
            let generation = context.kept.next_generation.wrapping_add(1).max(1);
            context.kept.next_generation = generation;
            (Key { index: slot | KEPT_INDEX, generation }, index)
        }
    };
    if lent.is_none() || upstream.ready.readable() {
        // The edge that this brings tells whether something has come meanwhile.
        upstream.ready.read_blocked();
        if register(&mut upstream, key, 0, context).is_err() {
            return give_up(place, context);
        }
    }
    if lent.is_none() {
        let (generation, hop) = (key.generation, Arc::clone(hop));
        let hands = Hands::Tunnel(key, 0);
        context.kept.connections.insert(Kept { generation, hop, hands, deadline: Deadline::UNARMED });
    }
    if let Some(kept) = context.kept.connections.get_mut(index) {
        context.timers.set(key, &mut kept.deadline, at_ms);
    }
    context.kept.shelve(index, upstream);
}

/// A connection that was lent will not come back: its tunnel closes it.
pub(super) fn forget(place: Place, context: &mut Context) {
    if let Some(index) = context.kept.slot(place.0) {
        context.kept.connections.remove(index);
    }
}

fn give_up(place: Option<Place>, context: &mut Context) {
    if let Some(place) = place {
        forget(place, context);
    }
}

/// Makes a connection that was lent the tunnel's own for good, with its events.
///
/// # Errors
/// When the kernel takes no registration.
pub(super) fn own(
    place: Place,
    upstream: &mut Endpoint,
    key: Key,
    number: u8,
    context: &mut Context,
) -> io::Result<()> {
    forget(place, context);
    register(upstream, key, number, context)
}

fn register(upstream: &mut Endpoint, key: Key, number: u8, context: &Context) -> io::Result<()> {
    let token = Token::from(EventToken { key, lane: Lane::Upstream(number) });
    context.registry.reregister(&mut upstream.stream, token, Interest::READABLE | Interest::WRITABLE)
}

/// Deals with an event of a connection that waits, or tells which tunnel has it.
pub fn on_event(key: Key, ready: Readiness, context: &mut Context) -> Whose {
    let Some(index) = context.kept.slot(key) else { return Whose::Nobody };
    let Some(kept) = context.kept.connections.get_mut(index) else { return Whose::Nobody };
    match &mut kept.hands {
        Hands::Tunnel(key, number) => return Whose::Tunnel(EventToken { key: *key, lane: Lane::Upstream(*number) }),
        Hands::Pool(upstream) => {
            upstream.ready.learn(ready);
            // It was asked nothing: whatever comes is its end.
            if upstream.ready.readable() {
                context.kept.remove(index);
            }
        }
    }
    Whose::Pool
}

/// The entry of a kept connection's deadline has come up.
pub fn deadline_due(key: Key, context: &mut Context) {
    let now_ms = context.now_ms();
    let Some(index) = context.kept.slot(key) else { return };
    let Some(kept) = context.kept.connections.get_mut(index) else { return };
    // While it is lent its tunnel's deadline counts; it gets a new one when it comes back.
    if context.timers.expired(key, &mut kept.deadline, now_ms) && matches!(kept.hands, Hands::Pool(_)) {
        context.kept.remove(index);
    }
}

/// Closes all that wait: they were authenticated as somebody who may have no say any more, or the gateway is shutting down.
pub fn clear(context: &mut Context) {
    let waiting = context.kept.connections.iter().filter(|(_, kept)| matches!(kept.hands, Hands::Pool(_)));
    let waiting: Vec<usize> = waiting.map(|(index, _)| index).collect();
    for index in waiting {
        context.kept.remove(index);
    }
    context.kept.hops.clear();
}
