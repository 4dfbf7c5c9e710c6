//! Upstream connections that have their challenge before a client needs it, so that a CONNECT takes one upstream round
//! trip instead of three.
//!
//! NTLM authenticates a connection, and a proxy answers the NEGOTIATE_MESSAGE with its challenge before it looks at the
//! target. So that leg can be done in advance, and the client's own target is sent with the AUTHENTICATE_MESSAGE.
//!
//! The challenge is obtained by a request of the gateway's own, for a destination that does not exist
//! ([`ChallengeRequest`]). Nothing of a client's is in it, and it does no harm where an upstream carries it out.
//!
//! The pool follows demand ([`Sizing`]). It grows only while the credentials are known to be good. It also gives way:
//! some proxies (Squid) hold a helper process for every connection that they have challenged, and clients come first.
//! While clients wait for a challenge and get none, nothing is dialled in advance and what there is gets closed. After
//! that the pool stays smaller for a while ([`HelperPressure`](crate::upstream::HelperPressure)).

use std::sync::Arc;

use super::Loan;
use super::challenge_request::ChallengeRequest;
use super::sizing::Sizing;
use crate::auth::{FirstLeg, Handshake, Progress};
use crate::egress::Hop;
use crate::event::{Deadline, EventToken, HeadReader, Key, Owner, ReadOutcome, Slots};
use crate::limits::{self, millis};
use crate::metrics::{Discarded, Reason407};
use crate::transport::{Endpoint, Readiness};
use crate::upstream::{HelperShare, Resolution, WarmSize};

/// A connection that waits for its challenge, or has it.
struct Connection {
    hop: Arc<Hop>,
    upstream: Endpoint,
    handshake: Handshake,
    inbox: HeadReader,
    outbox: Vec<u8>,
    deadline: Deadline,
    /// The request that is to get its challenge.
    request: ChallengeRequest,
    dialled_ms: u64,
    /// It may occupy a helper of the upstream.
    _share: HelperShare,
    /// `None` until it has its challenge.
    challenge: Option<Challenge>,
}

/// The age of a challenge.
#[derive(Clone, Copy)]
struct Challenge {
    received_ms: u64,
    /// When it is too old to be used.
    until_ms: u64,
    /// The connection has the options of one that lasts.
    lasts: bool,
}

/// The connections of one hop.
struct OfHop {
    hop: Arc<Hop>,
    /// Those that have their challenge, the youngest last.
    ready: Vec<Key>,
    /// All of them.
    count: usize,
    /// How many there should be.
    sizing: Sizing,
    /// What the hop's metrics count of these.
    reported: usize,
    /// The upstream's helpers are short until then at least, in ms.
    paused_until_ms: u64,
    /// The request that new connections try to get their challenge with.
    request: ChallengeRequest,
}

/// A shard's pre-challenged connections.
pub struct PreChallengedPool {
    connections: Slots<Connection>,
    /// By the hops' numbers.
    hops: Vec<Option<OfHop>>,
}

/// A connection that was taken from the pool.
pub struct Challenged {
    /// The connection.
    pub upstream: Endpoint,
    /// Its handshake, which is to be retargeted at the client's request.
    pub handshake: Handshake,
    /// When its challenge came, in ms.
    pub challenged_ms: u64,
}

/// How far a connection has come.
enum Advance {
    Waiting,
    Challenged,
    /// The upstream has answered the request without asking for credentials, or not for ours.
    Answered,
    /// The connection is of no use.
    Lost,
}

impl Default for PreChallengedPool {
    fn default() -> Self {
        PreChallengedPool { connections: Slots::new(Owner::PreChallenged), hops: Vec::new() }
    }
}

impl PreChallengedPool {
    /// Takes a connection for a client's request; its events carry `token` from now on. If there is none, the pool
    /// grows.
    ///
    /// As with kept connections, one that has been idle for a while is only for requests that can be repeated.
    pub fn take(
        &mut self,
        hop: &Arc<Hop>,
        token: EventToken,
        can_be_repeated: bool,
        loan: &Loan<'_>,
    ) -> Option<Challenged> {
        let now_ms = loan.now_ms;
        if hop.warm.is_off() || !can_be_pre_challenged(hop) || !loan.is_in_force(hop) {
            return None;
        }
        let taken = self.take_ready(hop, token, can_be_repeated, loan);
        match &taken {
            Some(_) => hop.metrics.warm_hits.inc(),
            None => hop.metrics.warm_misses.inc(),
        }
        let of_hop = self.enter(hop, loan.timeouts.warm);
        of_hop.sizing.requested(taken.is_some(), now_ms);
        of_hop.report();
        taken
    }

