//! Plain HTTP: one request of a client and its answer, on an upstream connection that may have served others before.
//!
//! ```text
//!   kept ──────────────────────────────┐
//!   warm ── AUTHENTICATE_MESSAGE ──────┤                    ┌──▶ kept
//!   cold ── NEGOTIATE, AUTHENTICATE ───┼──▶ Exchange ───────┼──▶ the client's next request
//!   straight to the origin ────────────┘        │           └──▶ closed
//!                                               └── 101 ──▶ Relay
//! ```
//!
//! Both directions go on at the same time: an answer may come before the request's body has ended.

mod deadline;
mod finish;
mod flow;
mod held_body;
mod interpret;
mod response;

use std::sync::Arc;

use super::dial::Attempt;
use super::{Client, Context, Stage, Step};
use crate::event::{Endpoint, Key, Readiness};
use crate::fault::{At, Cause, Fault};
use crate::forward::{BodyError, ForwardRequest, HeadPurpose};
use crate::http::HeadEnd;
use crate::limits;
use crate::relay::RelayError;
use crate::upstream::Ticket;
use deadline::Waits;
use flow::{BUDGET_BYTES, Flow, FlowError, FlowTurn};
use held_body::RequestBody;
use interpret::Final;

/// One request and its answer.
#[derive(Debug)]
pub(super) struct Exchange {
    request: Arc<ForwardRequest>,
    /// The way through an upstream; `None` straight to the origin.
    attempt: Option<Box<Attempt>>,
    upstream: Endpoint,
    number: u8,
    /// Came from the client and was not used: the body, then the next request.
    from_client: Vec<u8>,
    /// Came from the upstream and was not used.
    from_upstream: Vec<u8>,
    up: Flow,
    /// The upstream takes nothing more; its answer may be there all the same.
    up_broken: bool,
    down: Flow,
    head_end: HeadEnd,
    body: RequestBody,
    /// Whether there were interim answers, and how long they were together.
    interim: bool,
    interim_bytes: usize,
    answer: Option<Final>,
    /// How much went, or will go, to the client before the answer: interim answers.
    before_answer: u64,
    standing: Standing,
    /// When the present phase began, in µs.
    phase_us: u64,
    /// What the deadline waits for, and what has moved since it was set.
    waits: Waits,
    moved_at_wait: u64,
}

/// What the upstream's answer says about the handshake.
#[derive(Debug)]
pub(super) enum Standing {
    /// Nothing: it is over, or there was none.
    Settled,
    /// Whether the AUTHENTICATE_MESSAGE that is out, with this right to it, is accepted.
    Proving(Ticket),
    /// Whether the upstream does without a proof.
    Unproven,
}

/// What to do after a step.
enum Then {
    Wait,
    Yield,
    Over,
    Switch,
    Fail(Fault),
    /// On a fresh connection.
    Again,
}

/// An upstream connection that the request has been, or is about to be, sent on as its handshake demands.
pub(super) struct Connected {
    pub attempt: Attempt,
    pub upstream: Endpoint,
    /// What of the request's head is still to be sent.
    pub out: Vec<u8>,
    /// What came behind the handshake.
    pub from_upstream: Vec<u8>,
    pub standing: Standing,
}

impl Exchange {
    /// On a connection whose last answer has been read to its end.
    pub(super) fn on_kept(
        attempt: Attempt,
        request: Arc<ForwardRequest>,
        upstream: Endpoint,
        key: Key,
        client: &mut Client,
        context: &mut Context,
    ) -> Step {
        let mut out = Vec::with_capacity(1024);
        request.write_head(&mut out, None, HeadPurpose::Answer);
        let connected = Connected { attempt, upstream, out, from_upstream: Vec::new(), standing: Standing::Settled };
        Exchange::begin(request, connected, key, client, context)
    }

