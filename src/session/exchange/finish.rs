//! How an exchange ends: with its answer, as a tunnel, on another connection, or with a fault.

use std::sync::Arc;

use super::{Exchange, Standing};
use crate::event::Key;
use crate::fault::{Cause, Culprit, Fault};
use crate::pool::Orphan;
use crate::session::dial::{Attempt, Dial};
use crate::session::linger::Linger;
use crate::session::read_request::{Pinned, ReadRequest};
use crate::session::reply::Reply;
use crate::session::{Client, Context, End, Step};

impl Exchange {
    /// The answer is delivered.
    pub(super) fn over(mut self: Box<Self>, key: Key, client: &mut Client, context: &mut Context) -> Step {
        let Some(answer) = self.answer.take() else {
            return self.end(End::Finished, client, context);
        };
        let whole = self.up.is_read() && self.up.is_flushed() && !self.up_broken;
        let unread = self.may_be_unread(answer.status);
        let reusable = answer.keeps_upstream && whole && !unread && self.from_upstream.is_empty();
        context.metrics.request("http", answer.status);
        self.account(client, context);
        let Exchange { request, attempt, upstream, number, from_client, .. } = *self;
        let proven = attempt.as_ref().is_some_and(|attempt| attempt.is_proven());
        let hop = attempt.map(|attempt| attempt.hop);
        let pins = answer.pins || client.record.pinned;
        let pinned = match hop {
            hop if reusable && pins => Some(Pinned { upstream, number, hop, origin: request.origin().into() }),
            Some(hop) if reusable && proven => {
                let (pools, mut loan) = context.pools();
                pools.keep_alive.put(&hop, upstream, &mut loan);
                None
            }
            _ => None,
        };
        client.record.pinned = pinned.is_some();
        client.record.finish_request(&End::Finished, context.now_us);
        match answer.keeps_client && whole && !context.draining {
            true => ReadRequest::again(from_client, pinned, key, client, context),
            false => Linger::begin(End::Finished, key, client, context),
        }
    }

    /// Whether the upstream may have left a part of the request's body unread. Some would take that for the next client's
    /// request, and others (Squid) close the connection a moment after their answer.
    fn may_be_unread(&self, status: u16) -> bool {
        let is_error_to_long_body = status >= 400 && self.request.has_body() && self.short_body().is_none();
        self.request.has_unexpected_body() || is_error_to_long_body
    }

    /// 101: from here on it is a tunnel.
    pub(super) fn switch(mut self: Box<Self>, client: &mut Client, context: &mut Context) -> Step {
        self.account(client, context);
        client.record.status = 101;
        context.metrics.request("http", 101);
        let answer = self.down.take_unsent();
        let from_client = std::mem::take(&mut self.from_client);
        let Exchange { upstream, from_upstream, .. } = *self;
        Reply::relay(answer, upstream, from_upstream, from_client)
    }

    /// Goes on with another connection; nothing of the body has been taken.
    pub(super) fn again(mut self: Box<Self>, key: Key, client: &mut Client, context: &mut Context) -> Step {
        let Some(mut attempt) = self.attempt.take() else {
            return self.end(End::Finished, client, context);
        };
        attempt.leftover = std::mem::take(&mut self.from_client);
        attempt.choose_first_leg(context.now_ms());
        Dial::anew(*attempt, key, client, context)
    }

    pub(super) fn fail(
        mut self: Box<Self>,
        fault: Fault,
        key: Key,
        client: &mut Client,
        context: &mut Context,
    ) -> Step {
        // Whether the upstream is to blame or its origin cannot be told before another upstream has served the request.
        let of_upstream = fault.cause.culprit() == Culprit::Upstream;
        let is_silent = self.answer.is_none() && !self.interim && self.from_upstream.is_empty();
        let down = self.down.moved();
        let sent = down.copied + down.spliced;
        if self.answer.is_some() && sent > self.before_answer {
            // A part of the answer is out: the client must not take it for the whole.
            client.endpoint.stream.reset_on_close();
            return self.end(context.fault(fault), client, context);
        }
        // Interim answers are delivered whole, before the one that names the fault.
        let mut interim = self.down.take_unsent();
        if self.answer.is_some() {
            interim.truncate(usize::try_from(self.before_answer - sent).unwrap_or(0));
        }
        let repeatable =
            is_silent && !self.body_has_begun() && (self.request.is_idempotent() || self.request.has_body());
        if of_upstream
            && repeatable
            && context.now_ms() < self.attempt.as_ref().map_or(0, |attempt| attempt.until_ms)
            && self.attempt.as_ref().is_some_and(|attempt| attempt.wish.has_next(&attempt.egress))
            && let Some(mut attempt) = self.attempt.take()
        {
            attempt.leftover = std::mem::take(&mut self.from_client);
            self.leave_to_itself(&attempt, context);
            if fault.cause != Cause::ResponseTimeout {
                attempt.failed.push((attempt.member, (&*fault.detail).into()));
            }
            return Dial::elsewhere(*attempt, key, client, context);
        }
        self.account(client, context);
        if let Some(attempt) = self.attempt.take() {
            self.leave_to_itself(&attempt, context);
        }
        Reply::to_fault_behind(interim, fault, client, context)
    }

    pub(super) fn end(mut self: Box<Self>, end: End, client: &mut Client, context: &mut Context) -> Step {
        if let Some(answer) = &self.answer {
            context.metrics.request("http", answer.status);
        }
        self.account(client, context);
        if let Some(attempt) = self.attempt.take() {
            self.leave_to_itself(&attempt, context);
        }
        Step::end(end)
    }

    /// The exchange ends before the upstream has answered. The answer to an AUTHENTICATE_MESSAGE that is out is waited for without the client.
    fn leave_to_itself(mut self: Box<Self>, attempt: &Attempt, context: &mut Context) {
        let Standing::Proving(ticket) = std::mem::replace(&mut self.standing, Standing::Settled) else { return };
        let orphan = Orphan {
            hop: Arc::clone(&attempt.hop),
            unsent: if self.up.has_begun() { Vec::new() } else { self.up.take_unsent() },
            heard: std::mem::take(&mut self.from_upstream),
            upstream: self.upstream,
            ticket,
            until_ms: attempt.until_ms,
        };
        let (pools, mut loan) = context.pools();
        pools.verdict_wait.adopt(orphan, &mut loan);
    }

    /// Counts the bytes, and gives back what was borrowed.
    fn account(&mut self, client: &mut Client, context: &mut Context) {
        let (up, down) = (self.up.moved(), self.down.moved());
        context.metrics.bytes_up(up);
        context.metrics.bytes_down(down);
        client.record.bytes_up += up.copied + up.spliced;
        client.record.bytes_down += down.copied + down.spliced;
        self.up.dismantle(&mut context.pipes);
        self.down.dismantle(&mut context.pipes);
    }

    /// Gives back what was borrowed, because the gateway is shutting down. An answer that lasts to the close must not seem to
    /// have come to its end.
    pub(in crate::session) fn cut(mut self: Box<Self>, client: &mut Client, context: &mut Context) {
        if self.answer.is_some() {
            client.endpoint.stream.reset_on_close();
        }
        self.account(client, context);
    }
}
