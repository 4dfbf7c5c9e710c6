//! Reading the upstream's heads until the answer's own, and the verdict on the logon among them.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::interpret::{Heard, interpret};
use super::{Awaiting, Exchange, Phase, Work};
use crate::egress::logon_verdict;
use crate::event::take_front;
use crate::fault::{At, Cause, Fault, TLS_EXPECTED};
use crate::forward::BodyPump;
use crate::http::{self, BodyFraming, HeadEnd, HeadRead, ResponseHead};
use crate::limits;
use crate::session::connection_source::ConnectionSource;
use crate::session::cx::Cx;
use crate::session::transition::Pending;
use crate::upstream::Answer;

const NOT_REPEATABLE: &str = "the upstream asks for authentication in the middle of a request that cannot be repeated";

impl Exchange {
    /// Reads heads until the answer's own; `None` when there is nothing more to read now or the body can follow.
    pub(super) fn listen(&mut self, cx: &mut Cx<'_>) -> Option<Work> {
        // The client gets all of an interim answer or nothing, also if what comes next sends the request to another
        // connection.
        if self.client_comes_first() {
            return None;
        }
        let mut reads_left = limits::READS_PER_TURN;
        loop {
            match self.hear(cx) {
                ControlFlow::Break(work) => return Some(work),
                ControlFlow::Continue(true) if self.awaiting().is_none() || self.client_comes_first() => return None,
                ControlFlow::Continue(true) => continue,
                ControlFlow::Continue(false) => {}
            }
            if !self.upstream.ready.readable() {
                return None;
            }
            if reads_left == 0 {
                return Some(Work::Yield);
            }
            reads_left -= 1;
            match self.upstream.read(cx.shard.head_scratch()) {
                Ok(None) => return None,
                Ok(Some(0)) => return Some(self.closed(None, cx)),
                Ok(Some(count)) => {
                    self.has_heard = true;
                    cx.shard.spare_buffers.lend(&mut self.from_upstream);
                    self.from_upstream.extend_from_slice(&cx.shard.scratch[..count]);
                }
                Err(error) => return Some(self.closed(Some(error), cx)),
            }
        }
    }

    /// Acts on the next head if it has come whole, and returns whether it has.
    fn hear(&mut self, cx: &mut Cx<'_>) -> ControlFlow<Work, bool> {
        let Phase::Awaiting(Awaiting { head_end, .. }) = &mut self.phase else { return ControlFlow::Continue(false) };
        if self.from_upstream.is_empty() {
            return ControlFlow::Continue(false);
        }
        let mut end = std::mem::replace(head_end, HeadEnd::response());
        let mut bytes = std::mem::take(&mut self.from_upstream);
        let (head_limit, field_limit) = (cx.shard.settings.head_limit_bytes, cx.shard.settings.field_limit);
        let look = |head: &ResponseHead<'_>, length| self.heard(head, length, cx);
        match http::read_response_head(&mut end, &bytes, head_limit, field_limit, look) {
            Ok(None) => {
                self.from_upstream = bytes;
                if let Phase::Awaiting(awaiting) = &mut self.phase {
                    awaiting.head_end = end;
                }
                ControlFlow::Continue(false)
            }
            Ok(Some(HeadRead { length, outcome })) => {
                let heard = outcome.map_err(|error| Fault::malformed_response(At::Reply, &error)).flatten();
                let work = heard.unwrap_or_else(|fault| {
                    self.settle(logon_verdict::unread(&bytes[..length]), cx);
                    Some(Work::Fail(fault))
                });
                take_front(&mut bytes, length);
                self.from_upstream = bytes;
                self.down.trim();
                work.map_or(ControlFlow::Continue(true), ControlFlow::Break)
            }
            Err(error) => {
                self.settle(logon_verdict::unread(&bytes), cx);
                ControlFlow::Break(Work::Fail(At::Reply.fault(Cause::ResponseHeadTooLarge, error.to_string())))
            }
        }
    }

    /// Whether nothing more is read until the client has read: it gets an interim answer whole before the next head is
    /// looked at, and those that wait for it must not grow without end.
    pub(super) fn client_comes_first(&self) -> bool {
        self.down.is_amid_delivery() || self.down.unsent_bytes() > limits::INTERIM_UNSENT_BYTES
    }