    fn take_ready(
        &mut self,
        hop: &Arc<Hop>,
        token: EventToken,
        can_be_repeated: bool,
        loan: &Loan<'_>,
    ) -> Option<Challenged> {
        let now_ms = loan.now_ms;
        // While the secret is in doubt, the client's request itself has to be challenged: only then is its answer a
        // verdict.
        if self.of(hop)?.ready.is_empty() || !hop.identity.guard.is_accepted(now_ms, hop.upstream.name()) {
            return None;
        }
        let most_age_ms = hop.habits.challenge_age_ms(loan.timeouts.warm);
        while let Some(key) = self.of(hop)?.ready.last().copied() {
            let challenged_ms = self.connections.get(key).and_then(|of| of.challenge).map_or(0, |of| of.received_ms);
            if !can_be_repeated && now_ms - challenged_ms > millis(limits::KEPT_FRESH) {
                return None;
            }
            let Some(connection) = self.remove(key) else { continue };
            let Connection { mut upstream, handshake, .. } = connection;
            // Anything that came after the challenge ends its use.
            let is_usable = !upstream.has_input() && now_ms <= challenged_ms + most_age_ms;
            if is_usable && upstream.hand_over(token, loan.registry).is_ok() {
                return Some(Challenged { upstream, handshake, challenged_ms });
            }
            hop.metrics.warm_discarded(Discarded::Failed);
        }
        None
    }

    /// Whether connections are missing.
    pub fn wants_more(&self, now_ms: u64) -> bool {
        self.hops.iter().flatten().any(|of_hop| of_hop.missing() > 0 && now_ms >= of_hop.paused_until_ms)
    }

    /// Dials the connections that are wanted and missing; called once a turn if there are any.
    pub fn refill(&mut self, loan: &mut Loan<'_>) {
        for number in 0..self.hops.len() {
            let Some(Some(of_hop)) = self.hops.get_mut(number) else { continue };
            let (hop, request, mut missing) = (Arc::clone(&of_hop.hop), of_hop.request, of_hop.missing());
            if missing == 0 || loan.now_ms < of_hop.paused_until_ms {
                continue;
            }
            let pressure = &hop.upstream.helper_pressure;
            if pressure.forbids_pre_challenging(loan.now_ms) {
                of_hop.paused_until_ms = loan.now_ms + millis(limits::STALL_CHECK_INTERVAL);
                self.give_way(&hop);
                continue;
            }
            if hop.warm == WarmSize::Auto {
                missing = missing.min(pressure.room(loan.now_ms));
            }
            if missing == 0
                || !can_be_pre_challenged(&hop)
                || !hop.identity.guard.is_accepted(loan.now_ms, hop.upstream.name())
                || !hop.upstream.health.is_up()
            {
                continue;
            }
            for _ in 0..missing {
                if self.dial(&hop, request, loan).is_none() {
                    self.rest(&hop, loan.now_ms);
                    break;
                }
            }
        }
    }

    fn dial(&mut self, hop: &Arc<Hop>, request: ChallengeRequest, loan: &mut Loan<'_>) -> Option<()> {
        let Some(Resolution::Addresses(addresses)) = hop.upstream.resolution() else { return None };
        let address = *addresses.get(hop.upstream.preferred()).or(addresses.first())?;
        let vacancy = self.connections.vacancy()?;
        let key = vacancy.key();
        hop.metrics.dials.inc();
        let (transport, token) = (hop.upstream.transport(), EventToken::upstream(key, 0));
        let upstream = transport.connect(address, token, &loan.socket_options, loan.registry).ok()?;
        let own_request = request.request(hop.check_target.as_deref());
        let handshake = Handshake::new(own_request, hop.credentials.clone(), loan.head_limit_bytes)
            .with_field_limit(loan.field_limit);
        let mut deadline = Deadline::UNARMED;
        loan.timers.set(key, &mut deadline, loan.now_ms + loan.timeouts.establish(transport.tls().is_some()));
        vacancy.insert(Connection {
            hop: Arc::clone(hop),
            upstream,
            handshake,
            inbox: HeadReader::default(),
            outbox: Vec::new(),
            deadline,
            request,
            dialled_ms: loan.now_ms,
            _share: hop.upstream.helper_pressure.hold(),
            challenge: None,
        });
        self.of(hop)?.count += 1;
        Some(())
    }

    /// Handles an event; `false` when it is stale.
    pub(super) fn on_event(&mut self, key: Key, ready: Readiness, loan: &mut Loan<'_>) -> bool {
        let Some(connection) = self.connections.get_mut(key) else { return false };
        connection.upstream.learn(ready);
        if connection.challenge.is_some() {
            // Its deadline, or the client that takes it next, would find out too, but closing frees its descriptor at
            // once.
            if connection.upstream.has_input() {
                let hop = Arc::clone(&connection.hop);
                self.discard(key, Discarded::Failed);
                // Otherwise an upstream that closes after its challenges would be dialled again and again.
                self.want_one_less(&hop, loan.now_ms);
            }
            return true;
        }
        match connection.advance(loan) {
            Advance::Challenged => self.challenged(key, loan),
            Advance::Waiting => {}
            Advance::Answered => self.try_next_request(key, loan.now_ms),
            Advance::Lost => self.fail(key, loan.now_ms),
        }
        true
    }

