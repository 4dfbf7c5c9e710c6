//! How an exchange ends: with its answer, as a tunnel, on another connection, or with a fault.

use std::sync::Arc;

use super::{Exchange, Phase};
use crate::event::EventToken;
use crate::fault::{Cause, Culprit, Fault};
use crate::pool::Orphan;
use crate::relay::Half;
use crate::session::attempt::Attempt;
use crate::session::cx::Cx;
use crate::session::pinned::Pinned;
use crate::session::record::End;
use crate::session::respond;
use crate::session::transition::{AfterAnswer, ClientAnswer, Connecting, Halves, NextRequest, Pending, Transition};

impl Exchange {
    /// The answer is delivered.
    pub(super) fn delivered(mut self: Box<Self>, cx: &mut Cx<'_>) -> Transition {
        let Phase::Answering { answer, .. } = &self.phase else { return self.end(End::Finished, cx) };
        let whole = self.up.is_delivered();
        let unread = self.may_be_unread(answer.status);
        let reusable = answer.keeps_upstream && whole && !unread && self.from_upstream.is_empty();
        let (status, answer_pins, keeps_client) = (answer.status, answer.pins, answer.keeps_client);
        cx.answered(status);
        self.account(cx);
        self.give_back_buffers(cx);
        let Exchange { request, attempt, upstream, number, from_client, .. } = *self;
        let original = request.original();
        let authenticated = attempt.as_ref().is_some_and(|attempt| attempt.is_authenticated());
        let hop = attempt.map(|attempt| attempt.hop);
        let pins = answer_pins || cx.client.record.pinned;
        let pinned = match hop {
            hop if reusable && pins => {
                Some(Box::new(Pinned { upstream, number, hop, origin: request.origin().into() }))
            }
            Some(hop) if reusable && authenticated => {
                let (pools, mut loan) = cx.shard.pools();
                let token = EventToken::upstream(cx.key, number);
                pools.keep_alive.put(&hop, upstream, token, &mut cx.client.parked, &mut loan);
                None
            }
            _ => None,
        };
        cx.client.record.pinned = pinned.is_some();
        cx.client.record.finish_request(cx.shard.now_us());
        match keeps_client && whole && !cx.shard.draining {
            true => Transition::ReadRequest(NextRequest { held: from_client, pinned, original }),
            false => Transition::Linger(End::Finished),
        }
    }

    /// Whether the upstream may have left a part of the request's body unread. Some would take that for the next
    /// client's request, and others (Squid) close the connection a moment after their answer.
    fn may_be_unread(&self, status: u16) -> bool {
        let is_error_to_long_body = status >= 400 && self.request.has_body() && self.short_body().is_none();
        self.request.has_unexpected_body() || is_error_to_long_body
    }

    /// 101: from here on it is a tunnel (RFC 9110 §7.8).
    pub(super) fn switch_protocols(mut self: Box<Self>, cx: &mut Cx<'_>) -> Transition {
        self.account(cx);
        cx.answered(101);
        cx.client.record.let_request_go();
        let bytes = self.down.take_unsent();
        let Exchange { upstream, from_upstream, from_client, .. } = *self;
        let halves = Halves { upstream, up: Half::new(from_client), down: Half::new(from_upstream) };
        Transition::Reply(ClientAnswer { bytes, then: AfterAnswer::Relay(halves) })
    }

    /// Sends the request on another connection; nothing of its body has been used up.
    pub(super) fn send_again(mut self: Box<Self>, cx: &mut Cx<'_>) -> Transition {
        let Some(mut attempt) = self.attempt.take() else { return self.end(End::Finished, cx) };
        attempt.leftover = std::mem::take(&mut self.from_client);
        attempt.choose_first_leg(cx.now_ms());
        Transition::Connect(Connecting::Upstream(attempt))
    }

