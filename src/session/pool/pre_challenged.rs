//! The warm pool: upstream connections that are dialled and challenged ahead, so that a CONNECT costs one upstream round
//! trip instead of three.
//!
//! NTLM authenticates a connection, and a proxy answers the NEGOTIATE leg with its challenge before it looks at the
//! target; so that leg can be done in advance, and the client's own target goes with the AUTHENTICATE_MESSAGE.
//!
//! What gets the challenge is a request of the gateway's own, for a destination that does not exist ([`ChallengeRequest`]): nothing of a
//! client's is in it, and nobody is harmed where an upstream carries it out.
//!
//! The pool follows demand: each request that finds it empty makes it one larger, up to the cap, and each connection that
//! grows old unused makes it one smaller. A quiet gateway keeps nothing. It grows only while the credentials are proven. And it
//! gives way: some proxies (Squid) hold a helper process for every connection that they have challenged, and those belong to
//! clients first, so nothing is warmed, and what is warm is closed, while clients stand still ([`HelperPressure`](crate::upstream::HelperPressure)).

use std::sync::Arc;

use mio::{Interest, Token};
use slab::Slab;

use super::challenge_request::ChallengeRequest;
use crate::auth::{FirstLeg, Handshake, Progress};
use crate::egress::Hop;
use crate::event::{Deadline, Endpoint, EventToken, Key, Lane, Readiness};
use crate::limits;
use crate::metrics::{Discarded, Reason407};
use crate::session::Context;
use crate::session::dial::Attempt;
use crate::session::happy_eyeballs::connect;
use crate::session::head_reader::{Got, HeadReader};
use crate::upstream::Resolution;

/// Marks the keys of warm connections, which live beside the slab of tunnels.
const WARM_INDEX: u32 = 1 << 28;

/// A connection on its way to its challenge, or with it.
struct Warm {
    generation: u32,
    hop: Arc<Hop>,
    upstream: Endpoint,
    handshake: Handshake,
    inbox: HeadReader,
    outbox: Vec<u8>,
    deadline: Deadline,
    challenged: bool,
    /// Which request was to get its challenge.
    warm_up: ChallengeRequest,
    /// When it was challenged, and when it is too old, in ms; from its challenge on.
    challenged_ms: u64,
    until_ms: u64,
}

/// The connections of one hop.
#[derive(Default)]
struct OfHop {
    hop: Option<Arc<Hop>>,
    /// Those with a challenge, the youngest last.
    ready: Vec<usize>,
    /// All of them.
    count: usize,
    /// As many as present demand calls for.
    wanted: usize,
    /// What the NEGOTIATE leg asks for.
    warm_up: ChallengeRequest,
}

/// A shard's warm connections.
#[derive(Default)]
pub struct PreChallengedPool {
    connections: Slab<Warm>,
    next_generation: u32,
    /// By the hops' numbers.
    hops: Vec<OfHop>,
}

impl PreChallengedPool {
    /// A pool without connections.
    pub fn new() -> PreChallengedPool {
        PreChallengedPool { next_generation: 1, ..PreChallengedPool::default() }
    }

    /// Whether a key is one of this pool's.
    pub fn owns(key: Key) -> bool {
        key.index & WARM_INDEX != 0
    }

    /// Connections, with their challenge or without.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.connections.len()
    }

    fn slot(&self, key: Key) -> Option<usize> {
        let index = (key.index & !WARM_INDEX) as usize;
        self.connections.get(index).filter(|warm| warm.generation == key.generation).map(|_| index)
    }

    fn key(&self, index: usize) -> Option<Key> {
        let generation = self.connections.get(index)?.generation;
        Some(Key { index: u32::try_from(index).ok()? | WARM_INDEX, generation })
    }

    fn of(&mut self, hop: &Arc<Hop>) -> &mut OfHop {
        if self.hops.len() <= hop.number {
            self.hops.resize_with(hop.number + 1, OfHop::default);
        }
        let of_hop = &mut self.hops[hop.number];
        of_hop.hop.get_or_insert_with(|| Arc::clone(hop));
        of_hop
    }

    /// Takes a connection out, whatever becomes of it.
    fn remove(&mut self, index: usize) -> Option<Warm> {
        let warm = self.connections.try_remove(index)?;
        let of_hop = self.of(&warm.hop);
        of_hop.count = of_hop.count.saturating_sub(1);
        if warm.challenged {
            of_hop.ready.retain(|ready| *ready != index);
            warm.hop.metrics.warm_ready.dec();
        }
        Some(warm)
    }
}

