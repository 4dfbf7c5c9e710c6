//! Upstream connections that have their challenge before a client needs it, so that a CONNECT takes one upstream round
//! trip instead of three.
//!
//! NTLM authenticates a connection, and a proxy answers the NEGOTIATE_MESSAGE with its challenge before it looks at the
//! target. So that leg can be done in advance, and the client's own target is sent with the AUTHENTICATE_MESSAGE.
//!
//! The challenge is obtained by a request of the gateway's own, for a destination that does not exist
//! ([`ChallengeRequest`]). Nothing of a client's is in it, and it does no harm where an upstream carries it out.
//!
//! The pool follows demand. Each request that finds it empty makes it one larger, up to the cap; each connection that
//! grows old unused makes it one smaller. So a quiet gateway keeps none. The pool grows only while the credentials are
//! known to be good. It also gives way: some proxies (Squid) hold a helper process for every connection that they have
//! challenged, and clients come first. While clients wait for a challenge and get none, nothing is dialled in advance
//! and what there is gets closed ([`HelperPressure`](crate::upstream::HelperPressure)).

use std::sync::Arc;

use super::Loan;
use super::challenge_request::ChallengeRequest;
use crate::auth::{FirstLeg, Handshake, Progress};
use crate::egress::Hop;
use crate::event::{Deadline, EventToken, HeadReader, Key, Owner, ReadOutcome, Slots};
use crate::limits::{self, millis};
use crate::metrics::{Discarded, Reason407};
use crate::transport::{Endpoint, Readiness};
use crate::upstream::Resolution;

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
    /// `None` until it has its challenge.
    challenge: Option<Challenge>,
}

/// The age of a challenge.
#[derive(Clone, Copy)]
struct Challenge {
    received_ms: u64,
    /// When it is too old to be used.
    until_ms: u64,
}

/// The connections of one hop.
#[derive(Default)]
struct OfHop {
    hop: Option<Arc<Hop>>,
    /// Those that have their challenge, the youngest last.
    ready: Vec<Key>,
    /// All of them.
    count: usize,
    /// As many as the present demand calls for.
    wanted: usize,
    /// The request that new connections try to get their challenge with.
    request: ChallengeRequest,
}

