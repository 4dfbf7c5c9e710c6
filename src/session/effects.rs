//! What a session tells the rest of the process: metrics, the access record, the upstreams' health and habits, the
//! guard.
//!
//! Stages say what happened; what follows from it is decided here, and nowhere else in `session`.
//! `tests/project/session.rs` holds that no other file of it names these.

use std::num::NonZeroU16;
use std::sync::Arc;

use super::attempt::Attempt;
use super::connection_source::ConnectionSource;
use super::cx::Cx;
use super::happy_eyeballs::Racer;
use super::record::End;
use super::transition::Pending;
use crate::auth::Tally;
use crate::egress::{Hop, HopLease};
#[cfg(test)]
use crate::fault::At;
use crate::fault::{Cause, Fault};
use crate::limits::{CONNECTION_ATTEMPT_DELAY, millis};
use crate::metrics::{HandshakePhase, Path, Reason407};
use crate::relay::Moved;
use crate::upstream::{Answer, Ticket};

impl From<ConnectionSource> for Path {
    fn from(source: ConnectionSource) -> Path {
        match source {
            ConnectionSource::Cold => Path::Cold,
            ConnectionSource::Warm => Path::Warm,
            ConnectionSource::Kept => Path::Kept,
        }
    }
}

impl ConnectionSource {
    /// Its name in the access log.
    pub(super) fn label(self) -> &'static str {
        Path::from(self).label()
    }
}

/// Requests and tunnels.
impl Cx<'_> {
    /// Counts a fault when it happens, not when its session has ended, and makes it the session's end.
    pub(super) fn end_by(&self, fault: Fault) -> End {
        self.shard.metrics.fault(self.client.protocol.label(), &fault);
        End::Fault(fault)
    }

    /// The client gets an answer with this status.
    pub(super) fn answered(&mut self, status: u16) {
        let record = &mut self.client.record;
        record.status = NonZeroU16::new(status);
        self.shard.metrics.request(self.client.protocol.label(), record.kind(), status);
    }

    /// The upstream's answer, of this status, is passed on. It is counted when it is delivered.
    pub(super) fn answers_with(&mut self, status: u16) {
        self.client.record.status = NonZeroU16::new(status);
    }

    /// The request goes to this upstream as this identity.
    pub(super) fn goes_to(&mut self, hop: &Arc<Hop>) {
        self.client.record.on_hop = Some(HopLease::new(hop));
    }

    /// A candidate of the request's plan is tried: the upstream of the one before does not get it.
    pub(super) fn tries_candidate(&mut self) {
        self.client.record.on_hop = None;
    }

    /// A tunnel begins to relay.
    pub(super) fn tunnel_opened(&self) {
        self.shard.metrics.established.inc();
        self.shard.metrics.tunnels_relaying.inc();
    }

    /// A tunnel relays no more.
    pub(super) fn tunnel_closed(&self) {
        self.shard.metrics.tunnels_relaying.dec();
    }

    /// Bytes were delivered to the upstream and to the client.
    pub(super) fn moved(&self, up: Moved, down: Moved) {
        self.shard.counts.bytes_up(up);
        self.shard.counts.bytes_down(down);
    }

    /// An exchange has delivered so much, heads included.
    pub(super) fn exchanged(&mut self, up: Moved, down: Moved) {
        self.moved(up, down);
        self.client.record.bytes_up += up.copied + up.spliced;
        self.client.record.bytes_down += down.copied + down.spliced;
    }

    /// The session is over. `relayed` is what its tunnel moved up and down, in bytes.
    pub(super) fn session_ended(&mut self, end: End, relayed: [u64; 2]) {
        self.shard.metrics.closed(end.label());
        #[cfg(test)]
        self.client.endpoint.stream.conclude(
            end.label(),
            matches!(&end, End::Fault(fault) if fault.at == At::Relay),
            relayed,
            self.client.record.on_hop.as_ref().map(|hop| hop.number),
        );
        if !self.client.record.is_between_requests() {
            self.client.record.log(self.client.protocol, relayed, self.shard.now_us(), &end);
        }
    }

    /// An origin took a connection, or none of its addresses did; its look-up began at `started_us`.
    pub(super) fn reached_origin(&mut self, started_us: u64) {
        self.handshake_took(started_us);
    }

    /// Since `started_us`, for the record.
    fn handshake_took(&mut self, started_us: u64) -> u32 {
        let duration_us = u32::try_from(self.shard.now_us().saturating_sub(started_us)).unwrap_or(u32::MAX);
        self.client.record.handshake_us = duration_us;
        duration_us
    }
}