/// Takes a challenged connection for a client's attempt and gives its events to the client's tunnel: the attempt goes on with its
/// handshake. A miss leaves the attempt as it is and makes the pool grow.
///
/// As with kept connections, one that has rested for a while is only for requests that can be made again.
pub(in crate::session) fn take(
    attempt: &mut Attempt,
    key: Key,
    can_be_repeated: bool,
    context: &mut Context,
) -> Option<Endpoint> {
    let hop = &attempt.hop;
    let now_ms = context.now_ms();
    if hop.warm_cap == 0 {
        return None;
    }
    // While the secret is in doubt the request itself is to be challenged: only then does its answer tell.
    let usable_now = hop.identity.guard.is_fresh(now_ms, hop.upstream.name());
    let most_age_ms = hop.habits.challenge_age_ms(context.settings.timeouts.warm);
    while let Some(index) = context.pre_challenged.of(hop).ready.last().copied().filter(|_| usable_now) {
        let challenged_ms = context.pre_challenged.connections.get(index).map_or(0, |warm| warm.challenged_ms);
        if !can_be_repeated && now_ms - challenged_ms > limits::millis(limits::KEPT_FRESH) {
            break;
        }
        let Some(warm) = context.pre_challenged.remove(index) else { continue };
        let mut upstream = warm.upstream;
        // Anything that came since the challenge is its end.
        let usable = !upstream.ready.readable() && now_ms <= warm.challenged_ms + most_age_ms;
        let token = Token::from(EventToken { key, lane: Lane::Upstream(attempt.number) });
        let interest = Interest::READABLE | Interest::WRITABLE;
        if usable && context.registry.reregister(&mut upstream.stream, token, interest).is_ok() {
            let own = std::mem::replace(&mut attempt.handshake, warm.handshake);
            attempt.handshake.retarget(own.into_request());
            attempt.challenged_ms = warm.challenged_ms;
            hop.metrics.warm_hits.inc();
            return Some(upstream);
        }
        hop.metrics.warm_discarded(Discarded::Failed);
    }
    hop.metrics.warm_misses.inc();
    let of_hop = context.pre_challenged.of(hop);
    of_hop.wanted = (of_hop.wanted + 1).min(hop.warm_cap);
    None
}

/// Dials as many connections as are wanted and missing; called once a turn.
pub fn refill(context: &mut Context) {
    for number in 0..context.pre_challenged.hops.len() {
        let Some(of_hop) = context.pre_challenged.hops.get(number).filter(|of_hop| of_hop.count < of_hop.wanted) else {
            continue;
        };
        let (Some(hop), warm_up) = (of_hop.hop.clone(), of_hop.warm_up) else { continue };
        let missing = of_hop.wanted - of_hop.count;
        if hop.credentials.first_leg != FirstLeg::Negotiate
            || hop.credentials.needs_no_challenge()
            || !hop.identity.guard.is_fresh(context.now_ms(), hop.upstream.name())
            || !hop.upstream.health.is_up()
            || hop.upstream.helper_pressure.forbids_warming(context.now_ms())
        {
            continue;
        }
        for _ in 0..missing {
            if dial(&hop, warm_up, context).is_none() {
                rest(&hop, context);
                break;
            }
        }
    }
}