/// A shard's pre-challenged connections.
pub struct PreChallengedPool {
    connections: Slots<Connection>,
    /// By the hops' numbers.
    hops: Vec<OfHop>,
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
        if hop.warm_cap == 0 || !loan.is_in_force(hop) {
            return None;
        }
        // While the secret is in doubt, the client's request itself has to be challenged: only then is its answer a
        // verdict.
        let is_usable_now = hop.identity.guard.is_accepted(now_ms, hop.upstream.name());
        let most_age_ms = hop.habits.challenge_age_ms(loan.timeouts.warm);
        while let Some(key) = self.of(hop).ready.last().copied().filter(|_| is_usable_now) {
            let challenged_ms = self.connections.get(key).and_then(|of| of.challenge).map_or(0, |of| of.received_ms);
            if !can_be_repeated && now_ms - challenged_ms > millis(limits::KEPT_FRESH) {
                break;
            }
            let Some(connection) = self.remove(key) else { continue };
            let Connection { mut upstream, handshake, .. } = connection;
            // Anything that came after the challenge ends its use.
            let is_usable = !upstream.has_input() && now_ms <= challenged_ms + most_age_ms;
            if is_usable && upstream.hand_over(token, loan.registry).is_ok() {
                hop.metrics.warm_hits.inc();
                return Some(Challenged { upstream, handshake, challenged_ms });
            }
            hop.metrics.warm_discarded(Discarded::Failed);
        }
        hop.metrics.warm_misses.inc();
        let of_hop = self.of(hop);
        of_hop.wanted = (of_hop.wanted + 1).min(hop.warm_cap);
        None
    }

    /// Whether connections are missing.
    pub fn wants_more(&self) -> bool {
        self.hops.iter().any(|of_hop| of_hop.count < of_hop.wanted)
    }

    /// Dials the connections that are wanted and missing; called once a turn if there are any.
    pub fn refill(&mut self, loan: &mut Loan<'_>) {
        for number in 0..self.hops.len() {
            let Some(of_hop) = self.hops.get(number).filter(|of_hop| of_hop.count < of_hop.wanted) else { continue };
            let (Some(hop), request) = (of_hop.hop.clone(), of_hop.request) else { continue };
            let missing = of_hop.wanted - of_hop.count;
            if hop.credentials.first_leg != FirstLeg::Negotiate
                || hop.credentials.needs_no_challenge()
                || !hop.identity.guard.is_accepted(loan.now_ms, hop.upstream.name())
                || !hop.upstream.health.is_up()
                || hop.upstream.helper_pressure.forbids_pre_challenging(loan.now_ms)
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
        loan.timers.set(key, &mut deadline, loan.now_ms + loan.timeouts.connect);
        vacancy.insert(Connection {
            hop: Arc::clone(hop),
            upstream,
            handshake,
            inbox: HeadReader::default(),
            outbox: Vec::new(),
            deadline,
            request,
            challenge: None,
        });
        self.of(hop).count += 1;
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
                self.want_one_less(&hop);
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
        connection.challenge = Some(Challenge { received_ms: now_ms, until_ms });
        // Waiting needs no buffer.
        connection.outbox = Vec::new();
        loan.timers.set(key, &mut connection.deadline, until_ms.min(now_ms + millis(limits::STALL_CHECK_INTERVAL)));
        let tally = connection.handshake.take_tally();
        let hop = Arc::clone(&connection.hop);
        hop.metrics.answered_407(Reason407::Challenge, u64::from(tally.challenge));
        hop.metrics.warm_ready.inc();
        self.of(&hop).ready.push(key);
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
            self.want_one_less(&hop);
        } else if connection.hop.upstream.helper_pressure.forbids_pre_challenging(now_ms) {
            // Clients of some shard wait for a challenge: this connection may hold the helper that they need.
            self.discard(key, Discarded::Yielded);
        } else {
            loan.timers.set(
                key,
                &mut connection.deadline,
                challenge.until_ms.min(now_ms + millis(limits::STALL_CHECK_INTERVAL)),
            );
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
        self.hops.clear();
    }

    /// The challenge does not come for this request: a rule of the upstream may answer it before credentials are asked
    /// for. The next one is tried; after the last, the upstream is left alone for a while.
    fn try_next_request(&mut self, key: Key, now_ms: u64) {
        let Some(connection) = self.connections.get(key) else { return };
        let (hop, request) = (Arc::clone(&connection.hop), connection.request);
        let of_hop = self.of(&hop);
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
        self.of(hop).wanted = 0;
    }

    fn want_one_less(&mut self, hop: &Arc<Hop>) {
        let of_hop = self.of(hop);
        of_hop.wanted = of_hop.wanted.saturating_sub(1);
    }

    fn discard(&mut self, key: Key, cause: Discarded) {
        if let Some(connection) = self.remove(key) {
            connection.hop.metrics.warm_discarded(cause);
        }
    }

    fn remove(&mut self, key: Key) -> Option<Connection> {
        let connection = self.connections.remove(key)?;
        let of_hop = self.of(&connection.hop);
        of_hop.count = of_hop.count.saturating_sub(1);
        if connection.challenge.is_some() {
            of_hop.ready.retain(|ready| *ready != key);
            connection.hop.metrics.warm_ready.dec();
        }
        Some(connection)
    }

    fn of(&mut self, hop: &Arc<Hop>) -> &mut OfHop {
        if self.hops.len() <= hop.number {
            self.hops.resize_with(hop.number + 1, OfHop::default);
        }
        let of_hop = &mut self.hops[hop.number];
        of_hop.hop.get_or_insert_with(|| Arc::clone(hop));
        of_hop
    }

    /// How many connections there are, with their challenge or without.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.connections.len()
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
