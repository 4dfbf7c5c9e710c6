//! The handshake on an open upstream connection.

use std::io;
use std::sync::Arc;

use super::attempt::Attempt;
use super::connection_source::ConnectionSource;
use super::cx::Cx;
use super::effects::HandshakeOutcome;
use super::stage::{StageOps, Step};
use super::transition::{Connected, Connecting, Declining, Handover, Opened, Pending, Transition};
use super::{guard_faults, respond};
use crate::auth::{Declined, Due, Progress};
use crate::egress::logon_verdict;
use crate::event::{HeadReader, ReadOutcome, Seat, take_front};
use crate::fault::{At, Cause, Culprit, Fault};
use crate::limits;
use crate::pool::Orphan;
use crate::transport::{Endpoint, Readiness};
use crate::upstream::{Answer, AttemptRequest, SendPermission, Ticket};

/// What to do if an upstream closes every connection without an answer.
const TLS_HINT: &str = "if the port expects TLS, write https:// in front of the upstream's address";

/// The handshake on one connection.
#[derive(Debug)]
pub(super) struct Authenticate {
    attempt: Box<Attempt>,
    upstream: Endpoint,
    input: HeadReader,
    outbox: Vec<u8>,
    sent: usize,
    logon: Logon,
    /// What a write failed with: what has arrived is read, and then the connection is given up.
    broken: Option<io::Error>,
    /// When the present phase began, in µs.
    phase_us: u64,
}

/// How far the logon has come.
#[derive(Debug)]
enum Logon {
    /// None is due.
    NotDue,
    /// The final token is due, and the guard has not let it go yet, or another thread prepares it.
    Waits { seat: Seat },
    /// It was sent by this right.
    Sent(Ticket),
}

/// What a read has brought.
enum LegOutcome {
    /// Nothing that ends the stage.
    More,
    /// Another leg has begun on the same connection.
    NextLeg,
    /// The challenge.
    Challenged,
    /// The handshake's end, as far as this connection goes.
    Over(Progress),
}

impl Authenticate {
    /// Begins with the first request, unless the connection has its challenge already.
    pub(super) fn new(connected: Connected, cx: &mut Cx<'_>) -> Authenticate {
        let Connected { mut attempt, upstream } = connected;
        // From here on the upstream may see something of the request.
        attempt.route = None;
        let mut outbox = cx.shard.spare_buffers.take();
        if attempt.source != ConnectionSource::Warm {
            attempt.handshake.begin(&mut outbox);
        }
        cx.set_deadline(attempt.leg_until_ms(cx));
        let logon = match attempt.handshake.is_challenged() {
            true => Logon::Waits { seat: Seat::default() },
            false => Logon::NotDue,
        };
        let (input, phase_us) = (HeadReader::default(), cx.now_us());
        Authenticate { attempt, upstream, input, outbox, sent: 0, logon, broken: None, phase_us }
    }

    /// Sends what is in the outbox, as far as the upstream takes it.
    fn flush(&mut self) -> io::Result<()> {
        if self.sent < self.outbox.len() && self.upstream.ready.writable() {
            self.sent += self.upstream.write(&self.outbox[self.sent..])?;
            if self.sent == self.outbox.len() {
                take_front(&mut self.outbox, self.sent);
                self.sent = 0;
            }
        }
        Ok(())
    }

    /// What of the outbox was not sent.
    fn take_unsent(&mut self) -> Vec<u8> {
        self.outbox.split_off(self.sent.min(self.outbox.len()))
    }