    fn challenged(&mut self, key: Key, loan: &mut Loan<'_>) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let now_ms = loan.now_ms;
        let until_ms = now_ms + connection.hop.habits.challenge_age_ms(loan.timeouts.warm);
        connection.challenge = Some(Challenge { received_ms: now_ms, until_ms, lasts: false });
        // Waiting needs no buffer.
        connection.outbox = Vec::new();
        let check_ms = connection.hop.upstream.helper_pressure.check_again_ms(now_ms);
        loan.timers.set(key, &mut connection.deadline, until_ms.min(check_ms));
        let took_ms = now_ms.saturating_sub(connection.dialled_ms);
        let tally = connection.handshake.take_tally();
        let hop = Arc::clone(&connection.hop);
        hop.metrics.answered_407(Reason407::Challenge, u64::from(tally.challenge));
        hop.metrics.warm_ready.inc();
        if let Some(of_hop) = self.of(&hop) {
            of_hop.ready.push(key);
            of_hop.sizing.challenged(took_ms);
        }
        if hop.upstream.helper_pressure.forbids_pre_challenging(now_ms) {
            self.give_way(&hop);
        }
    }

    pub(super) fn deadline_due(&mut self, key: Key, loan: &mut Loan<'_>) {
        let now_ms = loan.now_ms;
        let Some(connection) = self.connections.get_mut(key) else { return };
        if !loan.timers.expired(key, &mut connection.deadline, now_ms) {
            return;
        }
        let Some(challenge) = connection.challenge else {
            // The upstream may be looking for the destination.
            return self.try_next_request(key, now_ms);
        };
        if now_ms >= challenge.until_ms {
            let hop = Arc::clone(&connection.hop);
            self.discard(key, Discarded::Aged);
            self.want_one_less(&hop, now_ms);
        } else if connection.hop.upstream.helper_pressure.forbids_pre_challenging(now_ms) {
            let hop = Arc::clone(&connection.hop);
            self.give_way(&hop);
        } else {
            if !challenge.lasts && now_ms >= challenge.received_ms + millis(limits::LASTING_CONNECTION_AGE) {
                connection.upstream.lasts(&loan.socket_options);
                connection.challenge = Some(Challenge { lasts: true, ..challenge });
            }
            let check_ms = connection.hop.upstream.helper_pressure.check_again_ms(now_ms);
            loan.timers.set(key, &mut connection.deadline, challenge.until_ms.min(check_ms));
        }
    }

    /// Closes all: what was begun with other credentials must not be finished with the present ones.
    pub(super) fn clear(&mut self) {
        for (_, connection) in self.connections.take_all() {
            if connection.challenge.is_some() {
                connection.hop.metrics.warm_ready.dec();
            }
            connection.hop.metrics.warm_discarded(Discarded::Outdated);
        }
        for mut of_hop in self.hops.drain(..).flatten() {
            of_hop.sizing.stop();
            of_hop.report();
        }
    }

    /// The challenge does not come for this request: a rule of the upstream may answer it before credentials are asked
    /// for. The next one is tried; after the last, the upstream is left alone for a while.
    fn try_next_request(&mut self, key: Key, now_ms: u64) {
        let Some(connection) = self.connections.get(key) else { return };
        let (hop, request) = (Arc::clone(&connection.hop), connection.request);
        let Some(of_hop) = self.of(&hop) else { return };
        // Another connection has found this out before.
        if of_hop.request != request {
            return self.discard(key, Discarded::Failed);
        }
        of_hop.request = request.next(hop.check_target.as_deref());
        match of_hop.request == ChallengeRequest::default() {
            true => self.fail(key, now_ms),
            false => self.discard(key, Discarded::Failed),
        }
    }

    /// A challenge will not come.
    fn fail(&mut self, key: Key, now_ms: u64) {
        let hop = self.connections.get(key).map(|connection| Arc::clone(&connection.hop));
        self.discard(key, Discarded::Failed);
        if let Some(hop) = hop {
            self.rest(&hop, now_ms);
        }
    }

    /// An upstream that gives no challenge is left alone for a while.
    fn rest(&mut self, hop: &Arc<Hop>, now_ms: u64) {
        hop.upstream.helper_pressure.rest(now_ms);
        if let Some(of_hop) = self.of(hop) {
            of_hop.sizing.stop();
            of_hop.report();
        }
    }

