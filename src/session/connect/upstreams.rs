//! The upstreams of a group as what is connected to: the guard first, then one address after the other.

use std::net::SocketAddr;
use std::sync::Arc;

use super::Addresses;
use crate::egress::Egress;
use crate::event::Seat;
use crate::fault::{At, Cause, Fault};
use crate::session::attempt::Attempt;
use crate::session::connection_source::ConnectionSource;
use crate::session::cx::Cx;
use crate::session::few::Few;
use crate::session::guard_faults;
use crate::session::happy_eyeballs::{Candidate, Race, Racer};
use crate::session::transition::{Connected, Departure, Transition};
use crate::transport::Transport;
use crate::upstream::{DialPermission, Refusal, Resolution};

/// An attempt, and how far it has come with its addresses.
#[derive(Debug)]
pub(super) struct Upstreams {
    attempt: Box<Attempt>,
    waits: Waits,
    /// The upstream whose addresses are being tried.
    member: usize,
    addresses: Arc<[SocketAddr]>,
    preferred: usize,
    tried_addresses: usize,
    tried: Few<Tried>,
    /// Upstreams whose names had not been looked up when it was their turn.
    unresolved: Vec<usize>,
}

/// What is waited for before more addresses can be tried.
#[derive(Debug)]
enum Waits {
    /// The guard has not let it dial yet.
    ForGuard {
        seat: Seat,
    },
    /// Upstreams' addresses.
    ForAddresses {
        seat: Seat,
    },
    Nothing,
}

/// An upstream that was tried.
#[derive(Debug)]
struct Tried {
    member: usize,
    /// What it failed with, if it has.
    why: Option<String>,
}

impl Upstreams {
    /// Returns the target, and when the client must have its answer, in ms.
    pub(super) fn begin(mut attempt: Box<Attempt>, cx: &mut Cx<'_>) -> (super::Target, u64) {
        attempt.source = ConnectionSource::Cold;
        attempt.follow_reload(cx);
        let (member, until_ms) = (attempt.member, attempt.until_ms);
        let upstreams = Upstreams {
            attempt,
            waits: Waits::ForGuard { seat: Seat::default() },
            member,
            addresses: Arc::default(),
            preferred: 0,
            tried_addresses: 0,
            tried: Few::default(),
            unresolved: Vec::new(),
        };
        (super::Target::Upstreams(upstreams), until_ms)
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.attempt.held_bytes()
    }

    /// Asks the guard first, so that a request that waits for it occupies no helper of the proxy.
    pub(super) fn addresses(&mut self, last: &mut Option<Fault>, cx: &mut Cx<'_>) -> Addresses {
        match &mut self.waits {
            Waits::Nothing => Addresses::Ready,
            Waits::ForGuard { .. } => self.ask_guard(last, cx),
            Waits::ForAddresses { .. } => {
                let Some(member) = self.take_resolved() else {
                    self.list_for_addresses(cx);
                    return Addresses::Wait { until_ms: None };
                };
                self.waits = Waits::Nothing;
                self.attempt.resolved(cx);
                self.turn_to(member, last);
                Addresses::Ready
            }
        }
    }

    /// Dials if the guard lets it; otherwise goes to the next upstream, or waits for the guard's next change.
    fn ask_guard(&mut self, last: &mut Option<Fault>, cx: &mut Cx<'_>) -> Addresses {
        let mut passed_over = Vec::new();
        let addresses = loop {
            if self.attempt.scout.is_none() {
                self.attempt.follow_secret(cx);
            }
            match self.enter(cx) {
                Ok(true) => {
                    self.waits = Waits::Nothing;
                    self.turn_to(self.member, last);
                    self.attempt.begins_to_wait(cx);
                    break Addresses::Ready;
                }
                // Rather than wait here for what others find out.
                Ok(false) if self.attempt.is_accepted_elsewhere(cx.now_ms()) => {
                    passed_over.push(Arc::clone(&self.attempt.hop.upstream));
                    self.move_on(cx);
                }
                Ok(false) => {
                    if let Waits::ForGuard { seat } = &mut self.waits {
                        cx.shard.guard_waiters.join(cx.key, seat);
                    }
                    break Addresses::Wait { until_ms: Some(self.attempt.until_ms) };
                }
                // It has just been found out which secret is right.
                Err(_) if self.attempt.follow_secret(cx) => {}
                Err(_) if self.may_move_on(cx) => self.move_on(cx),
                Err(refusal) => {
                    let before = self.attempt.refusal.take();
                    break Addresses::Refused(before.unwrap_or_else(|| guard_faults::refused(refusal)));
                }
            }
        };
        // They have not failed: they may still be used should this one fail.
        passed_over.iter().for_each(|upstream| self.attempt.may_still_use(upstream));
        addresses
    }