    /// The connection ended before the answer. One that was kept may have been closed before the request reached it:
    /// then the request is sent again, unless it may have been carried out and must not be twice (RFC 9110 §9.2.2).
    pub(super) fn closed(&mut self, error: Option<io::Error>, cx: &Cx<'_>) -> Work {
        let unheard = !self.has_heard && !self.body_has_begun();
        let repeatable = self.request.is_idempotent() || self.is_unseen();
        let is_unasked = matches!(self.awaiting(), Some(Awaiting { pending: Pending::Demand, .. }));
        let again = match &mut self.attempt {
            Some(attempt) => {
                if is_unasked {
                    attempt.may_have_demanded(cx);
                }
                unheard
                    && repeatable
                    && match is_unasked {
                        // With what the handshake makes of it.
                        true => attempt.handshake.closed().is_ok(),
                        false => attempt.source != ConnectionSource::Cold,
                    }
            }
            None => false,
        };
        let heard = std::mem::take(&mut self.from_upstream);
        self.settle(logon_verdict::cut_off(&heard), cx);
        if again {
            return Work::SendAgain;
        }
        Work::Fail(match error {
            _ if http::is_tls_record(&heard) => At::Reply.fault(Cause::TlsExpected, TLS_EXPECTED),
            Some(error) => Fault::upstream_io(At::Reply, &error),
            None => At::Reply.fault(Cause::UpstreamClosed, "the upstream closed the connection without an answer"),
        })
    }

    /// Acts on one head, of this length.
    ///
    /// # Errors
    /// The answer is malformed.
    fn heard(&mut self, head: &ResponseHead<'_>, length: usize, cx: &mut Cx<'_>) -> Result<Option<Work>, Fault> {
        let may_keep = self.request.client_keeps_alive()
            && !cx.shard.draining
            && self.up.is_read()
            && self.up.is_flushed()
            && cx.client.record.requests < limits::REQUESTS_PER_CONNECTION;
        cx.shard.spare_buffers.lend(&mut self.down.out);
        let (before_bytes, before_len) = (self.down.promised(), self.down.out.len());
        let options = cx.shard.settings.forward_options();
        let heard = interpret(head, &self.request, &options, may_keep, &mut self.down.out)?;
        if let Heard::Final(_) | Heard::Switching = heard
            && let Err(fault) = self.check_upstream(head)
        {
            // The client must get nothing of the answer, because it is not known who has sent it.
            self.down.out.truncate(before_len);
            return Ok(Some(Work::Fail(fault)));
        }
        Ok(match heard {
            Heard::Interim => self.interim(length, cx),
            Heard::Switching => Some(self.switching(cx)),
            Heard::Demand { rechallenge, line } => Some(self.demanded(head, rechallenge, &line, cx)),
            Heard::Final(mut answer) => {
                self.forget_body();
                self.answered(answer.status, cx);
                if answer.status < 400
                    && let Some(attempt) = &mut self.attempt
                {
                    attempt.served_after_failures(cx);
                }
                let pump = std::mem::replace(&mut answer.pump, BodyPump::same(BodyFraming::None));
                self.down.set_body(pump);
                self.phase = Phase::Answering { answer, before_bytes };
                None
            }
        })
    }

    /// A 1xx is no verdict: some proxies ask for the body before they look at the credentials.
    fn interim(&mut self, bytes: usize, cx: &Cx<'_>) -> Option<Work> {
        self.let_body_go();
        let Phase::Awaiting(awaiting) = &mut self.phase else { return None };
        awaiting.interim_bytes += bytes;
        (awaiting.interim_bytes > cx.shard.settings.head_limit_bytes).then(|| {
            Work::Fail(At::Reply.fault(Cause::InterimTooLarge, "the upstream's 1xx answers are too long together"))
        })
    }

    fn switching(&mut self, cx: &mut Cx<'_>) -> Work {
        self.forget_body();
        self.granted(101, cx);
        match self.up.is_read() && self.up.is_flushed() {
            true => Work::SwitchProtocols,
            false => {
                Work::Fail(At::Reply.fault(
                    Cause::ResponseMalformed,
                    "the upstream switches protocols before it has the request's body",
                ))
            }
        }
    }