pub(super) use crate::metrics::HandshakeOutcome;

/// Connecting.
impl Attempt {
    /// A client waits for a challenge of the present upstream from now on.
    pub(super) fn begins_to_wait(&mut self, cx: &Cx<'_>) {
        self.waiting = Some(self.hop.upstream.helper_pressure.begin_wait(cx.now_ms()));
    }

    /// The addresses of an upstream are there at last.
    pub(super) fn resolved(&self, cx: &Cx<'_>) {
        self.hop.metrics.phase(HandshakePhase::Resolve, cx.now_us() - self.started_us);
    }

    /// A connection to one of the upstreams is dialled.
    pub(super) fn dialled(&self, member: usize) {
        if let Some(hop) = self.egress.hop(member, self.choice.identity) {
            hop.metrics.dials.inc();
        }
    }

    /// A connection to the present upstream is established.
    pub(super) fn connected(&self, winner: &Racer, cx: &Cx<'_>) {
        self.hop.upstream.reached(winner.candidate.place);
        let connected_us = winner.connected_us.unwrap_or(cx.now_us());
        self.hop.metrics.phase(HandshakePhase::Connect, connected_us - winner.since_us);
        if let Some(is_resumed) = winner.endpoint.stream.is_resumed() {
            self.hop.metrics.phase(HandshakePhase::Tls, cx.now_us() - connected_us);
            self.hop.upstream_metrics.secured(is_resumed);
        }
    }

    /// An address of an upstream took no connection.
    pub(super) fn unreachable(&self, member: usize) {
        if let Some(hop) = self.egress.hop(member, self.choice.identity) {
            hop.unreachable();
        }
    }

    /// An upstream took no connection at any of its addresses, for this reason or, without one, in the time that it
    /// had.
    pub(super) fn takes_no_connection(&self, member: usize, why: Option<&str>, cx: &Cx<'_>) {
        let Some(member) = self.egress.members.get(member) else { return };
        match why {
            Some(why) => member.upstream.health.failed(cx.now_ms(), why),
            None => {
                let why = format!("took longer than {} ms to take a connection", millis(CONNECTION_ATTEMPT_DELAY));
                member.upstream.health.failed(cx.now_ms(), &why);
            }
        }
    }

    /// No upstream took a connection.
    pub(super) fn connecting_failed(&self, cx: &mut Cx<'_>) {
        let duration_us = cx.handshake_took(self.started_us);
        cx.client.record.legs = self.handshake.legs();
        self.hop.metrics.handshake(Path::Cold, HandshakeOutcome::Failed, u64::from(duration_us));
    }

    /// The client went away while connections were dialled.
    pub(super) fn connecting_abandoned(&self, cx: &Cx<'_>) {
        self.hop.metrics.handshake(Path::Cold, HandshakeOutcome::Failed, cx.now_us() - self.started_us);
    }

    /// A plain request goes out on a kept connection.
    pub(super) fn goes_on_kept(&self, cx: &mut Cx<'_>) {
        cx.client.record.source = Some(ConnectionSource::Kept);
        self.hop.metrics.request(Path::Kept);
    }
}

/// The handshake.
impl Attempt {
    /// The upstream has sent its challenge; the leg began at `since_us`.
    pub(super) fn challenged(&mut self, since_us: u64, cx: &Cx<'_>) {
        let (now_ms, request) = (cx.now_ms(), self.handshake.request());
        self.hop.unchallenged.challenged(request.origin());
        self.hop.metrics.phase(HandshakePhase::Challenge, cx.now_us() - since_us);
        self.hop.habits.asked_for_authentication(true);
        if let Some(waiting) = self.waiting.take() {
            waiting.challenged(now_ms);
        }
        self.hop.habits.responded(now_ms);
        if request.forward().is_some() {
            self.hop.habits.challenged_for(&request.demand_key(), now_ms);
        }
    }

    /// The guard lets the logon go; it was asked first at `since_us`.
    pub(super) fn let_through(&mut self, since_us: u64, cx: &Cx<'_>) {
        self.scout = None;
        self.hop.metrics.phase(HandshakePhase::Guard, cx.now_us() - since_us);
    }

    /// The logon is on its way.
    pub(super) fn logon_sent(&self) {
        self.hop.metrics.authenticates.inc();
    }