    /// Whether the next upstream may get a request that the guard does not let log on to the present one. After a
    /// refusal it has to accept the identity.
    fn may_move_on(&self, cx: &Cx<'_>) -> bool {
        match self.attempt.refusal {
            Some(_) => self.attempt.is_accepted_elsewhere(cx.now_ms()),
            None => self.attempt.has_next(),
        }
    }

    /// Goes to the next upstream before anything was dialled. Each upstream is tried once, so this ends.
    fn move_on(&mut self, cx: &mut Cx<'_>) {
        self.attempt.move_on(cx);
        self.attempt.follow_reload(cx);
        self.member = self.attempt.member;
    }

    /// Whether the guard lets it dial now.
    fn enter(&mut self, cx: &Cx<'_>) -> Result<bool, Refusal> {
        let Attempt { hop, handshake, scout, refusal, .. } = &mut *self.attempt;
        let (method, destination) = (handshake.request().method(), handshake.request().origin());
        let (guard, upstream) = (&hop.identity.guard, hop.upstream.name());
        let needs_no_guard = handshake.is_exempt() || !hop.credentials.begins_with_logon();
        let permission = match () {
            () if refusal.is_some() => guard.enter_after_refusal(cx.now_ms(), upstream, method, destination),
            () if scout.is_some() || needs_no_guard || hop.habits.serves_unchallenged() => return Ok(true),
            () => guard.enter(cx.now_ms(), upstream, method, destination),
        };
        match permission {
            DialPermission::Go => Ok(true),
            DialPermission::Scout(granted) => {
                *scout = Some(granted);
                // Its answer is to decide about the secret.
                handshake.await_demand();
                Ok(true)
            }
            DialPermission::Wait => Ok(false),
            DialPermission::No(refusal) => Err(refusal),
        }
    }

    /// One of the upstreams that were waited for and whose addresses, or the lack of them, are known now.
    fn take_resolved(&mut self) -> Option<usize> {
        let egress = &self.attempt.egress;
        let is_known = |member: &usize| egress.members.get(*member).is_none_or(|of| of.upstream.resolution().is_some());
        let position = self.unresolved.iter().position(is_known)?;
        Some(self.unresolved.remove(position))
    }

    /// Asks to be stepped when something new is known of an upstream's name.
    fn list_for_addresses(&mut self, cx: &mut Cx<'_>) {
        if let Waits::ForAddresses { seat } = &mut self.waits {
            cx.shard.address_waiters.join(cx.key, seat);
        }
    }

    /// Waits for addresses if some are still being looked up: until when, in ms.
    pub(super) fn wait_for_addresses(&mut self, cx: &mut Cx<'_>) -> Option<u64> {
        if self.unresolved.is_empty() {
            return None;
        }
        self.waits = Waits::ForAddresses { seat: Seat::default() };
        self.list_for_addresses(cx);
        Some(cx.now_ms() + cx.timeouts().connect)
    }

    /// The fault, if its time is over while it waits.
    pub(super) fn timed_out(&mut self, last: &mut Option<Fault>) -> Option<Fault> {
        match self.waits {
            Waits::Nothing => None,
            Waits::ForGuard { .. } => {
                self.tried.clear();
                let refusal = self.attempt.refusal.take();
                Some(refusal.unwrap_or_else(|| guard_faults::timed_out(&self.attempt.hop.identity.guard)))
            }
            Waits::ForAddresses { .. } => {
                let late = || At::Dial.fault(Cause::ResolveTimeout, "the upstream's name was not resolved in time");
                Some(last.take().unwrap_or_else(late))
            }
        }
    }

    /// The next address of the present upstream, or the first of the next one.
    pub(super) fn next_candidate(&mut self, last: &mut Option<Fault>) -> Option<Candidate> {
        loop {
            if self.tried_addresses < self.addresses.len() {
                let place = (self.preferred + self.tried_addresses) % self.addresses.len();
                self.tried_addresses += 1;
                let address = *self.addresses.get(place)?;
                self.attempt.dialled(self.member);
                return Some(Candidate { address, member: self.member, place });
            }
            let egress: Arc<Egress> = Arc::clone(&self.attempt.egress);
            let (member, _) = self.attempt.choice.next(&egress)?;
            self.turn_to(member, last);
        }
    }

