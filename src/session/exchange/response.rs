//! Hearing the upstream: heads until the answer's own, and the verdict on the proof among them.

use std::io;

use super::interpret::{Heard, hear};
use super::{Exchange, Standing, Then, fault};
use crate::egress::verdict;
use crate::event::take_front;
use crate::fault::{At, Cause, Fault};
use crate::forward::BodyPump;
use crate::http::{BodyFraming, HeadEnd};
use crate::limits;
use crate::metrics::{Outcome, Path, Phase, Reason407};
use crate::session::authenticate::Authenticate;
use crate::session::{Client, Context};
use crate::upstream::Answer;

impl Exchange {
    /// Reads heads until the answer's own; `None` when there is nothing more to read now or the body can follow.
    pub(super) fn listen(&mut self, client: &mut Client, context: &mut Context) -> Option<Then> {
        // Of an interim answer the client gets all or nothing, also if what comes next sends the request to another connection.
        if self.client_comes_first() {
            return None;
        }
        let mut reads_left = limits::READS_PER_TURN;
        loop {
            while let Some(length) = match self.head_end.find(&self.from_upstream, context.settings.head_limit_bytes) {
                Ok(found) => found,
                Err(error) => {
                    let heard = std::mem::take(&mut self.from_upstream);
                    self.settle_unread(&heard, context);
                    return Some(Then::Fail(fault(Cause::ResponseHeadTooLarge, error.to_string())));
                }
            } {
                let head = self.from_upstream[..length].to_vec();
                take_front(&mut self.from_upstream, length);
                self.head_end = HeadEnd::response();
                let heeded = self.heed(&head, client, context);
                self.down.trim();
                if let Some(then) = heeded {
                    return Some(then);
                }
                if self.answer.is_some() || self.client_comes_first() {
                    return None;
                }
            }
            if !self.upstream.ready.readable() {
                return None;
            }
            if reads_left == 0 {
                return Some(Then::Yield);
            }
            reads_left -= 1;
            match self.upstream.read(context.head_scratch()) {
                Ok(None) => return None,
                Ok(Some(0)) => return Some(self.closed(None, context)),
                Ok(Some(count)) => self.from_upstream.extend_from_slice(&context.scratch[..count]),
                Err(error) => return Some(self.closed(Some(error), context)),
            }
        }
    }

    /// Whether nothing more is heard until the client has read: it gets an interim answer whole before the next head is looked at, and
    /// those that wait for it must not grow without end.
    pub(super) fn client_comes_first(&self) -> bool {
        self.down.is_amid_delivery() || self.down.unsent_bytes() > limits::INTERIM_UNSENT_BYTES
    }

    /// The connection ended before the answer. One that was kept may have been closed before the request reached it: then
    /// the request is sent again, unless it may have been carried out and must not be twice (RFC 9110 §9.2.2). Nobody
    /// carries a request out of whose body nothing has come.
    pub(super) fn closed(&mut self, error: Option<io::Error>, context: &Context) -> Then {
        let unheard = self.from_upstream.is_empty() && !self.interim && !self.body_has_begun();
        let repeatable = self.request.is_idempotent() || self.request.has_body();
        // Some may close on what has no credentials.
        if let (Standing::Unproven, Some(attempt)) = (&self.standing, &self.attempt)
            && attempt.handshake.is_trial()
        {
            attempt.hop.habits.asks(&attempt.handshake.request().demand_key(), context.now_ms());
        }
        let again = match &mut self.attempt {
            Some(attempt) if unheard && repeatable => match self.standing {
                // With what the handshake makes of it.
                Standing::Unproven => attempt.handshake.closed().is_ok(),
                _ => attempt.path != Path::Cold,
            },
            _ => false,
        };
        let heard = std::mem::take(&mut self.from_upstream);
        self.settle(context, verdict::cut_off(&heard));
        if again {
            return Then::Again;
        }
        Then::Fail(match error {
            Some(error) => Fault::upstream_io(At::Reply, &error),
            None => fault(Cause::UpstreamClosed, "the upstream closed the connection without an answer"),
        })
    }

    /// Acts on one head.
    fn heed(&mut self, head: &[u8], client: &mut Client, context: &mut Context) -> Option<Then> {
        let may_keep = self.request.client_keeps_alive()
            && !context.draining
            && self.up.is_read()
            && self.up.is_flushed()
            && client.record.requests < limits::REQUESTS_PER_CONNECTION;
        let options = context.settings.forward_options();
        let before = self.down.promised();
        match hear(head, &self.request, &options, may_keep, context.settings.field_limit, &mut self.down.out) {
            Err(fault) => {
                self.settle_unread(head, context);
                Some(Then::Fail(fault))
            }
            // No verdict: some proxies ask for the body before they look at the credentials.
            Ok(Heard::Interim) => {
                self.let_body_go();
                (self.interim, self.interim_bytes) = (true, self.interim_bytes + head.len());
                (self.interim_bytes > context.settings.head_limit_bytes).then(|| {
                    Then::Fail(fault(Cause::InterimTooLarge, "the upstream's 1xx answers are too long together"))
                })
            }
            Ok(Heard::Switching) => {
                self.forget_body();
                self.verdict(101, client, context);
                Some(match self.up.is_read() && self.up.is_flushed() {
                    true => Then::Switch,
                    false => Then::Fail(fault(
                        Cause::ResponseMalformed,
                        "the upstream switches protocols before it has the request's body",
                    )),
                })
            }
            Ok(Heard::Asked { rechallenge, line }) => {
                self.note_demand(context.now_ms());
                Some(self.asked(rechallenge, &line, client, context))
            }
            Ok(Heard::Final(mut answer)) => {
                self.forget_body();
                self.note_service(answer.status, context.now_ms());
                self.verdict(answer.status, client, context);
                client.record.status = answer.status;
                if answer.status < 400
                    && let Some(attempt) = &mut self.attempt
                {
                    attempt.blame_those_that_failed(context.now_ms());
                }
                self.before_answer = before;
                let pump = std::mem::replace(&mut answer.pump, BodyPump::same(BodyFraming::None));
                self.down.set_body(pump);
                self.answer = Some(answer);
                None
            }
        }
    }

