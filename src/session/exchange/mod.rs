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
//!
//! | file | subject |
//! |---|---|
//! | `flow` | one direction: a head, then a body |
//! | `held_body` | a body that waits until the upstream has shown whether it asks for credentials |
//! | `interpret` | what an upstream's head means |
//! | `response` | reading heads until the answer's own |
//! | `finish` | how it ends |
//! | `deadline` | who is waited for, and for how long |

mod deadline;
mod finish;
mod flow;
mod held_body;
mod interpret;
mod response;

use std::sync::Arc;

use super::attempt::Attempt;
use super::context::Context;
use super::cx::Cx;
use super::stage::{StageOps, Step};
use super::transition::{Handover, Opened, Pending};
use crate::fault::{At, Cause, Fault};
use crate::forward::{BodyError, ForwardRequest, HeadPurpose};
use crate::http::HeadEnd;
use crate::relay::RelayError;
use crate::transport::{Endpoint, Readiness};
use deadline::{Deadline, Waits};
use flow::{Flow, FlowError, FlowTurn};
use held_body::RequestBody;
use interpret::Final;

/// One request and its answer.
#[derive(Debug)]
pub(super) struct Exchange {
    request: Arc<ForwardRequest>,
    /// How it goes through an upstream; `None` straight to the origin.
    attempt: Option<Box<Attempt>>,
    upstream: Endpoint,
    number: u8,
    /// Came from the client and was not used: the body, then the next request.
    from_client: Vec<u8>,
    /// Came from the upstream and was not used.
    from_upstream: Vec<u8>,
    up: Flow,
    body: RequestBody,
    down: Flow,
    phase: Phase,
    /// The head went out without credentials, and it is not known whether the upstream asks for them.
    is_trial: bool,
    /// Something has come from the upstream.
    has_heard: bool,
    deadline: Deadline,
    /// When the request was ready to be sent, in µs.
    began_us: u64,
}

/// How far the answer has come.
#[derive(Debug)]
enum Phase {
    /// Its head has not come.
    Awaiting(Awaiting),
    /// It is passed on.
    Answering {
        answer: Final,
        /// How much goes to the client before it, in bytes: interim answers.
        before_bytes: u64,
    },
}

/// Waiting for the answer's head.
#[derive(Debug)]
struct Awaiting {
    head_end: HeadEnd,
    /// The size of the interim answers so far, in bytes.
    interim_bytes: usize,
    pending: Pending,
}

/// What to do after a step.
enum Work {
    Wait,
    Yield,
    Delivered,
    SwitchProtocols,
    Fail(Fault),
    /// On a fresh connection.
    SendAgain,
}

impl Exchange {
    pub(super) fn new(opened: Opened, cx: &mut Cx<'_>) -> Exchange {
        cx.notice_if_it_lasts();
        let mut exchange = match opened {
            Opened::Kept { attempt, request, upstream } => {
                let mut out = cx.shard.spare_buffers.take();
                request.write_head(&mut out, None, HeadPurpose::Answer);
                let (from_upstream, pending) = (Vec::new(), Pending::Nothing);
                Exchange::through(Handover { request, attempt, upstream, out, from_upstream, pending }, cx)
            }
            Opened::Authenticated(handover) => Exchange::through(*handover, cx),
            Opened::Origin { request, upstream, number, leftover } => {
                let mut out = cx.shard.spare_buffers.take();
                request.write_origin_head(&mut out);
                let mut exchange = Exchange::on(request, upstream, number, out, Pending::Nothing, cx);
                exchange.from_client = leftover;
                exchange
            }
        };
        exchange.wait_for(exchange.waits_for(), cx);
        exchange
    }

    /// Through an upstream.
    fn through(handover: Handover, cx: &Cx<'_>) -> Exchange {
        let Handover { request, mut attempt, upstream, out, from_upstream, pending } = handover;
        // From here on the upstream may see something of the request.
        attempt.route = None;
        // With an identity that has two secrets, a refusal is not the end.
        let is_logon = matches!(pending, Pending::Verdict(_)) && attempt.may_be_repeated();
        let may_be_refused = (is_logon && !attempt.is_fresh(cx.now_ms())) || attempt.handshake.is_token_doubtful();
        let is_kept = is_logon || matches!(pending, Pending::Demand);
        let mut exchange = Exchange::on(request, upstream, attempt.number, out, pending, cx);
        let is_kept = is_kept && exchange.short_body().is_some();
        if exchange.request.has_body() && (is_kept || may_be_refused || attempt.handshake.is_trial()) {
            // A silent upstream must not get what cannot be sent to the next one.
            let may_go = !attempt.handshake.is_trial() || attempt.hop.habits.is_responsive(cx.now_ms());
            exchange.hold_body(may_go);
        }
        exchange.from_client = std::mem::take(&mut attempt.leftover);
        exchange.attempt = Some(attempt);
        exchange.has_heard = !from_upstream.is_empty();
        exchange.from_upstream = from_upstream;
        exchange
    }