    /// The upstream has answered the request with this status, after the logon that `ticket` allowed if there was one.
    pub(super) fn granted(&self, status: u16, ticket: Option<Ticket>, since_us: u64, cx: &Cx<'_>) {
        self.handshake.was_granted();
        match ticket {
            Some(ticket) => {
                self.hop.upstream.health.succeeded();
                self.hop.metrics.phase(HandshakePhase::Authenticate, cx.now_us() - since_us);
                ticket.settle(cx.now_ms(), Answer::Status(status));
            }
            None => self.granted_unasked(cx),
        }
    }

    /// The upstream has granted the request without a logon.
    pub(super) fn granted_unasked(&self, cx: &Cx<'_>) {
        self.hop.upstream.health.succeeded();
        if self.source == ConnectionSource::Cold && !self.handshake.is_exempt() && !self.handshake.is_demanded() {
            self.hop.habits.asked_for_authentication(false);
            self.hop.unchallenged.served(cx.now_ms(), self.handshake.request().origin());
        }
    }

    /// The logon has failed, by a 407 if `is_refusal`; `answer` is what that says about the secret.
    pub(super) fn logon_failed(&self, ticket: Ticket, answer: Answer, is_refusal: bool, since_us: u64, cx: &Cx<'_>) {
        if answer == Answer::Stale {
            self.challenge_spoiled(cx);
        }
        if is_refusal {
            self.hop.metrics.phase(HandshakePhase::Authenticate, cx.now_us() - since_us);
            // It works: what it says of the credentials is another matter.
            self.hop.upstream.health.succeeded();
        }
        ticket.settle(cx.now_ms(), answer);
    }

    fn challenge_spoiled(&self, cx: &Cx<'_>) {
        self.hop.habits.challenge_was_stale(cx.now_ms().saturating_sub(self.challenged_ms));
    }

    /// The handshake has ended.
    pub(super) fn handshake_ended(&mut self, outcome: HandshakeOutcome, cx: &mut Cx<'_>) {
        let granted = matches!(outcome, HandshakeOutcome::Established | HandshakeOutcome::Declined);
        // The 407 was not about the destination.
        if granted && self.source == ConnectionSource::Kept && self.handshake.tally().unprompted > 0 {
            self.hop.habits.refused_connect_on_reuse(cx.now_ms());
        }
        if granted {
            self.report_choice();
        }
        self.handshake_counted(outcome, cx);
        let Tally { refused, rechallenge, .. } = self.handshake.take_tally();
        self.hop.metrics.answered_407(Reason407::Refused, u64::from(refused));
        self.hop.metrics.answered_407(Reason407::Rechallenge, u64::from(rechallenge));
    }

    /// Logs the mechanism that has succeeded, where several are listed: each change for people, each fallback for
    /// debugging.
    fn report_choice(&self) {
        let Some(choice) = self.handshake.choice() else { return };
        let level = match (self.hop.reported.is_news(&choice), choice.fallback()) {
            (true, Some(_)) => log::Level::Warn,
            (true, None) => log::Level::Info,
            (false, Some(_)) => log::Level::Debug,
            (false, None) => return,
        };
        let (upstream, identity) = (self.hop.upstream.name(), &self.hop.identity.name);
        log::log!(level, "upstream {upstream}: the identity {identity} is authenticated by {choice}");
    }

    /// Counts a handshake, but not what the upstream said about its logon.
    fn handshake_counted(&self, outcome: HandshakeOutcome, cx: &mut Cx<'_>) {
        let duration_us = cx.handshake_took(self.started_us);
        let record = &mut cx.client.record;
        record.legs = self.handshake.legs();
        record.scheme = Some(self.handshake.scheme());
        record.source = Some(self.source);
        let (metrics, tally) = (&self.hop.metrics, self.handshake.tally());
        metrics.handshake(self.source.into(), outcome, u64::from(duration_us));
        metrics.request(self.source.into());
        metrics.answered_407(Reason407::Unprompted, u64::from(tally.unprompted));
        metrics.answered_407(Reason407::Challenge, u64::from(tally.challenge));
    }

    /// A fault on an open connection, for the health of the present upstream.
    pub(super) fn upstream_failed(&mut self, fault: &Fault, cx: &Cx<'_>) {
        let (health, now_ms) = (&self.hop.upstream.health, cx.now_ms());
        match fault.cause {
            // The missing answer may be the origin's.
            Cause::HandshakeTimeout if self.handshake.awaits_origin() => {}
            Cause::HandshakeTimeout | Cause::ChallengeTimeout => health.failed(now_ms, &fault.detail),
            _ => {
                let origin = self.handshake.request().origin();
                match self.handshake.awaits_origin() {
                    true => health.failed_after_challenge(now_ms, origin, &fault.detail),
                    false => health.failed_before_challenge(now_ms, origin, &fault.detail),
                }
                self.failed.push((Arc::clone(&self.hop.upstream), (&*fault.detail).into()));
            }
        }
    }