    /// After the legs of a handshake.
    pub(super) fn begin(
        request: Arc<ForwardRequest>,
        connected: Connected,
        key: Key,
        client: &mut Client,
        context: &mut Context,
    ) -> Step {
        let Connected { mut attempt, upstream, out, from_upstream, standing } = connected;
        let mut exchange = Exchange::new(request, upstream, attempt.number, out, context);
        let is_unproven = matches!(standing, Standing::Unproven);
        let is_kept = is_unproven && exchange.short_body().is_some();
        if exchange.request.has_body() && (is_kept || attempt.handshake.is_trial()) {
            // A mute upstream must not get what cannot be sent to the next one.
            let may_go = !attempt.handshake.is_trial() || attempt.hop.habits.is_heard_of(context.now_ms());
            exchange.hold_body(may_go);
        }
        exchange.from_client = std::mem::take(&mut attempt.leftover);
        exchange.attempt = Some(Box::new(attempt));
        (exchange.from_upstream, exchange.standing) = (from_upstream, standing);
        exchange.set_out(key, client, context)
    }

    /// Straight to the origin.
    pub(super) fn straight(
        request: Arc<ForwardRequest>,
        upstream: Endpoint,
        number: u8,
        from_client: Vec<u8>,
        key: Key,
        client: &mut Client,
        context: &mut Context,
    ) -> Step {
        let mut out = Vec::with_capacity(1024);
        request.write_origin_head(&mut out);
        let mut exchange = Exchange::new(request, upstream, number, out, context);
        exchange.from_client = from_client;
        exchange.set_out(key, client, context)
    }

    fn new(request: Arc<ForwardRequest>, upstream: Endpoint, number: u8, out: Vec<u8>, context: &Context) -> Box<Self> {
        let up = Flow::new(out, Some(request.pump()));
        Box::new(Exchange {
            request,
            attempt: None,
            upstream,
            number,
            from_client: Vec::new(),
            from_upstream: Vec::new(),
            up,
            up_broken: false,
            down: Flow::new(Vec::new(), None),
            head_end: HeadEnd::response(),
            body: RequestBody::Streams,
            interim: false,
            interim_bytes: 0,
            answer: None,
            before_answer: 0,
            standing: Standing::Settled,
            phase_us: context.now_us,
            waits: Waits::Unset,
            moved_at_wait: 0,
        })
    }

    fn set_out(mut self: Box<Self>, key: Key, client: &mut Client, context: &mut Context) -> Step {
        self.wait_for(self.waits_for(), key, client, context);
        Step::Go(Stage::Exchange(self))
    }

