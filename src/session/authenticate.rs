//! The third stage: the NTLM handshake on an open upstream connection.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::declined::DeclinedPage;
use super::dial::{Attempt, Dial};
use super::exchange::{Connected, Exchange, Standing};
use super::reply::Reply;
use super::{Client, Context, Stage, Step};
use crate::auth::{Declined, Progress};
use crate::egress::verdict;
use crate::event::{Endpoint, Got, HeadReader, Key, Readiness, Seat, take_front};
use crate::fault::{At, Cause, Culprit, Fault};
use crate::limits;
use crate::metrics::{Outcome, Path, Phase, Reason407};
use crate::pool::Orphan;
use crate::upstream::{Answer, Asking, Permission, Refusal, Ticket};

/// Room for a request with an AUTHENTICATE_MESSAGE, so that writing one grows no buffer.
const OUTBOX_BYTES: usize = 2048;

/// The handshake on one connection.
#[derive(Debug)]
pub(super) struct Authenticate {
    attempt: Attempt,
    upstream: Endpoint,
    inbox: HeadReader,
    outbox: Vec<u8>,
    sent: usize,
    /// The challenge is there and the guard has not let it be answered yet.
    waits_for_guard: bool,
    /// Its place among those that wait for the guard.
    guard_seat: Seat,
    /// What a write failed with: what has arrived is read, and then the connection is given up.
    broken: Option<io::Error>,
    /// The right to have sent the AUTHENTICATE_MESSAGE that is out.
    ticket: Option<Ticket>,
    /// When the present phase began, in µs.
    phase_us: u64,
}

/// What to do after a piece of the handshake.
enum Next {
    /// Look at the sockets again.
    On,
    /// Another leg has begun on the same connection.
    Sent,
    /// The challenge is there.
    Challenged,
    /// The stage is over; the number of the handshake's outcome is counted already.
    Over(Progress),
}

impl Authenticate {
    /// Sends the first request on a fresh connection.
    pub(super) fn begin(
        mut attempt: Attempt,
        upstream: Endpoint,
        key: Key,
        client: &mut Client,
        context: &mut Context,
    ) -> Step {
        let mut outbox = Vec::with_capacity(OUTBOX_BYTES);
        attempt.handshake.begin(&mut outbox);
        Authenticate::with(attempt, upstream, outbox, key, client, context)
    }

    /// Goes on from a challenge that was fetched ahead.
    pub(super) fn resume(
        attempt: Attempt,
        upstream: Endpoint,
        key: Key,
        client: &mut Client,
        context: &mut Context,
    ) -> Step {
        Authenticate::with(attempt, upstream, Vec::with_capacity(OUTBOX_BYTES), key, client, context)
    }

    fn with(
        attempt: Attempt,
        upstream: Endpoint,
        outbox: Vec<u8>,
        key: Key,
        client: &mut Client,
        context: &mut Context,
    ) -> Step {
        let challenged = attempt.handshake.is_challenged();
        client.set_deadline(key, context, attempt.leg_until_ms(context));
        let stage = Authenticate {
            waits_for_guard: challenged,
            attempt,
            upstream,
            inbox: HeadReader::default(),
            outbox,
            sent: 0,
            guard_seat: Seat::default(),
            broken: None,
            ticket: None,
            phase_us: context.now_us,
        };
        Step::Go(Stage::Authenticate(Box::new(stage)))
    }