    fn want_one_less(&mut self, hop: &Arc<Hop>, now_ms: u64) {
        if let Some(of_hop) = self.of(hop) {
            of_hop.sizing.unused(now_ms);
            of_hop.report();
        }
    }

    /// Clients of some shard wait for a challenge, and these connections may hold the helpers that they need. Those
    /// that are still waiting for their own challenge give way when it comes.
    fn give_way(&mut self, hop: &Hop) {
        let ready = self.of(hop).map(|of_hop| std::mem::take(&mut of_hop.ready)).unwrap_or_default();
        ready.into_iter().for_each(|key| self.discard(key, Discarded::Yielded));
    }

    fn discard(&mut self, key: Key, cause: Discarded) {
        if let Some(connection) = self.remove(key) {
            connection.hop.metrics.warm_discarded(cause);
        }
    }

    fn remove(&mut self, key: Key) -> Option<Connection> {
        let connection = self.connections.remove(key)?;
        if let Some(of_hop) = self.of(&connection.hop) {
            of_hop.count = of_hop.count.saturating_sub(1);
            of_hop.ready.retain(|ready| *ready != key);
        }
        if connection.challenge.is_some() {
            connection.hop.metrics.warm_ready.dec();
        }
        Some(connection)
    }

    fn enter(&mut self, hop: &Arc<Hop>, age_ms: u64) -> &mut OfHop {
        if self.hops.len() <= hop.number {
            self.hops.resize_with(hop.number + 1, || None);
        }
        self.hops[hop.number].get_or_insert_with(|| OfHop {
            hop: Arc::clone(hop),
            ready: Vec::new(),
            count: 0,
            sizing: Sizing::new(hop.warm, age_ms),
            reported: 0,
            paused_until_ms: 0,
            request: ChallengeRequest::default(),
        })
    }

    fn of(&mut self, hop: &Hop) -> Option<&mut OfHop> {
        self.hops.get_mut(hop.number)?.as_mut()
    }

    /// How many connections there are, with their challenge or without.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.connections.len()
    }
}

impl OfHop {
    fn missing(&self) -> usize {
        self.sizing.wanted().saturating_sub(self.count)
    }

    /// Adds what has changed to the gauge, which all shards share.
    fn report(&mut self) {
        let wanted = self.sizing.wanted();
        if wanted != self.reported {
            let signed = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
            self.hop.metrics.warm_wanted.add(signed(wanted) - signed(self.reported));
            self.reported = wanted;
        }
    }
}

impl Connection {
    /// One step towards the challenge.
    fn advance(&mut self, loan: &mut Loan<'_>) -> Advance {
        if self.handshake.legs() == 0 {
            match self.upstream.connect_outcome() {
                None => return Advance::Waiting,
                Some(Err(_)) => return Advance::Lost,
                Some(Ok(())) => {}
            }
            if let Some(is_resumed) = self.upstream.stream.is_resumed() {
                self.hop.upstream_metrics.secured(is_resumed);
            }
            self.handshake.begin(&mut self.outbox);
            // A new connection takes a request whole, or something is wrong with it.
            if !self.upstream.write(&self.outbox).is_ok_and(|sent| sent == self.outbox.len()) {
                return Advance::Lost;
            }
        }
        for _ in 0..limits::PRE_CHALLENGE_READS_PER_TURN {
            if !self.upstream.ready.readable() {
                return Advance::Waiting;
            }
            let Connection { upstream, handshake, inbox, outbox, .. } = &mut *self;
            let got = inbox.read(upstream, loan.scratch, |bytes| match handshake.receive(bytes, outbox) {
                Ok((used, progress)) => (used, Some(progress)),
                Err(_) => (0, None),
            });
            match got {
                Ok(ReadOutcome::Blocked | ReadOutcome::Bytes(Some(Progress::More))) => {}
                Ok(ReadOutcome::Bytes(Some(Progress::Challenged))) => return Advance::Challenged,
                // Where the challenge takes more than one round, getting it in advance saves nothing.
                Ok(ReadOutcome::Bytes(Some(Progress::Send | Progress::Redial))) => return Advance::Lost,
                Ok(ReadOutcome::Bytes(_)) => return Advance::Answered,
                Ok(ReadOutcome::End) | Err(_) => return Advance::Lost,
            }
        }
        // It sends without end.
        Advance::Lost
    }
}

/// Whether a challenge can be had before the request: not where a ticket or a password goes out with the first request,
/// and not where the upstream has to ask first.
fn can_be_pre_challenged(hop: &Hop) -> bool {
    hop.credentials.first_leg == FirstLeg::Negotiate && !hop.credentials.needs_no_challenge()
}