    fn on(
        request: Arc<ForwardRequest>,
        upstream: Endpoint,
        number: u8,
        out: Vec<u8>,
        pending: Pending,
        cx: &Cx<'_>,
    ) -> Exchange {
        let up = Flow::new(out, Some(request.pump()));
        Exchange {
            request,
            attempt: None,
            upstream,
            number,
            from_client: Vec::new(),
            from_upstream: Vec::new(),
            up,
            body: RequestBody::Streams,
            down: Flow::new(Vec::new(), None),
            is_trial: matches!(pending, Pending::Demand),
            has_heard: false,
            phase: Phase::Awaiting(Awaiting { head_end: HeadEnd::response(), interim_bytes: 0, pending }),
            deadline: Deadline { waits: Waits::Answer, moved_before: 0 },
            began_us: cx.now_us(),
        }
    }

    /// Gives back the buffers that are empty, because an exchange may wait for long.
    fn give_back_buffers(&mut self, cx: &mut Cx<'_>) {
        for buffer in [&mut self.up.out, &mut self.down.out, &mut self.from_upstream] {
            cx.shard.spare_buffers.reclaim(buffer);
        }
    }

    /// The answer's head has not come.
    fn awaiting(&self) -> Option<&Awaiting> {
        match &self.phase {
            Phase::Awaiting(awaiting) => Some(awaiting),
            Phase::Answering { .. } => None,
        }
    }

    /// Whether a request of whose body nothing went out has not reached the origin, as far as can be known. An origin
    /// may answer a head without waiting for the body, and the answer may be lost. An upstream that got no credentials
    /// usually asks for them first.
    fn is_unseen(&self) -> bool {
        self.request.has_body() && self.is_trial && !self.has_heard
    }

    fn has_interim(&self) -> bool {
        self.awaiting().is_some_and(|awaiting| awaiting.interim_bytes > 0)
    }

    /// Moves what can be moved, each way within its budget.
    fn work(&mut self, cx: &mut Cx<'_>) -> Work {
        if let Err(fault) = self.gather_body(cx) {
            return Work::Fail(fault);
        }
        let was_held = self.body == RequestBody::Waits;
        let (up, broken) = match self.pump_up(cx) {
            Ok(outcome) => outcome,
            Err(fault) => return Work::Fail(fault),
        };
        if self.awaiting().is_some()
            && let Some(work) = self.listen(cx)
        {
            return work;
        }
        if was_held && self.body != RequestBody::Waits {
            // What has come of it brings no further event.
            return Work::Yield;
        }
        if broken.is_some() && self.awaiting().is_some() && !self.upstream.ready.readable() {
            return self.closed(broken, cx);
        }
        let held_back = self.awaiting().is_some() && self.client_comes_first();
        let (from, held, to) = (&mut self.upstream, &mut self.from_upstream, &mut cx.client.endpoint);
        match pump_flow(&mut self.down, from, held, to, cx.shard) {
            Ok(FlowTurn::Done) => Work::Delivered,
            Ok(FlowTurn::Yielded) => Work::Yield,
            Ok(_) if up == FlowTurn::Yielded => Work::Yield,
            Ok(_) if held_back && !self.client_comes_first() => Work::Yield,
            Ok(_) => Work::Wait,
            Err(FlowError::Relay(RelayError::Destination(error))) => {
                Work::Fail(Fault::downstream_io(At::Reply, &error))
            }
            Err(FlowError::Relay(RelayError::Source(error))) => Work::Fail(Fault::upstream_io(At::Reply, &error)),
            Err(FlowError::Body(error)) => Work::Fail(
                At::Reply.fault(Cause::UpstreamClosed, format!("the body of the upstream's answer: {error}")),
            ),
        }
    }