    /// What its buffers take, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        let of_attempt = self.attempt.as_ref().map_or(0, |attempt| attempt.leftover.capacity());
        let held = self.from_client.capacity() + self.from_upstream.capacity() + of_attempt;
        held + self.request.held_bytes() + self.up.held_bytes() + self.down.held_bytes()
    }

    pub(super) fn endpoint(&mut self, number: u8) -> Option<&mut Endpoint> {
        (self.number == number).then_some(&mut self.upstream)
    }

    pub(super) fn step(mut self: Box<Self>, key: Key, client: &mut Client, context: &mut Context) -> Step {
        if client.endpoint.ready.reset() {
            let fault = fault(Cause::ClientGone, "the client reset its connection");
            return self.end(context.fault(fault), client, context);
        }
        match self.work(client, context) {
            Then::Wait => {
                self.restart_deadline(key, client, context);
                Step::Wait(Stage::Exchange(self))
            }
            Then::Yield => Step::Yield(Stage::Exchange(self)),
            Then::Over => self.over(key, client, context),
            Then::Switch => self.switch(client, context),
            Then::Fail(fault) => self.fail(fault, key, client, context),
            Then::Again => self.again(key, client, context),
        }
    }

    pub(super) fn expired(mut self: Box<Self>, key: Key, client: &mut Client, context: &mut Context) -> Step {
        if self.waits == Waits::ForDemand {
            return self.held_long_enough(key, client, context);
        }
        // A way that never waits sets no deadline anew, so that what moved since is looked at here.
        let moved = self.all_moved() - self.moved_at_wait;
        let floor_bytes = if self.waits == Waits::ForClient { limits::BODY_PROGRESS_BYTES } else { 1 };
        if moved >= floor_bytes {
            self.wait_for(self.waits_for(), key, client, context);
            return Step::Wait(Stage::Exchange(self));
        }
        let fault = match self.waits {
            Waits::ForClient => fault(Cause::BodyTimeout, "the client sends its body, or reads its answer, too slowly"),
            Waits::ForAnswer | Waits::ForDemand | Waits::Unset => {
                fault(Cause::ResponseTimeout, "the upstream did not answer in time")
            }
            Waits::ForMore => fault(Cause::ResponseTimeout, "the upstream did not go on with its answer"),
        };
        self.fail(fault, key, client, context)
    }

    /// Moves what can be moved, each way within its budget.
    fn work(&mut self, client: &mut Client, context: &mut Context) -> Then {
        if let Err(then) = self.gather_body(client, context) {
            return then;
        }
        let was_held = self.body == RequestBody::Waits;
        let mut broken = None;
        let up = match self.up_broken {
            true => Ok(FlowTurn::Done),
            false => {
                let mut resources = context.relay_resources();
                let (from, held, to) = (&mut client.endpoint, &mut self.from_client, &mut self.upstream);
                self.up.pump(from, held, to, &mut resources, &mut { BUDGET_BYTES })
            }
        };
        let up = match up {
            Ok(turn) => turn,
            // The answer may say why it takes no more.
            Err(FlowError::Relay(RelayError::Destination(error))) => {
                self.up_broken = true;
                // What has come is read before the connection is given up; its event may not have been heard yet.
                self.upstream.ready.learn(Readiness::HOPEFUL);
                broken = Some(error);
                FlowTurn::Done
            }
            Err(FlowError::Relay(RelayError::Source(error))) => {
                return Then::Fail(Fault::downstream_io(At::Reply, &error));
            }
            Err(FlowError::Body(BodyError::Truncated)) => {
                return Then::Fail(fault(Cause::ClientGone, ENDED_BEFORE_BODY));
            }
            Err(FlowError::Body(error)) => {
                let detail = format!("the body of the client's request: {error}");
                return Then::Fail(fault(Cause::RequestMalformed, detail));
            }
        };
        if self.answer.is_none()
            && let Some(then) = self.listen(client, context)
        {
            return then;
        }
        if was_held && self.body != RequestBody::Waits {
            // What has come of it brings no further event.
            return Then::Yield;
        }
        if broken.is_some() && self.answer.is_none() && !self.upstream.ready.readable() {
            return self.closed(broken, context);
        }
        let held_back = self.answer.is_none() && self.client_comes_first();
        let mut resources = context.relay_resources();
        let (from, held, to) = (&mut self.upstream, &mut self.from_upstream, &mut client.endpoint);
        match self.down.pump(from, held, to, &mut resources, &mut { BUDGET_BYTES }) {
            Ok(FlowTurn::Done) => Then::Over,
            Ok(FlowTurn::Yielded) => Then::Yield,
            Ok(_) if up == FlowTurn::Yielded => Then::Yield,
            Ok(_) if held_back && !self.client_comes_first() => Then::Yield,
            Ok(_) => Then::Wait,
            Err(FlowError::Relay(RelayError::Destination(error))) => {
                Then::Fail(Fault::downstream_io(At::Reply, &error))
            }
            Err(FlowError::Relay(RelayError::Source(error))) => Then::Fail(Fault::upstream_io(At::Reply, &error)),
            Err(FlowError::Body(error)) => {
                Then::Fail(fault(Cause::UpstreamClosed, format!("the body of the upstream's answer: {error}")))
            }
        }
    }
}

const ENDED_BEFORE_BODY: &str = "the client ended its connection before its request's body";

fn fault(cause: Cause, detail: impl Into<std::borrow::Cow<'static, str>>) -> Fault {
    Fault::new(At::Reply, cause, detail)
}