    /// Something failed: the request is sent through another upstream if it may be, and else the client is told.
    pub(super) fn fail(mut self: Box<Self>, fault: Fault, cx: &mut Cx<'_>) -> Transition {
        let down = self.down.moved();
        let sent = down.copied + down.spliced;
        // Interim answers are delivered whole, before the one that names the fault.
        let mut interim = Vec::new();
        match &self.phase {
            Phase::Answering { before_bytes, .. } if sent > *before_bytes => {
                // A part of the answer is out: the client must not take it for the whole.
                cx.client.endpoint.stream.reset_on_close();
                let end = cx.end_by(fault);
                return self.end(end, cx);
            }
            Phase::Answering { before_bytes, .. } => {
                interim = self.down.take_unsent();
                interim.truncate(usize::try_from(before_bytes - sent).unwrap_or(0));
            }
            Phase::Awaiting(_) => {}
        }
        if let Some(mut attempt) = self.take_attempt_for_next(&fault, cx) {
            attempt.leftover = std::mem::take(&mut self.from_client);
            self.await_verdict_alone(&attempt, cx);
            if fault.cause != Cause::ResponseTimeout {
                attempt.failed.push((Arc::clone(&attempt.hop.upstream), (&*fault.detail).into()));
            }
            return Transition::Connect(Connecting::NextUpstream(attempt));
        }
        if self.awaiting().is_some() {
            interim = self.down.take_unsent();
        }
        self.account(cx);
        if let Some(attempt) = self.attempt.take() {
            self.await_verdict_alone(&attempt, cx);
        }
        respond::failed_after(interim, fault, cx)
    }

    /// The attempt, if another upstream may get the request: whether this one is to blame or its origin shows only
    /// then.
    fn take_attempt_for_next(&mut self, fault: &Fault, cx: &Cx<'_>) -> Option<Box<Attempt>> {
        let is_silent = self.awaiting().is_some() && !self.has_interim() && self.from_upstream.is_empty();
        let repeatable = is_silent && !self.body_has_begun() && (self.request.is_idempotent() || self.is_unseen());
        let may_go = fault.cause.culprit() == Culprit::Upstream && repeatable;
        self.attempt.take_if(|attempt| may_go && cx.now_ms() < attempt.until_ms && attempt.has_next())
    }

    /// Ends the session.
    pub(super) fn end(mut self: Box<Self>, end: End, cx: &mut Cx<'_>) -> Transition {
        if let Phase::Answering { answer, .. } = &self.phase {
            cx.answered(answer.status);
        }
        self.account(cx);
        if let Some(attempt) = self.attempt.take() {
            self.await_verdict_alone(&attempt, cx);
        }
        Transition::End(end)
    }

    /// The exchange ends before the upstream has answered. The verdict on an AUTHENTICATE_MESSAGE that was sent is
    /// waited for without the client.
    fn await_verdict_alone(mut self: Box<Self>, attempt: &Attempt, cx: &mut Cx<'_>) {
        let Phase::Awaiting(awaiting) = &mut self.phase else { return };
        let Pending::Verdict(ticket) = std::mem::replace(&mut awaiting.pending, Pending::Nothing) else { return };
        let orphan = Orphan {
            hop: Arc::clone(&attempt.hop),
            unsent: if self.up.has_begun() { Vec::new() } else { self.up.take_unsent() },
            heard: std::mem::take(&mut self.from_upstream),
            upstream: self.upstream,
            ticket,
            until_ms: attempt.until_ms,
        };
        let (pools, mut loan) = cx.shard.pools();
        pools.verdict_wait.adopt(orphan, &mut loan);
    }

    /// Counts the bytes, and gives back what was borrowed.
    pub(super) fn account(&mut self, cx: &mut Cx<'_>) {
        cx.exchanged(self.up.moved(), self.down.moved());
        self.up.dismantle(&mut cx.shard.pipes);
        self.down.dismantle(&mut cx.shard.pipes);
    }
}