fn dial(hop: &Arc<Hop>, warm_up: ChallengeRequest, context: &mut Context) -> Option<()> {
    let Some(Resolution::Addresses(addresses)) = hop.upstream.resolution() else { return None };
    let address = *addresses.get(hop.upstream.preferred()).or(addresses.first())?;
    let generation = context.pre_challenged.next_generation;
    context.pre_challenged.next_generation = generation.wrapping_add(1).max(1);
    let index = context.pre_challenged.connections.vacant_key();
    let key = Key { index: u32::try_from(index).ok()? | WARM_INDEX, generation };
    hop.metrics.dials.inc();
    let upstream = connect(address, key, 0, context).ok()?;
    let settings = &context.settings;
    let request = warm_up.request(hop.check_target.as_deref());
    let handshake = Handshake::new(request, hop.credentials.clone(), settings.head_limit_bytes)
        .with_field_limit(settings.field_limit);
    let mut deadline = Deadline::UNARMED;
    let at_ms = context.now_ms() + settings.timeouts.connect;
    context.timers.set(key, &mut deadline, at_ms);
    context.pre_challenged.connections.insert(Warm {
        generation,
        hop: Arc::clone(hop),
        upstream,
        handshake,
        inbox: HeadReader::default(),
        outbox: Vec::new(),
        deadline,
        challenged: false,
        warm_up,
        challenged_ms: 0,
        until_ms: 0,
    });
    context.pre_challenged.of(hop).count += 1;
    Some(())
}

/// Deals with an event of a warm connection; `false` when it came too late.
pub fn on_event(key: Key, ready: Readiness, context: &mut Context) -> bool {
    let Some(index) = context.pre_challenged.slot(key) else { return false };
    let Some(warm) = context.pre_challenged.connections.get_mut(index) else { return false };
    warm.upstream.ready.learn(ready);
    if warm.challenged {
        // Its deadline, or the client that takes it next, will find out; but a close frees its descriptor at once.
        if warm.upstream.ready.readable() {
            let hop = Arc::clone(&warm.hop);
            discard(index, Discarded::Failed, context);
            // Or an upstream that closes behind its challenges would be dialled again and again.
            let of_hop = context.pre_challenged.of(&hop);
            of_hop.wanted = of_hop.wanted.saturating_sub(1);
        }
        return true;
    }
    match advance(index, context) {
        Advanced::Challenged => {
            let now_ms = context.now_ms();
            let of_settings_ms = context.settings.timeouts.warm;
            if let (Some(key), Some(warm)) =
                (context.pre_challenged.key(index), context.pre_challenged.connections.get_mut(index))
            {
                let until_ms = now_ms + warm.hop.habits.challenge_age_ms(of_settings_ms);
                warm.challenged = true;
                (warm.challenged_ms, warm.until_ms) = (now_ms, until_ms);
                // The room that the NEGOTIATE leg took is not needed to wait.
                warm.outbox = Vec::new();
                context.timers.set(
                    key,
                    &mut warm.deadline,
                    until_ms.min(now_ms + limits::millis(limits::STALL_CHECK_INTERVAL)),
                );
                let answered = warm.handshake.take_tally();
                let hop = Arc::clone(&warm.hop);
                hop.metrics.answered_407(Reason407::Challenge, u64::from(answered.challenge));
                hop.metrics.warm_ready.inc();
                context.pre_challenged.of(&hop).ready.push(index);
            }
        }
        Advanced::NotYet => {}
        Advanced::Answered => ask_otherwise(index, context),
        Advanced::Lost => fail(index, context),
    }
    true
}

/// How far a connection has come.
enum Advanced {
    NotYet,
    Challenged,
    /// The upstream has answered the request and not asked for credentials, or not for ours.
    Answered,
    /// The connection is gone.
    Lost,
}

/// One step towards the challenge.
fn advance(index: usize, context: &mut Context) -> Advanced {
    let Context { pre_challenged: pool, scratch, .. } = context;
    let Some(warm) = pool.connections.get_mut(index) else { return Advanced::Lost };
    if !warm.upstream.ready.writable() && !warm.upstream.ready.readable() {
        return Advanced::NotYet;
    }
    if warm.handshake.legs() == 0 {
        if !matches!(warm.upstream.stream.take_error(), Ok(None)) {
            return Advanced::Lost;
        }
        warm.handshake.begin(&mut warm.outbox);
        // A fresh connection takes a request whole, or is no good.
        if !warm.upstream.write(&warm.outbox).is_ok_and(|sent| sent == warm.outbox.len()) {
            return Advanced::Lost;
        }
    }
    for _ in 0..limits::PRE_CHALLENGE_READS_PER_TURN {
        if !warm.upstream.ready.readable() {
            return Advanced::NotYet;
        }
        let Warm { upstream, handshake, inbox, outbox, .. } = &mut *warm;
        let got = inbox.read(upstream, scratch, |bytes| match handshake.receive(bytes, outbox) {
            Ok((used, progress)) => (used, Some(progress)),
            Err(_) => (0, None),
        });
        match got {
            Ok(Got::Blocked | Got::Bytes(Some(Progress::More))) => {}
            Ok(Got::Bytes(Some(Progress::Challenged))) => return Advanced::Challenged,
            // A proxy that asks for more than one round gains nothing from being asked ahead.
            Ok(Got::Bytes(Some(Progress::Send | Progress::Redial))) => return Advanced::Lost,
            Ok(Got::Bytes(_)) => return Advanced::Answered,
            Ok(Got::End) | Err(_) => return Advanced::Lost,
        }
    }
    // It sends without end.
    Advanced::Lost
}