    /// What carries the bytes to an upstream.
    pub(super) fn transport(&self, member: usize) -> Option<Transport> {
        Some(self.attempt.egress.members.get(member)?.upstream.transport().clone())
    }

    pub(super) fn has_next(&self) -> bool {
        self.tried_addresses < self.addresses.len() || self.attempt.has_next()
    }

    /// Begins with an upstream's addresses, as far as they are known.
    fn turn_to(&mut self, member: usize, last: &mut Option<Fault>) {
        self.member = member;
        (self.tried_addresses, self.addresses) = (0, Arc::default());
        let egress = Arc::clone(&self.attempt.egress);
        let Some(upstream) = egress.members.get(member).map(|member| &member.upstream) else { return };
        match upstream.resolution() {
            Some(Resolution::Addresses(addresses)) => {
                self.tried.push(Tried { member, why: None });
                self.preferred = upstream.preferred();
                self.addresses = addresses;
            }
            Some(Resolution::Failed(why)) => {
                let detail = format!("the name of the upstream {} does not resolve: {why}", upstream.name());
                let fault = At::Dial.fault(Cause::ResolveFailed, detail);
                self.tried.push(Tried { member, why: None });
                self.failed(member, &fault);
                *last = Some(fault);
            }
            None => self.unresolved.push(member),
        }
    }

    /// An address of an upstream failed.
    pub(super) fn failed(&mut self, member: usize, fault: &Fault) {
        if let Some(tried) = self.tried.iter_mut().find(|tried| tried.member == member) {
            tried.why = Some(fault.detail.to_string());
        }
        self.attempt.unreachable(member);
    }

    pub(super) fn excuse(&mut self, member: usize) {
        self.tried.retain(|tried| tried.member != member);
    }

    /// An upstream took the connection: the handshake begins.
    pub(super) fn connected(self, winner: Racer, race: &Race, cx: &mut Cx<'_>) -> Transition {
        let member = winner.candidate.member;
        self.report(Some(member), race, cx);
        let mut attempt = self.attempt;
        // Upstreams that were only slower may still be used should the winner fail later on.
        for slower in self.tried.iter().filter(|tried| tried.member != member && tried.why.is_none()) {
            attempt.choice.tried.remove(slower.member);
        }
        if member != attempt.member
            && let Some(hop) = attempt.egress.hop(member, attempt.choice.identity).cloned()
        {
            attempt.move_to(member, hop.in_use(cx.now_ms()), cx);
            attempt.begins_to_wait(cx);
        }
        attempt.number = winner.number;
        attempt.connected(&winner, cx);
        // The handshake has not borrowed the credentials yet, and there may be others by now.
        attempt.follow_reload(cx);
        Transition::Authenticate(Connected { attempt, upstream: winner.endpoint })
    }

    /// Nobody took the connection. Returns the request if its plan has other candidates and nothing of it was sent.
    pub(super) fn give_up(self, fault: &Fault, race: &Race, cx: &mut Cx<'_>) -> Option<Departure> {
        if fault.cause != Cause::ResourcesExhausted {
            self.report(None, race, cx);
        }
        self.attempt.connecting_failed(cx);
        let Attempt { handshake, leftover, route, .. } = *self.attempt;
        Some(Departure { request: handshake.into_request(), leftover, pinned: None, route: *route? })
    }

    pub(super) fn abandoned(&self, cx: &Cx<'_>) {
        self.attempt.connecting_abandoned(cx);
    }

    /// Reports the upstreams that were tried and did not take the connection.
    fn report(&self, winner: Option<usize>, race: &Race, cx: &Cx<'_>) {
        let members = &self.attempt.egress.members;
        let is_up = |member: usize| members.get(member).is_some_and(|member| member.upstream.health.is_up());
        let winners_place = self.tried.iter().position(|tried| Some(tried.member) == winner);
        for (place, Tried { member, why }) in self.tried.iter().enumerate() {
            let why = match why {
                _ if Some(*member) == winner => continue,
                // A loop that lags must not take its own delay for the upstreams'.
                _ if race.has_arrived(*member) => continue,
                Some(why) if !race.has(*member) => Some(why.as_str()),
                // One that was launched after the winner has not had its time.
                _ if winners_place.is_some_and(|winner| place > winner) => continue,
                // To be slower than another is a fault only while that other is up.
                _ if winner.is_some_and(|winner| !is_up(winner)) => continue,
                _ => None,
            };
            self.attempt.takes_no_connection(*member, why, cx);
        }
    }
}