    fn read(&mut self, cx: &mut Cx<'_>) -> Result<LegOutcome, Fault> {
        let Authenticate { attempt, outbox, .. } = self;
        let outcome = self.input.read(&mut self.upstream, &mut cx.shard.scratch, |bytes| {
            match attempt.handshake.receive(bytes, outbox) {
                Ok((used, progress)) => (used, Ok(progress)),
                Err(fault) => (0, Err(fault)),
            }
        });
        let progress = match outcome {
            Ok(ReadOutcome::Blocked) => return Ok(LegOutcome::More),
            Ok(ReadOutcome::Bytes(progress)) => progress?,
            Ok(ReadOutcome::End) => self.attempt.handshake.closed().map_err(|fault| self.with_hint(fault))?,
            Err(error) if self.attempt.handshake.awaits_verdict() || Fault::is_of_tls(&error) => {
                return Err(Fault::upstream_io(At::Authenticate, &error));
            }
            Err(_) => self.attempt.handshake.closed().map_err(|fault| self.with_hint(fault))?,
        };
        Ok(match progress {
            Progress::More => LegOutcome::More,
            Progress::Send => LegOutcome::NextLeg,
            Progress::Challenged => LegOutcome::Challenged,
            Progress::Redial | Progress::Answered | Progress::Established | Progress::Declined(_) => {
                LegOutcome::Over(progress)
            }
        })
    }

    /// The fault of an upstream that closes the connection. Many servers that expect TLS do so without an answer.
    fn with_hint(&self, fault: Fault) -> Fault {
        let Attempt { hop, handshake, .. } = &*self.attempt;
        let may_expect_tls = fault.cause == Cause::UpstreamClosed
            && hop.upstream.transport().tls().is_none()
            && !handshake.is_demanded()
            && !hop.credentials.upstream_has_challenged();
        match may_expect_tls {
            true => Fault { detail: format!("{}; {TLS_HINT}", fault.detail).into(), ..fault },
            false => fault,
        }
    }

    /// Acts on what was read; `None` to go on.
    fn heard(&mut self, heard: LegOutcome, cx: &mut Cx<'_>) -> Result<Option<Progress>, Fault> {
        match heard {
            LegOutcome::More => {}
            LegOutcome::NextLeg => cx.set_deadline(self.attempt.leg_until_ms(cx)),
            LegOutcome::Challenged => {
                self.attempt.challenged(self.phase_us, cx);
                self.phase_us = cx.now_us();
                self.logon = Logon::Waits { seat: Seat::default() };
                cx.set_deadline(self.attempt.until_ms);
            }
            LegOutcome::Over(progress) => return Ok(Some(progress)),
        }
        Ok(None)
    }