    /// Checks the upstream's own token in the head of its answer, if the handshake calls for it.
    fn check_upstream(&self, head: &ResponseHead<'_>) -> Result<(), Fault> {
        self.attempt.as_ref().map_or(Ok(()), |attempt| attempt.handshake.check_answer(head))
    }

    /// Another token might be accepted, but the body is gone.
    fn token_refused_too_late(&self) -> Fault {
        let choice = self.attempt.as_ref().and_then(|attempt| attempt.handshake.choice());
        let fallback = choice.and_then(|choice| choice.fallback().map(|fallback| Arc::clone(&fallback.why)));
        let why = fallback.as_deref().unwrap_or("the upstream refused the Kerberos token");
        let detail = format!("{why}; the request cannot be repeated, because a part of its body has been sent");
        At::Reply.fault(Cause::Reauthentication, detail)
    }

    /// A 407: the verdict on our AUTHENTICATE_MESSAGE, or the end of a connection's authentication.
    fn demanded(&mut self, head: &ResponseHead<'_>, rechallenge: bool, line: &str, cx: &mut Cx<'_>) -> Work {
        let (has_begun, is_held) = (self.up.has_begun(), self.is_body_held());
        let pending = self.take_pending();
        let Some(attempt) = &mut self.attempt else {
            return Work::Fail(
                At::Reply.fault(Cause::ResponseMalformed, "the origin answers 407, which is a proxy's to say"),
            );
        };
        attempt.demanded(has_begun, is_held, cx);
        let Pending::Verdict(ticket) = pending else {
            attempt.asked_again();
            if matches!(pending, Pending::Demand) && attempt.handshake.awaits_verdict_on_ticket() {
                if let Err(fault) = attempt.handshake.token_was_refused(head) {
                    return Work::Fail(fault);
                }
                return match has_begun {
                    false => Work::SendAgain,
                    true => Work::Fail(self.token_refused_too_late()),
                };
            }
            // A kept connection may be outdated, which the next is not; and an upstream that was thought to ask for no
            // credentials may ask for some after all.
            let may_be_sent_again = attempt.source == ConnectionSource::Kept
                || (matches!(pending, Pending::Demand) && attempt.handshake.may_begin_again());
            return match may_be_sent_again && !has_begun {
                true => Work::SendAgain,
                false => Work::Fail(At::Reply.fault(Cause::Reauthentication, NOT_REPEATABLE)),
            };
        };
        let stale = rechallenge && attempt.source == ConnectionSource::Warm;
        attempt.logon_refused(ticket, rechallenge, stale, cx);
        if stale && !has_begun {
            return Work::SendAgain;
        }
        attempt.exchange_refused(cx);
        let detail = format!("the upstream refused the credentials: {line}");
        let fault = attempt.handshake.explained(At::Reply.fault(Cause::CredentialsRefused, detail));
        match attempt.other_secret().filter(|_| !has_begun) {
            Some(other) => {
                attempt.fall_back_to(&other, fault, cx);
                Work::SendAgain
            }
            None => Work::Fail(fault),
        }
    }

    /// The final answer has come.
    fn answered(&mut self, status: u16, cx: &mut Cx<'_>) {
        let has_stand_in = self.request.has_stand_in();
        if let (Some(attempt), Phase::Awaiting(awaiting)) = (&self.attempt, &self.phase) {
            attempt.served(status, &awaiting.pending, has_stand_in, cx);
        }
        self.granted(status, cx);
        cx.answers_with(status);
    }

    /// The upstream has answered the request itself.
    fn granted(&mut self, status: u16, cx: &mut Cx<'_>) {
        let pending = self.take_pending();
        if let Some(attempt) = &self.attempt {
            attempt.exchange_answered(status, pending, self.began_us, cx);
        }
    }

    fn take_pending(&mut self) -> Pending {
        match &mut self.phase {
            Phase::Awaiting(awaiting) => std::mem::replace(&mut awaiting.pending, Pending::Nothing),
            Phase::Answering { .. } => Pending::Nothing,
        }
    }

    fn settle(&mut self, answer: Answer, cx: &Cx<'_>) {
        self.take_pending().settle(answer, cx);
    }
}
