//! A body that is not sent with its head, because it is not known whether the upstream asks for credentials for the
//! destination.
//!
//! If the upstream answers 407, the request is repeated with credentials. To an upstream that has answered lately, a
//! short body is sent at once and kept until the answer, as browsers do. A longer one is held back until the upstream
//! has answered. If it does not answer for a while, either it asks for no credentials, or it reads the body before it
//! asks. An upstream that is known to ask first gets the body. For any other, a request with an empty body finds out;
//! an upstream that asks for no credentials may carry that request out.

use super::Exchange;
use crate::fault::{At, Cause, Fault};
use crate::forward::BodyPump;
use crate::http::BodyFraming;
use crate::limits;
use crate::session::attempt::Attempt;
use crate::session::cx::Cx;
use crate::session::stage::Step;
use crate::session::transition::{Connecting, Transition};

/// How the request's body goes to the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestBody {
    /// As it arrives.
    Streams,
    /// Not yet.
    Waits,
    /// As soon as all of it has arrived.
    Gathers,
    /// It was sent. Its bytes, this many, are still at the front of what came from the client.
    Kept(usize),
}

impl Exchange {
    /// Holds the body back; a short one only until all of it has arrived, if `short_may_go`.
    pub(super) fn hold_body(&mut self, short_may_go: bool) {
        self.body = match self.short_body() {
            Some(_) if short_may_go => RequestBody::Gathers,
            _ => RequestBody::Waits,
        };
        self.up.hold_body();
    }

    /// Whether nothing of the body is sent yet.
    pub(super) fn is_body_held(&self) -> bool {
        matches!(self.body, RequestBody::Waits | RequestBody::Gathers)
    }

    /// The upstream wants more than the head.
    pub(super) fn let_body_go(&mut self) {
        match (self.body, self.short_body()) {
            (RequestBody::Waits, Some(_)) => self.body = RequestBody::Gathers,
            (RequestBody::Waits, None) => self.stream_body(),
            _ => {}
        }
    }

    fn stream_body(&mut self) {
        self.body = RequestBody::Streams;
        self.up.set_body(self.request.pump());
    }

    /// Whether part of the body may have reached the upstream.
    pub(super) fn body_has_begun(&self) -> bool {
        self.up.has_begun() || matches!(self.body, RequestBody::Kept(_))
    }

    /// The answer has come: the body will not be needed again.
    pub(super) fn forget_body(&mut self) {
        if let RequestBody::Kept(length) = std::mem::replace(&mut self.body, RequestBody::Streams) {
            self.from_client.drain(..length);
        }
    }

    /// Sends a short body once all of it has arrived.
    pub(super) fn gather_body(&mut self, cx: &mut Cx<'_>) -> Result<(), Fault> {
        let Some(length) = self.short_body().filter(|_| self.body == RequestBody::Gathers) else { return Ok(()) };
        while self.from_client.len() < length && cx.client.endpoint.ready.readable() {
            let room = (length - self.from_client.len()).min(cx.shard.scratch.len());
            match cx.client.endpoint.read(&mut cx.shard.scratch[..room]) {
                Ok(None) => break,
                Ok(Some(0)) => return Err(At::Reply.fault(Cause::ClientGone, super::ENDED_BEFORE_BODY)),
                Ok(Some(count)) => self.from_client.extend_from_slice(&cx.shard.scratch[..count]),
                Err(error) => return Err(Fault::downstream_io(At::Reply, &error)),
            }
        }
        if let Some(body) = self.from_client.get(..length) {
            self.up.out.extend_from_slice(body);
            self.up.set_body(BodyPump::same(BodyFraming::None));
            self.body = RequestBody::Kept(length);
        }
        Ok(())
    }

    /// The length of a body that is short enough to be kept.
    pub(super) fn short_body(&self) -> Option<usize> {
        match self.request.framing() {
            BodyFraming::Length(length) => {
                usize::try_from(length).ok().filter(|length| *length <= limits::BUFFERED_BODY_BYTES)
            }
            _ => None,
        }
    }

    /// The upstream has not answered the head alone.
    pub(super) fn held_long_enough(mut self: Box<Self>, cx: &mut Cx<'_>) -> Step<Box<Self>> {
        // Part of an answer has come: the origin may have carried the request out.
        let (now_ms, has_heard) = (cx.now_ms(), self.has_heard);
        let asks_nobody = |attempt: &Attempt| {
            has_heard || !attempt.handshake.is_trial() || attempt.hop.habits.challenges_before_body(now_ms)
        };
        let Some(mut attempt) = self.attempt.take_if(|attempt| !asks_nobody(attempt)) else {
            match (self.body, self.short_body()) {
                (RequestBody::Waits, Some(_)) => self.body = RequestBody::Gathers,
                _ => self.stream_body(),
            }
            self.wait_for(self.waits_for(), cx);
            // No event will step it.
            return Step::Yield(self);
        };
        attempt.leftover = std::mem::take(&mut self.from_client);
        attempt.handshake.ask_at_once();
        Step::Go(Transition::Connect(Connecting::Upstream(attempt)))
    }
}