/// The entry of a warm connection's deadline has come up.
pub fn deadline_due(key: Key, context: &mut Context) {
    let now_ms = context.now_ms();
    let Some(index) = context.pre_challenged.slot(key) else { return };
    let Some(warm) = context.pre_challenged.connections.get_mut(index) else { return };
    if !context.timers.expired(key, &mut warm.deadline, now_ms) {
        return;
    }
    let hop = Arc::clone(&warm.hop);
    if !warm.challenged {
        // It may be looking for the destination.
        ask_otherwise(index, context);
    } else if now_ms >= warm.until_ms {
        discard(index, Discarded::Aged, context);
        let of_hop = context.pre_challenged.of(&hop);
        of_hop.wanted = of_hop.wanted.saturating_sub(1);
    } else {
        look(index, key, context);
    }
}

/// Gives way to clients that wait for a challenge, on whichever shard, while none is served: this connection may hold the
/// very helper that they need.
fn look(index: usize, key: Key, context: &mut Context) {
    let now_ms = context.now_ms();
    let Some(warm) = context.pre_challenged.connections.get_mut(index) else { return };
    if warm.hop.upstream.helper_pressure.forbids_warming(now_ms) {
        discard(index, Discarded::Yielded, context);
    } else {
        context.timers.set(
            key,
            &mut warm.deadline,
            warm.until_ms.min(now_ms + limits::millis(limits::STALL_CHECK_INTERVAL)),
        );
    }
}

/// Throws everything away: what was begun with other credentials must not be finished with these.
pub fn clear(context: &mut Context) {
    let all: Vec<usize> = context.pre_challenged.connections.iter().map(|(index, _)| index).collect();
    for index in all {
        discard(index, Discarded::Outdated, context);
    }
    context.pre_challenged.hops.clear();
}

fn discard(index: usize, cause: Discarded, context: &mut Context) {
    if let Some(warm) = context.pre_challenged.remove(index) {
        warm.hop.metrics.warm_discarded(cause);
    }
}

/// A challenge does not come for this request: a rule may answer it before credentials are asked for. Another one is tried,
/// and when all have been, the upstream is left alone for a while.
fn ask_otherwise(index: usize, context: &mut Context) {
    let Some(warm) = context.pre_challenged.connections.get(index) else { return };
    let (hop, warm_up) = (Arc::clone(&warm.hop), warm.warm_up);
    let of_hop = context.pre_challenged.of(&hop);
    // Not if another connection has found that out before.
    if of_hop.warm_up != warm_up {
        return discard(index, Discarded::Failed, context);
    }
    of_hop.warm_up = warm_up.next(hop.check_target.as_deref());
    match of_hop.warm_up == ChallengeRequest::default() {
        true => fail(index, context),
        false => discard(index, Discarded::Failed, context),
    }
}

/// A challenge will not come.
fn fail(index: usize, context: &mut Context) {
    let hop = context.pre_challenged.connections.get(index).map(|warm| Arc::clone(&warm.hop));
    discard(index, Discarded::Failed, context);
    if let Some(hop) = hop {
        rest(&hop, context);
    }
}

/// An upstream that does not play along is left alone for a while.
fn rest(hop: &Arc<Hop>, context: &mut Context) {
    hop.upstream.helper_pressure.rest(context.now_ms());
    context.pre_challenged.of(hop).wanted = 0;
}