    /// A 407: the verdict on our AUTHENTICATE_MESSAGE, or the end of a connection's authentication.
    fn asked(&mut self, rechallenge: bool, line: &str, client: &mut Client, context: &mut Context) -> Then {
        let Some(attempt) = &self.attempt else {
            return Then::Fail(fault(Cause::ResponseMalformed, "the origin answers 407, which is a proxy's to say"));
        };
        let again = self.may_be_sent_again();
        let metrics = &attempt.hop.metrics;
        let Standing::Proving(ticket) = std::mem::replace(&mut self.standing, Standing::Settled) else {
            metrics.answered_407(Reason407::Unprompted, 1);
            return match again && !self.up.has_begun() {
                true => Then::Again,
                false => Then::Fail(fault(
                    Cause::Reauthentication,
                    "the upstream asks for authentication in the middle of a request that cannot be repeated",
                )),
            };
        };
        metrics.answered_407(if rechallenge { Reason407::Rechallenge } else { Reason407::Refused }, 1);
        let too_old = rechallenge && attempt.path == Path::Warm;
        ticket.settle(context.now_ms(), if too_old { Answer::Stale } else { Answer::Refused });
        if too_old {
            attempt.hop.habits.challenge_spoiled(context.now_ms().saturating_sub(attempt.challenged_ms));
            if !self.up.has_begun() {
                return Then::Again;
            }
        }
        self.count(Outcome::Refused, client, context);
        Then::Fail(fault(Cause::CredentialsRefused, format!("the upstream refused the credentials: {line}")))
    }

    /// Learns from a 407 where the upstream asks for credentials, and on which connections.
    fn note_demand(&mut self, now_ms: u64) {
        let repeatable = !self.up.has_begun();
        let is_held = self.is_body_held();
        let Some(attempt) = &mut self.attempt else { return };
        attempt.hop.habits.heard(now_ms);
        if is_held {
            attempt.hop.habits.asks_before_body(now_ms);
        }
        attempt.hop.habits.asks(&attempt.handshake.request().demand_key(), now_ms);
        match attempt.path {
            Path::Kept if repeatable => attempt.asked_on_kept = true,
            Path::Kept => attempt.hop.habits.kept_is_asked(self.request.origin()),
            _ => {}
        }
    }

    /// Learns the same from an answer.
    fn note_service(&self, status: u16, now_ms: u64) {
        let Some(attempt) = &self.attempt else { return };
        let (habits, origin) = (&attempt.hop.habits, self.request.origin());
        habits.heard(now_ms);
        match &self.standing {
            _ if attempt.path == Path::Kept => habits.kept_is_served(),
            Standing::Proving(_) => habits.fresh_is_served(origin, attempt.asked_on_kept, now_ms),
            Standing::Unproven if self.request.has_stand_in() && status < 400 => {
                habits.serves_unasked(&attempt.handshake.request().demand_key(), now_ms);
            }
            _ => {}
        }
    }

    /// The upstream has answered the request itself.
    fn verdict(&mut self, status: u16, client: &mut Client, context: &Context) {
        let Some(attempt) = &self.attempt else { return };
        match std::mem::replace(&mut self.standing, Standing::Settled) {
            Standing::Settled => return,
            Standing::Unproven => {}
            Standing::Proving(ticket) => {
                ticket.settle(context.now_ms(), Answer::Status(status));
                attempt.hop.metrics.phase(Phase::Authenticate, context.now_us - self.phase_us);
            }
        }
        attempt.hop.upstream.health.succeeded();
        self.count(Outcome::Established, client, context);
    }

    /// An answer that the client cannot have: its status line may tell all the same what has become of the AUTHENTICATE_MESSAGE.
    fn settle_unread(&mut self, heard: &[u8], context: &Context) {
        self.settle(context, verdict::unread(heard));
    }

    fn settle(&mut self, context: &Context, answer: Answer) {
        if let Standing::Proving(ticket) = std::mem::replace(&mut self.standing, Standing::Settled) {
            ticket.settle(context.now_ms(), answer);
        }
    }

    /// Writes down how the handshake went.
    pub(super) fn count(&self, outcome: Outcome, client: &mut Client, context: &Context) {
        if let Some(attempt) = &self.attempt {
            Authenticate::write_down(attempt, outcome, client, context);
        }
    }

    /// Whether the request may go out on another connection, as far as the handshake is concerned: one that was kept may be outdated, which
    /// the next is not, and an upstream that was thought to ask for no proof may ask for one after all.
    fn may_be_sent_again(&self) -> bool {
        let Some(attempt) = &self.attempt else { return false };
        attempt.path == Path::Kept
            || (matches!(self.standing, Standing::Unproven) && attempt.handshake.may_begin_again())
    }
}