    /// What its buffers take, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.attempt.held_bytes() + self.inbox.held_bytes() + self.outbox.capacity()
    }

    pub(super) fn endpoint(&mut self, attempt: u8) -> Option<&mut Endpoint> {
        (self.attempt.number == attempt).then_some(&mut self.upstream)
    }

    pub(super) fn step(mut self: Box<Self>, key: Key, client: &mut Client, context: &mut Context) -> Step {
        if client.endpoint.ready.reset() {
            self.count(Outcome::Failed, client, context);
            self.leave_to_itself(context);
            return Step::end(context.fault(fault(Cause::ClientGone, "the client reset its connection")));
        }
        let mut reads_left = limits::READS_PER_TURN;
        loop {
            if self.waits_for_guard
                && let Err(fault) = self.ask_guard(key, context)
            {
                return self.fail(fault, key, client, context);
            }
            if self.attempt.handshake.awaits_body() && self.attempt.handshake.request().forward().is_some() {
                return self.exchange(key, client, context);
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
                    Some(error) => self.lost(&error, key, client, context),
                    None => Step::Wait(Stage::Authenticate(self)),
                };
            }
            if reads_left == 0 {
                return Step::Yield(Stage::Authenticate(self));
            }
            reads_left -= 1;
            match self.read(context) {
                Ok(Next::On) => {}
                Ok(Next::Sent) => client.set_deadline(key, context, self.attempt.leg_until_ms(context)),
                Ok(Next::Challenged) => client.set_deadline(key, context, self.attempt.until_ms),
                Ok(Next::Over(Progress::Redial)) => return Dial::anew(self.attempt, key, client, context),
                Ok(Next::Over(Progress::Answered)) => return self.exchange(key, client, context),
                Ok(Next::Over(Progress::Declined(declined))) => return self.declined(declined, client, context),
                Ok(Next::Over(_)) => return self.established(client, context),
                Err(fault) => return self.fail(fault, key, client, context),
            }
        }
    }

    pub(super) fn expired(mut self: Box<Self>, key: Key, client: &mut Client, context: &mut Context) -> Step {
        if context.now_ms() >= self.attempt.until_ms {
            // Out of time is out of time: no second try.
            self.attempt.path = Path::Cold;
        }
        let fault = match self.waits_for_guard {
            true => guard_timeout(),
            false if context.now_ms() < self.attempt.until_ms => {
                fault(Cause::ChallengeTimeout, "the upstream sent no challenge in time")
            }
            false => fault(Cause::HandshakeTimeout, "the upstream did not answer in time"),
        };
        self.fail(fault, key, client, context)
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

    fn read(&mut self, context: &mut Context) -> Result<Next, Fault> {
        let Authenticate { attempt, outbox, .. } = self;
        let got = self.inbox.read(&mut self.upstream, &mut context.scratch, |bytes| {
            match attempt.handshake.receive(bytes, outbox) {
                Ok((used, progress)) => (used, Ok(progress)),
                Err(fault) => (0, Err(fault)),
            }
        });
        let progress = match got {
            Ok(Got::Blocked) => return Ok(Next::On),
            Ok(Got::Bytes(progress)) => progress?,
            Ok(Got::End) => self.attempt.handshake.closed()?,
            Err(error) if self.attempt.handshake.awaits_verdict() => {
                return Err(Fault::upstream_io(At::Authenticate, &error));
            }
            Err(_) => self.attempt.handshake.closed()?,
        };
        match progress {
            Progress::More => Ok(Next::On),
            Progress::Send => Ok(Next::Sent),
            Progress::Challenged => {
                self.attempt.hop.unasked.challenged(self.attempt.handshake.request().origin());
                self.end_phase(Phase::Challenge, context);
                self.attempt.hop.habits.asked_for_authentication(true);
                if let Some(waiting) = self.attempt.waiting.take() {
                    waiting.challenged(context.now_ms());
                }
                self.attempt.hop.habits.heard(context.now_ms());
                if self.attempt.handshake.request().forward().is_some() {
                    let key = self.attempt.handshake.request().demand_key();
                    self.attempt.hop.habits.asks(&key, context.now_ms());
                }
                self.waits_for_guard = true;
                Ok(Next::Challenged)
            }
            Progress::Redial | Progress::Answered | Progress::Established | Progress::Declined(_) => {
                Ok(Next::Over(progress))
            }
        }
    }

    /// Answers the challenge if the guard allows it now; otherwise waits for its next change.
    fn ask_guard(&mut self, key: Key, context: &mut Context) -> Result<(), Fault> {
        if self.ticket.is_some() {
            return Ok(());
        }
        let Attempt { hop, handshake, .. } = &self.attempt;
        let asking = Asking {
            upstream: hop.upstream.name(),
            method: handshake.request().method(),
            destination: handshake.request().origin(),
            // A HEAD gets its challenge by a GET, and proxies have rules by method.
            challenged: handshake.is_demanded() && handshake.request().method() != "HEAD",
            confirms: false,
        };
        match hop.identity.guard.ask(context.now_ms(), &asking) {
            Permission::Wait => {
                context.guard_waiters.join(key, &mut self.guard_seat);
                Ok(())
            }
            Permission::No(refusal) => Err(refusal_fault(refusal)),
            Permission::Go(ticket) => {
                self.waits_for_guard = false;
                self.attempt.scout = None;
                self.end_phase(Phase::Guard, context);
                let answered = context
                    .nonces
                    .draw()
                    .and_then(|nonces| self.attempt.handshake.authenticate(&nonces, &mut self.outbox));
                match answered {
                    Ok(()) => {
                        self.ticket = Some(ticket);
                        self.attempt.hop.metrics.authenticates.inc();
                    }
                    Err(_) => ticket.unused(),
                }
                answered
            }
        }
    }

    /// Plain HTTP: the body follows its head at once, and the answer is the exchange's business.
    fn exchange(mut self: Box<Self>, key: Key, client: &mut Client, context: &mut Context) -> Step {
        let Some(request) = self.attempt.handshake.request().forward().cloned() else {
            return self.established(client, context);
        };
        let out = self.outbox.split_off(self.sent.min(self.outbox.len()));
        // Nobody waits for a challenge any more, or for what this one finds out.
        (self.attempt.waiting, self.attempt.scout) = (None, None);
        let standing = match self.ticket.take() {
            Some(ticket) => Standing::Proving(ticket),
            None if self.attempt.handshake.awaits_body() => Standing::Unproven,
            None => {
                self.succeeded_unasked(context.now_ms());
                self.count(Outcome::Established, client, context);
                Standing::Settled
            }
        };
        let (attempt, upstream) = (self.attempt, self.upstream);
        let connected = Connected { attempt, upstream, out, from_upstream: self.inbox.into_leftover(), standing };
        Exchange::begin(request, connected, key, client, context)
    }

    /// A write failed: the connection is gone, which is no verdict.
    fn lost(mut self: Box<Self>, error: &io::Error, key: Key, client: &mut Client, context: &mut Context) -> Step {
        if self.attempt.handshake.awaits_verdict() {
            return self.fail(Fault::upstream_io(At::Authenticate, error), key, client, context);
        }
        match self.attempt.handshake.closed() {
            Ok(_) => Dial::anew(self.attempt, key, client, context),
            Err(fault) => self.fail(fault, key, client, context),
        }
    }

    fn established(mut self: Box<Self>, client: &mut Client, context: &mut Context) -> Step {
        self.answered(200, context);
        self.attempt.blame_those_that_failed(context.now_ms());
        self.count(Outcome::Established, client, context);
        Reply::established(self.upstream, self.inbox.into_leftover(), self.attempt.leftover, client, context)
    }

    fn declined(mut self: Box<Self>, declined: Declined, client: &mut Client, context: &mut Context) -> Step {
        self.answered(declined.status, context);
        self.count(Outcome::Declined, client, context);
        Step::Go(Stage::Declined(Box::new(DeclinedPage::new(declined, self.upstream, self.inbox.into_leftover()))))
    }

    /// The upstream has answered the request itself.
    fn answered(&mut self, status: u16, context: &Context) {
        match self.ticket.take() {
            Some(ticket) => {
                self.attempt.hop.upstream.health.succeeded();
                self.end_phase(Phase::Authenticate, context);
                ticket.settle(context.now_ms(), Answer::Status(status));
            }
            None => self.succeeded_unasked(context.now_ms()),
        }
    }

    /// The upstream has answered a request that bore no proof.
    fn succeeded_unasked(&self, now_ms: u64) {
        let Attempt { hop, handshake, path, .. } = &self.attempt;
        hop.upstream.health.succeeded();
        if *path == Path::Cold && !handshake.is_exempt() && !handshake.is_demanded() {
            hop.habits.asked_for_authentication(false);
            hop.unasked.served(now_ms, handshake.request().origin());
        }
    }

    /// The client is gone. An AUTHENTICATE_MESSAGE that is out is waited for without it.
    fn leave_to_itself(mut self: Box<Self>, context: &mut Context) {
        let Some(ticket) = self.ticket.take() else { return };
        let orphan = Orphan {
            hop: Arc::clone(&self.attempt.hop),
            upstream: self.upstream,
            ticket,
            unsent: self.outbox.split_off(self.sent.min(self.outbox.len())),
            heard: self.inbox.into_leftover(),
            until_ms: self.attempt.until_ms,
        };
        let (pools, mut loan) = context.pools();
        pools.verdict_wait.adopt(orphan, &mut loan);
    }

    /// What a fault says about the AUTHENTICATE_MESSAGE that is out, if it says anything.
    fn answer_in(&mut self, fault: &Fault) -> Answer {
        let stale = self.attempt.path == Path::Warm && self.attempt.handshake.tally().rechallenge > 0;
        match fault.cause {
            Cause::CredentialsRefused if stale => Answer::Stale,
            Cause::CredentialsRefused => Answer::Refused,
            Cause::HandshakeTimeout | Cause::ChallengeTimeout => Answer::Nothing,
            Cause::UpstreamClosed | Cause::UpstreamReset => {
                self.inbox.look(|bytes| (0, verdict::cut_off(bytes))).unwrap_or(Answer::Closed)
            }
            _ => self.inbox.look(|bytes| (0, verdict::unread(bytes))).unwrap_or(Answer::Nothing),
        }
    }

    /// The handshake has failed on this connection. One that was challenged ahead may have been too old: then a fresh one
    /// decides, if the guard lets it, before the client hears of anything.
    fn fail(mut self: Box<Self>, fault: Fault, key: Key, client: &mut Client, context: &mut Context) -> Step {
        let outcome = match fault.cause {
            Cause::CredentialsRefused => Outcome::Refused,
            _ => Outcome::Failed,
        };
        // Cut off behind a logon that is good: at an upstream that has not accepted the account yet it would look like a refusal.
        let is_destinations = self.ticket.is_some()
            && matches!(fault.cause, Cause::UpstreamClosed | Cause::UpstreamReset)
            && self.attempt.is_fresh(context.now_ms());
        if let Some(ticket) = self.ticket.take() {
            let answer = self.answer_in(&fault);
            if answer == Answer::Stale {
                self.attempt.hop.habits.challenge_spoiled(context.now_ms().saturating_sub(self.attempt.challenged_ms));
            }
            if outcome == Outcome::Refused {
                self.end_phase(Phase::Authenticate, context);
                // It is in order: what it says of the credentials is another matter.
                self.attempt.hop.upstream.health.succeeded();
            }
            ticket.settle(context.now_ms(), answer);
        }
        let held = matches!(fault.cause, Cause::CredentialsHeld | Cause::DestinationHeld);
        let is_upstreams = fault.cause.culprit() == Culprit::Upstream && !held;
        // A bare 407 is a refusal wherever it comes; one with a new challenge says that ours was too old.
        let refused = outcome == Outcome::Refused && self.attempt.handshake.tally().rechallenge == 0;
        let once = self.attempt.handshake.may_be_under_way();
        if self.attempt.path != Path::Cold && !held && !refused && !once {
            return Dial::anew(self.attempt, key, client, context);
        }
        self.count(outcome, client, context);
        if outcome == Outcome::Refused && self.attempt.is_accepted_elsewhere_only() {
            return Dial::elsewhere(self.attempt, key, client, context);
        }
        if is_upstreams {
            self.attempt.blame(&fault, context.now_ms());
            let is_next = match is_destinations {
                true => self.attempt.is_accepted_elsewhere(context.now_ms()),
                false => self.attempt.wish.has_next(&self.attempt.egress),
            };
            if context.now_ms() < self.attempt.until_ms && is_next && !once {
                log::debug!("{} fails: {fault}; on to the next upstream", self.attempt.hop.upstream.name());
                let attempt = self.attempt;
                return Dial::elsewhere(attempt, key, client, context);
            }
        }
        Reply::to_fault(fault, client, context)
    }

    fn end_phase(&mut self, phase: Phase, context: &Context) {
        self.attempt.hop.metrics.phase(phase, context.now_us - self.phase_us);
        self.phase_us = context.now_us;
    }

    fn count(&mut self, outcome: Outcome, client: &mut Client, context: &Context) {
        // Granted after all: the 407 was not about the destination.
        let granted = matches!(outcome, Outcome::Established | Outcome::Declined);
        if granted && self.attempt.path == Path::Kept && self.attempt.handshake.tally().unprompted > 0 {
            self.attempt.hop.habits.kept_refuses_connect(context.now_ms());
        }
        Authenticate::write_down(&self.attempt, outcome, client, context);
        let tally = self.attempt.handshake.take_tally();
        for (reason, times) in [(Reason407::Refused, tally.refused), (Reason407::Rechallenge, tally.rechallenge)] {
            self.attempt.hop.metrics.answered_407(reason, u64::from(times));
        }
    }

    /// Writes down how a handshake went, but for the verdict on its AUTHENTICATE_MESSAGE.
    pub(super) fn write_down(attempt: &Attempt, outcome: Outcome, client: &mut Client, context: &Context) {
        let duration_us = client.handshake_us(attempt.started_us, context);
        client.record.handshake_us = duration_us;
        client.record.legs = attempt.handshake.legs();
        client.record.scheme = Some(attempt.handshake.scheme());
        client.record.path = Some(attempt.path);
        let metrics = &attempt.hop.metrics;
        metrics.handshake(attempt.path, outcome, u64::from(duration_us));
        metrics.request(attempt.path);
        let tally = attempt.handshake.tally();
        metrics.answered_407(Reason407::Unprompted, u64::from(tally.unprompted));
        metrics.answered_407(Reason407::Challenge, u64::from(tally.challenge));
    }
}

/// The fault of a request for which other attempts took too long.
pub(super) fn guard_timeout() -> Fault {
    fault(Cause::GuardTimeout, "the request had to wait for another logon attempt, which took too long")
}

/// The fault of a request that comes while the guard lets nothing pass.
pub(super) fn refusal_fault(refusal: Refusal) -> Fault {
    let minutes = |rest: Duration| rest.as_secs().div_ceil(60);
    match refusal {
        Refusal::Held(rest) => {
            let detail = format!(
                "the upstream refused the gateway's credentials; to keep the account from being locked they are not tried again for {} min, \
                 or until the secret changes",
                minutes(rest)
            );
            fault(Cause::CredentialsHeld, detail)
        }
        Refusal::Barred(rest) => {
            let detail = format!(
                "the upstream refused the credentials for this destination, which its policy may forbid, and takes them for others; \
                 not tried again for {} min",
                minutes(rest)
            );
            fault(Cause::DestinationHeld, detail)
        }
    }
}

fn fault(cause: Cause, detail: impl Into<std::borrow::Cow<'static, str>>) -> Fault {
    Fault::new(At::Authenticate, cause, detail)
}