    /// Sends the final token if it is due, prepared and, where it counts as a logon attempt, allowed by the guard.
    fn log_on(&mut self, cx: &mut Cx<'_>) -> Result<(), Fault> {
        let Logon::Waits { seat } = &mut self.logon else { return Ok(()) };
        match self.attempt.handshake.due() {
            Some(Due::LogonAttempt) => self.ask_guard(cx),
            Some(Due::Token) => {
                self.logon = Logon::NotDue;
                self.send_token(cx)
            }
            // Those that wait are called up now and then, whatever they wait for.
            Some(Due::Pending) => {
                cx.shard.guard_waiters.join(cx.key, seat);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn ask_guard(&mut self, cx: &mut Cx<'_>) -> Result<(), Fault> {
        let Logon::Waits { seat } = &mut self.logon else { return Ok(()) };
        let Attempt { hop, handshake, .. } = &*self.attempt;
        let asking = AttemptRequest {
            upstream: hop.upstream.name(),
            method: handshake.request().method(),
            destination: handshake.request().origin(),
            // A HEAD gets its challenge by a GET, and proxies have rules by method.
            challenged: handshake.is_demanded() && handshake.request().method() != "HEAD",
            confirms: false,
        };
        match hop.identity.guard.ask(cx.now_ms(), &asking) {
            SendPermission::Wait => {
                cx.shard.guard_waiters.join(cx.key, seat);
                Ok(())
            }
            SendPermission::No(refusal) => Err(guard_faults::refused(refusal)),
            SendPermission::Go(ticket) => {
                self.attempt.let_through(self.phase_us, cx);
                self.phase_us = cx.now_us();
                let sent = self.send_token(cx);
                self.logon = match &sent {
                    Ok(()) => {
                        self.attempt.logon_sent();
                        Logon::Sent(ticket)
                    }
                    Err(_) => {
                        ticket.unused();
                        Logon::NotDue
                    }
                };
                sent
            }
        }
    }

    fn send_token(&mut self, cx: &mut Cx<'_>) -> Result<(), Fault> {
        self.attempt.handshake.bind_to_channel(self.upstream.channel_bindings());
        let nonces = cx.shard.nonces.draw()?;
        self.attempt.handshake.authenticate(&nonces, &mut self.outbox)
    }

    fn take_ticket(&mut self) -> Option<Ticket> {
        match std::mem::replace(&mut self.logon, Logon::NotDue) {
            Logon::Sent(ticket) => Some(ticket),
            Logon::NotDue | Logon::Waits { .. } => None,
        }
    }

    /// The stage is over.
    fn over(self, progress: Progress, cx: &mut Cx<'_>) -> Transition {
        match progress {
            Progress::Redial => Transition::Connect(Connecting::Upstream(self.attempt)),
            Progress::Answered => self.hand_over(cx),
            Progress::Declined(declined) => self.declined(declined, cx),
            _ => self.established(cx),
        }
    }

    /// Plain HTTP: the body follows its head at once, and the answer is the exchange's business.
    fn hand_over(mut self, cx: &mut Cx<'_>) -> Transition {
        let Some(request) = self.attempt.handshake.request().forward().cloned() else {
            return self.established(cx);
        };
        let out = self.take_unsent();
        // Nobody waits for a challenge any more, or for what this request finds out.
        (self.attempt.waiting, self.attempt.scout) = (None, None);
        let pending = match self.take_ticket() {
            Some(ticket) => Pending::Verdict(ticket),
            None if self.attempt.handshake.awaits_body() => Pending::Demand,
            None => {
                self.attempt.granted_unasked(cx);
                self.attempt.handshake_ended(HandshakeOutcome::Established, cx);
                Pending::Nothing
            }
        };
        let (attempt, upstream, from_upstream) = (self.attempt, self.upstream, self.input.into_leftover());
        let handover = Handover { request, attempt, upstream, out, from_upstream, pending };
        Transition::Exchange(Opened::Authenticated(Box::new(handover)))
    }

    fn established(mut self, cx: &mut Cx<'_>) -> Transition {
        if !self.outbox.is_empty() {
            let detail = "the upstream opened the tunnel before it had received the whole request";
            return self.fail(At::Authenticate.fault(Cause::HandshakeBroken, detail), cx);
        }
        self.granted(200, cx);
        self.attempt.served_after_failures(cx);
        self.attempt.handshake_ended(HandshakeOutcome::Established, cx);
        let leftover = std::mem::take(&mut self.attempt.leftover);
        cx.shard.spare_buffers.give_back(self.outbox);
        respond::established(self.upstream, self.input.into_leftover(), leftover, cx)
    }

    fn declined(mut self, declined: Declined, cx: &mut Cx<'_>) -> Transition {
        self.granted(declined.status, cx);
        self.attempt.handshake_ended(HandshakeOutcome::Declined, cx);
        let (upstream, leftover) = (self.upstream, self.input.into_leftover());
        Transition::Decline(Declining { declined, upstream, leftover })
    }

    fn granted(&mut self, status: u16, cx: &Cx<'_>) {
        let ticket = self.take_ticket();
        self.attempt.granted(status, ticket, self.phase_us, cx);
    }

    /// A write failed: the connection is gone, which is no verdict.
    fn lost(mut self, error: &io::Error, cx: &mut Cx<'_>) -> Transition {
        if self.attempt.handshake.awaits_verdict() {
            return self.fail(Fault::upstream_io(At::Authenticate, error), cx);
        }
        match self.attempt.handshake.closed() {
            Ok(_) => Transition::Connect(Connecting::Upstream(self.attempt)),
            Err(fault) => self.fail(fault, cx),
        }
    }

    /// The client is gone.
    fn abandon(mut self, cx: &mut Cx<'_>) -> Transition {
        self.attempt.handshake_ended(HandshakeOutcome::Failed, cx);
        self.await_verdict_alone(cx);
        Transition::End(cx.end_by(At::Authenticate.fault(Cause::ClientGone, "the client reset its connection")))
    }

    /// The handshake's time is over. A refusal that comes later than this counts all the same.
    fn time_out(mut self, fault: Fault, cx: &mut Cx<'_>) -> Transition {
        self.attempt.handshake_ended(HandshakeOutcome::Failed, cx);
        self.attempt.upstream_failed(&fault, cx);
        self.await_verdict_alone(cx);
        respond::failed(fault, cx)
    }

    /// The verdict on an AUTHENTICATE_MESSAGE that was sent is waited for without the client.
    fn await_verdict_alone(mut self, cx: &mut Cx<'_>) {
        let Some(ticket) = self.take_ticket() else { return };
        let orphan = Orphan {
            hop: Arc::clone(&self.attempt.hop),
            unsent: self.take_unsent(),
            upstream: self.upstream,
            ticket,
            heard: self.input.into_leftover(),
            until_ms: self.attempt.until_ms,
        };
        let (pools, mut loan) = cx.shard.pools();
        pools.verdict_wait.adopt(orphan, &mut loan);
    }

    /// What a fault says about the AUTHENTICATE_MESSAGE that was sent.
    fn answer_in(&mut self, fault: &Fault) -> Answer {
        let stale = self.attempt.source == ConnectionSource::Warm && self.attempt.handshake.tally().rechallenge > 0;
        match fault.cause {
            Cause::CredentialsRefused if stale => Answer::Stale,
            Cause::CredentialsRefused => Answer::Refused,
            Cause::HandshakeTimeout | Cause::ChallengeTimeout => Answer::Nothing,
            Cause::UpstreamClosed | Cause::UpstreamReset => {
                self.input.look(|bytes| (0, logon_verdict::cut_off(bytes))).unwrap_or(Answer::Closed)
            }
            _ => self.input.look(|bytes| (0, logon_verdict::unread(bytes))).unwrap_or(Answer::Nothing),
        }
    }

    /// The handshake has failed on this connection.
    fn fail(mut self, fault: Fault, cx: &mut Cx<'_>) -> Transition {
        let is_refusal = fault.cause == Cause::CredentialsRefused;
        let is_cut_off = matches!(self.logon, Logon::Sent(_))
            && matches!(fault.cause, Cause::UpstreamClosed | Cause::UpstreamReset)
            && self.attempt.is_fresh(cx.now_ms());
        if let Some(ticket) = self.take_ticket() {
            let answer = self.answer_in(&fault);
            self.attempt.logon_failed(ticket, answer, is_refusal, self.phase_us, cx);
        }
        // Held with one secret, while the other is accepted by now.
        let is_for_other_secret = is_held(&fault) && self.attempt.follow_secret(cx);
        if is_for_other_secret || self.is_for_a_fresh_connection(&fault) {
            return Transition::Connect(Connecting::Upstream(self.attempt));
        }
        let outcome = if is_refusal { HandshakeOutcome::Refused } else { HandshakeOutcome::Failed };
        self.attempt.handshake_ended(outcome, cx);
        if is_refusal && let Some(other) = self.attempt.other_secret() {
            self.attempt.fall_back_to(&other, fault, cx);
            return Transition::Connect(Connecting::Upstream(self.attempt));
        }
        if is_refusal && self.attempt.is_accepted_elsewhere_only() {
            return Transition::Connect(Connecting::NextUpstream(self.attempt));
        }
        match is_upstreams(&fault) {
            true => self.fail_elsewhere(fault, is_cut_off, cx),
            false => respond::failed(fault, cx),
        }
    }

    /// Whether a fresh connection decides before the client hears of a fault, if the guard lets it: this one may have
    /// been too old.
    fn is_for_a_fresh_connection(&self, fault: &Fault) -> bool {
        // A bare 407 is a refusal wherever it comes; one with a new challenge says that ours was too old.
        let is_refusal = fault.cause == Cause::CredentialsRefused && self.attempt.handshake.tally().rechallenge == 0;
        self.attempt.source != ConnectionSource::Cold
            && !is_held(fault)
            && !is_refusal
            && !self.attempt.handshake.may_be_under_way()
    }

    /// The upstream is at fault, or the destination is: the next upstream decides, if the request may go there.
    fn fail_elsewhere(mut self, fault: Fault, is_cut_off: bool, cx: &mut Cx<'_>) -> Transition {
        self.attempt.upstream_failed(&fault, cx);
        let has_time = cx.now_ms() < self.attempt.until_ms;
        if !has_time || !self.attempt.has_next() || self.attempt.handshake.may_be_under_way() {
            return respond::failed(fault, cx);
        }
        if is_cut_off && !self.attempt.is_accepted_elsewhere(cx.now_ms()) {
            // An upstream that has not accepted the account yet must not be asked for a destination that may only be
            // cut off again. If this one still gives a challenge, it is the destination's fault; if not, it is going
            // down.
            self.attempt.cut_off = Some(fault);
            return Transition::Connect(Connecting::Upstream(self.attempt));
        }
        log::debug!("{} fails: {fault}; on to the next upstream", self.attempt.hop.upstream.name());
        Transition::Connect(Connecting::NextUpstream(self.attempt))
    }
}

impl StageOps for Box<Authenticate> {
    fn label(&self) -> &'static str {
        "authenticate"
    }

    fn at(&self) -> At {
        At::Authenticate
    }

    fn held_bytes(&self) -> usize {
        self.attempt.held_bytes() + self.upstream.held_bytes() + self.input.held_bytes() + self.outbox.capacity()
    }

    fn upstream(&mut self, number: u8) -> Option<&mut Endpoint> {
        (self.attempt.number == number).then_some(&mut self.upstream)
    }

    fn step(mut self, cx: &mut Cx<'_>) -> Step<Self> {
        if cx.client.endpoint.ready.reset() {
            return Step::Go(self.abandon(cx));
        }
        let mut reads_left = limits::READS_PER_TURN;
        loop {
            if self.attempt.handshake.is_challenged()
                && let Some(fault) = self.attempt.cut_off.take()
            {
                return Step::Go(respond::failed(fault, cx));
            }
            if let Err(fault) = self.log_on(cx) {
                return Step::Go(self.fail(fault, cx));
            }
            if self.attempt.handshake.awaits_body() && self.attempt.handshake.request().forward().is_some() {
                return Step::Go(self.hand_over(cx));
            }
            if let Err(error) = self.flush() {
                // The upstream may have answered, and closed on what it did not read.
                self.outbox.clear();
                self.sent = 0;
                if self.broken.replace(error).is_none() {
                    self.upstream.ready.learn(Readiness::HOPEFUL);
                }
            }
            if !self.upstream.ready.readable() {
                return match self.broken.take() {
                    Some(error) => Step::Go(self.lost(&error, cx)),
                    None => Step::Wait(self),
                };
            }
            if reads_left == 0 {
                return Step::Yield(self);
            }
            reads_left -= 1;
            match self.read(cx).and_then(|heard| self.heard(heard, cx)) {
                Ok(None) => {}
                Ok(Some(progress)) => return Step::Go(self.over(progress, cx)),
                Err(fault) => return Step::Go(self.fail(fault, cx)),
            }
        }
    }

    fn expired(mut self, cx: &mut Cx<'_>) -> Step<Self> {
        let is_out_of_time = cx.now_ms() >= self.attempt.until_ms;
        if is_out_of_time {
            // No second try.
            self.attempt.source = ConnectionSource::Cold;
        }
        let fault = match &self.logon {
            Logon::Waits { .. } => guard_faults::timed_out(&self.attempt.hop.identity.guard),
            _ if !is_out_of_time => {
                At::Authenticate.fault(Cause::ChallengeTimeout, "the upstream sent no challenge in time")
            }
            _ => At::Authenticate.fault(Cause::HandshakeTimeout, "the upstream did not answer in time"),
        };
        Step::Go(match &self.logon {
            Logon::Sent(_) if is_out_of_time => self.time_out(fault, cx),
            _ => self.fail(fault, cx),
        })
    }
}

/// Whether the guard has kept the request from being tried.
fn is_held(fault: &Fault) -> bool {
    matches!(fault.cause, Cause::CredentialsHeld | Cause::DestinationHeld)
}

fn is_upstreams(fault: &Fault) -> bool {
    fault.cause.culprit() == Culprit::Upstream && !is_held(fault)
}