    /// The present upstream serves the request: the destination was not why others failed it before.
    pub(super) fn served_after_failures(&mut self, cx: &Cx<'_>) {
        for (upstream, why) in std::mem::take(&mut self.failed) {
            if !Arc::ptr_eq(&upstream, &self.hop.upstream) {
                upstream.health.failed_where_another_served(cx.now_ms(), &why);
            }
        }
    }
}

/// Exchanges.
impl Attempt {
    /// The upstream has answered a plain request with 407, and the body has begun to go out or not.
    pub(super) fn demanded(&mut self, body_has_begun: bool, body_is_held: bool, cx: &Cx<'_>) {
        let (habits, now_ms) = (&self.hop.habits, cx.now_ms());
        habits.responded(now_ms);
        if body_is_held {
            habits.challenged_before_body(now_ms);
        }
        habits.challenged_for(&self.handshake.request().demand_key(), now_ms);
        if self.source == ConnectionSource::Kept {
            match body_has_begun {
                true => habits.challenged_on_reuse(self.handshake.request().origin()),
                false => self.asked_on_kept = true,
            }
        }
    }

    /// The upstream has closed the connection on a request without credentials: it may want some.
    pub(super) fn may_have_demanded(&self, cx: &Cx<'_>) {
        if self.handshake.is_trial() {
            self.hop.habits.challenged_for(&self.handshake.request().demand_key(), cx.now_ms());
        }
    }

    /// The upstream has answered 407 to a request on a connection that it had authenticated, or without credentials.
    pub(super) fn asked_again(&self) {
        self.hop.metrics.answered_407(Reason407::Unprompted, 1);
    }

    /// The upstream has answered a plain request's logon with 407. `stale` says that the challenge may have been too
    /// old.
    pub(super) fn logon_refused(&self, ticket: Ticket, rechallenged: bool, stale: bool, cx: &Cx<'_>) {
        let reason = if rechallenged { Reason407::Rechallenge } else { Reason407::Refused };
        self.hop.metrics.answered_407(reason, 1);
        ticket.settle(cx.now_ms(), if stale { Answer::Stale } else { Answer::Refused });
        if stale {
            self.challenge_spoiled(cx);
        }
    }

    /// A plain request's logon was refused for good.
    pub(super) fn exchange_refused(&self, cx: &mut Cx<'_>) {
        self.handshake_counted(HandshakeOutcome::Refused, cx);
    }

    /// The upstream has answered a plain request that waited for `pending`.
    pub(super) fn exchange_answered(&self, status: u16, pending: Pending, since_us: u64, cx: &mut Cx<'_>) {
        match pending {
            Pending::Nothing => return,
            Pending::Demand => {}
            Pending::Verdict(ticket) => {
                ticket.settle(cx.now_ms(), Answer::Status(status));
                self.hop.metrics.phase(HandshakePhase::Authenticate, cx.now_us() - since_us);
            }
        }
        self.hop.upstream.health.succeeded();
        self.handshake.was_granted();
        self.report_choice();
        self.handshake_counted(HandshakeOutcome::Established, cx);
    }

    /// Learns from the final answer to a plain request where the upstream asks for credentials, and on which
    /// connections.
    pub(super) fn served(&self, status: u16, pending: &Pending, has_stand_in: bool, cx: &Cx<'_>) {
        let (habits, now_ms) = (&self.hop.habits, cx.now_ms());
        habits.responded(now_ms);
        match pending {
            _ if self.source == ConnectionSource::Kept => habits.served_on_reuse(),
            Pending::Verdict(_) => {
                habits.served_on_fresh(self.handshake.request().origin(), self.asked_on_kept, now_ms);
            }
            Pending::Demand if has_stand_in && status < 400 => {
                habits.served_unchallenged(&self.handshake.request().demand_key(), now_ms);
            }
            Pending::Nothing | Pending::Demand => {}
        }
    }
}

impl Pending {
    /// The exchange ends without an answer that its client can have: what came may still tell about the logon.
    pub(super) fn settle(&mut self, answer: Answer, cx: &Cx<'_>) {
        if let Pending::Verdict(ticket) = std::mem::replace(self, Pending::Nothing) {
            ticket.settle(cx.now_ms(), answer);
        }
    }
}