    /// Moves what can be moved of the request. Returns with it the error of an upstream that takes no more: its answer
    /// may say why.
    fn pump_up(&mut self, cx: &mut Cx<'_>) -> Result<(FlowTurn, Option<std::io::Error>), Fault> {
        let (from, held, to) = (&mut cx.client.endpoint, &mut self.from_client, &mut self.upstream);
        match pump_flow(&mut self.up, from, held, to, cx.shard) {
            Ok(turn) => Ok((turn, None)),
            Err(FlowError::Relay(RelayError::Destination(error))) => {
                self.up.refuse();
                if error.kind() == std::io::ErrorKind::ConnectionReset {
                    self.down.source_was_reset();
                }
                // What has come is read before the connection is given up; its event may not have been delivered yet.
                self.upstream.ready.learn(Readiness::HOPEFUL);
                Ok((FlowTurn::Done, Some(error)))
            }
            Err(FlowError::Relay(RelayError::Source(error))) => Err(Fault::downstream_io(At::Reply, &error)),
            Err(FlowError::Body(BodyError::Truncated)) => Err(At::Reply.fault(Cause::ClientGone, ENDED_BEFORE_BODY)),
            Err(FlowError::Body(error)) => {
                Err(At::Reply.fault(Cause::RequestMalformed, format!("the body of the client's request: {error}")))
            }
        }
    }
}

impl StageOps for Box<Exchange> {
    fn label(&self) -> &'static str {
        "exchange"
    }

    fn at(&self) -> At {
        At::Reply
    }

    fn held_bytes(&self) -> usize {
        let of_attempt = self.attempt.as_ref().map_or(0, |attempt| attempt.leftover.capacity());
        let held = self.from_client.capacity() + self.from_upstream.capacity() + of_attempt;
        held + self.upstream.held_bytes() + self.request.held_bytes() + self.up.held_bytes() + self.down.held_bytes()
    }

    fn moves_bulk(&self) -> bool {
        self.up.is_bulk() || self.down.is_bulk()
    }

    fn upstream(&mut self, number: u8) -> Option<&mut Endpoint> {
        (self.number == number).then_some(&mut self.upstream)
    }

    fn step(mut self, cx: &mut Cx<'_>) -> Step<Self> {
        if cx.client.endpoint.ready.reset() {
            let end = cx.end_by(At::Reply.fault(Cause::ClientGone, "the client reset its connection"));
            return Step::Go(self.end(end, cx));
        }
        Step::Go(match self.work(cx) {
            Work::Wait => {
                self.restart_deadline(cx);
                self.give_back_buffers(cx);
                return Step::Wait(self);
            }
            Work::Yield => return Step::Yield(self),
            Work::Delivered => self.delivered(cx),
            Work::SwitchProtocols => self.switch_protocols(cx),
            Work::Fail(fault) => self.fail(fault, cx),
            Work::SendAgain => self.send_again(cx),
        })
    }

    fn expired(mut self, cx: &mut Cx<'_>) -> Step<Self> {
        if self.deadline.waits == Waits::Demand {
            return self.held_long_enough(cx);
        }
        if self.has_moved_enough() {
            self.wait_for(self.waits_for(), cx);
            return Step::Wait(self);
        }
        let fault = match self.deadline.waits {
            Waits::Client => {
                At::Reply.fault(Cause::BodyTimeout, "the client sends its body, or reads its answer, too slowly")
            }
            Waits::Answer | Waits::Demand => {
                At::Reply.fault(Cause::ResponseTimeout, "the upstream did not answer in time")
            }
            Waits::More => At::Reply.fault(Cause::ResponseTimeout, "the upstream did not go on with its answer"),
        };
        Step::Go(self.fail(fault, cx))
    }

    /// An answer that lasts to the close must not look complete.
    fn dismantle(mut self, cx: &mut Cx<'_>) -> [u64; 2] {
        if self.awaiting().is_none() {
            cx.client.endpoint.stream.reset_on_close();
        }
        self.account(cx);
        [0, 0]
    }
}

/// Pumps one direction within its budget.
fn pump_flow(
    flow: &mut Flow,
    from: &mut Endpoint,
    held: &mut Vec<u8>,
    to: &mut Endpoint,
    shard: &mut Context,
) -> Result<FlowTurn, FlowError> {
    let (before, was_bulk) = (flow.moved(), flow.is_bulk());
    let mut budget_bytes = shard.bulk_pace.budget_bytes(was_bulk, shard.now_us());
    let turn = flow.pump(from, held, to, &mut shard.relay_resources(), &mut budget_bytes);
    // Session::step_stage takes note of small work.
    if was_bulk || flow.is_bulk() {
        shard.bulk_pace.moved_bulk(flow.moved().since(before));
    }
    turn
}

const ENDED_BEFORE_BODY: &str = "the client ended its connection before its request's body";
