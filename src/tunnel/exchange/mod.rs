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

mod answer;
mod flow;

use std::sync::Arc;

use super::authenticate::Authenticate;
use super::closing::Closing;
use super::dial::{Attempt, Dial};
use super::kept::Place;
use super::read_head::{Pinned, ReadHead};
use super::reply::Reply;
use super::{Client, Context, End, Stage, Step, kept};
use crate::event::{Endpoint, Key};
use crate::fault::{At, Cause, Culprit, Fault};
use crate::forward::{BodyToSend, ForwardRequest};
use crate::http::HeadEnd;
use crate::limits;
use crate::metrics::{Outcome, Path, Phase, Reason407};
use crate::relay::RelayError;
use crate::upstream::Ticket;
use answer::{Final, Heard, hear};
use flow::{BUDGET_BYTES, Flow, FlowError, FlowTurn};

/// One request and its answer.
#[derive(Debug)]
pub(super) struct Exchange {
    request: Arc<ForwardRequest>,
    /// The way through an upstream; `None` straight to the origin.
    attempt: Option<Box<Attempt>>,
    upstream: Endpoint,
    number: u8,
    /// Where the connection was lent from, if it was.
    place: Option<Place>,
    /// Came from the client and was not used: the body, then the next request.
    from_client: Vec<u8>,
    /// Came from the upstream and was not used.
    from_upstream: Vec<u8>,
    up: Flow,
    /// The upstream takes nothing more; its answer may be there all the same.
    up_broken: bool,
    down: Flow,
    head_end: HeadEnd,
    /// Interim answers so far.
    interim: u8,
    answer: Option<Final>,
    /// The right to have sent the AUTHENTICATE_MESSAGE that is out.
    ticket: Option<Ticket>,
    /// When the present phase began, in µs.
    phase_us: u64,
    /// What the deadline waits for, and what has moved since it was set.
    waits: Waits,
    moved_at_wait: u64,
}

/// Who is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    /// Nobody yet.
    Unset,
    /// The client is to send its body, or to read its answer: at a minimum rate.
    ForClient,
    /// The upstream is to begin its answer.
    ForAnswer,
    /// The upstream is to go on with it.
    ForMore,
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

impl Exchange {
    /// On a connection whose last answer has been read to its end.
    pub(super) fn on_kept(
        attempt: Attempt,
        request: Arc<ForwardRequest>,
        (upstream, place): (Endpoint, Option<Place>),
        key: Key,
        client: &mut Client,
        context: &mut Context,
    ) -> Step {
        let mut out = Vec::with_capacity(1024);
        request.write_head(&mut out, None, BodyToSend::Real);
        let number = attempt.number;
        let mut exchange = Exchange::new(Some(attempt), request, upstream, number, out, Vec::new(), None, context);
        exchange.place = place;
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
        let mut exchange = Exchange::new(None, request, upstream, number, out, Vec::new(), None, context);
        exchange.from_client = from_client;
        exchange.set_out(key, client, context)
    }

    /// After the legs of a handshake: `out` holds what is still to be sent of the last one, `from_upstream` what came behind the
    /// handshake.
    #[allow(clippy::too_many_arguments, reason = "all that the handshake leaves")]
    pub(super) fn begin(
        attempt: Option<Attempt>,
        request: Arc<ForwardRequest>,
        upstream: Endpoint,
        number: u8,
        out: Vec<u8>,
        from_upstream: Vec<u8>,
        ticket: Option<Ticket>,
        key: Key,
        client: &mut Client,
        context: &mut Context,
    ) -> Step {
        Exchange::new(attempt, request, upstream, number, out, from_upstream, ticket, context)
            .set_out(key, client, context)
    }

    #[allow(clippy::too_many_arguments, reason = "all that the handshake leaves")]
    fn new(
        attempt: Option<Attempt>,
        request: Arc<ForwardRequest>,
        upstream: Endpoint,
        number: u8,
        out: Vec<u8>,
        from_upstream: Vec<u8>,
        ticket: Option<Ticket>,
        context: &Context,
    ) -> Box<Exchange> {
        let mut attempt = attempt.map(Box::new);
        let from_client = attempt.as_mut().map(|attempt| std::mem::take(&mut attempt.leftover)).unwrap_or_default();
        let up = Flow::new(out, Some(request.pump()));
        Box::new(Exchange {
            request,
            attempt,
            upstream,
            number,
            place: None,
            from_client,
            from_upstream,
            up,
            up_broken: false,
            down: Flow::new(Vec::new(), None),
            head_end: HeadEnd::response(),
            interim: 0,
            answer: None,
            ticket,
            phase_us: context.now_us,
            waits: Waits::Unset,
            moved_at_wait: 0,
        })
    }

    fn set_out(mut self: Box<Self>, key: Key, client: &mut Client, context: &mut Context) -> Step {
        self.wait_for(Waits::ForAnswer, key, client, context);
        Step::Go(Stage::Exchange(self))
    }

    pub(super) fn endpoint(&mut self, number: u8) -> Option<&mut Endpoint> {
        (self.number == number).then_some(&mut self.upstream)
    }

    pub(super) fn step(mut self: Box<Self>, key: Key, client: &mut Client, context: &mut Context) -> Step {
        if client.endpoint.ready.reset() && self.ticket.is_none() {
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
            Then::Switch => self.switch(key, client, context),
            Then::Fail(fault) => self.fail(fault, key, client, context),
            Then::Again => self.again(key, client, context),
        }
    }

    pub(super) fn expired(mut self: Box<Self>, key: Key, client: &mut Client, context: &mut Context) -> Step {
        if self.waits == Waits::ForClient && self.all_moved() - self.moved_at_wait >= limits::BODY_FLOOR_BYTES {
            self.wait_for(Waits::ForClient, key, client, context);
            return Step::Wait(Stage::Exchange(self));
        }
        let fault = match self.waits {
            Waits::ForClient => fault(Cause::BodyTimeout, "the client sends its body, or reads its answer, too slowly"),
            Waits::ForAnswer | Waits::Unset => fault(Cause::ResponseTimeout, "the upstream did not answer in time"),
            Waits::ForMore => fault(Cause::ResponseTimeout, "the upstream did not go on with its answer"),
        };
        self.fail(fault, key, client, context)
    }

    /// Moves what can be moved, each way within its budget.
    fn work(&mut self, client: &mut Client, context: &mut Context) -> Then {
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
                if !self.upstream.ready.readable() {
                    return Then::Fail(Fault::upstream_io(At::Reply, &error));
                }
                FlowTurn::Done
            }
            Err(FlowError::Relay(RelayError::Source(error))) => {
                return Then::Fail(Fault::downstream_io(At::Reply, &error));
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
        let mut resources = context.relay_resources();
        let (from, held, to) = (&mut self.upstream, &mut self.from_upstream, &mut client.endpoint);
        match self.down.pump(from, held, to, &mut resources, &mut { BUDGET_BYTES }) {
            Ok(FlowTurn::Done) => Then::Over,
            Ok(FlowTurn::Yielded) => Then::Yield,
            Ok(_) if up == FlowTurn::Yielded => Then::Yield,
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

    /// Reads heads until the answer's own; `None` when there is nothing more to read now or the body can follow.
    fn listen(&mut self, client: &mut Client, context: &mut Context) -> Option<Then> {
        loop {
            while let Some(length) = match self.head_end.find(&self.from_upstream, context.settings.head_limit_bytes) {
                Ok(found) => found,
                Err(error) => return Some(Then::Fail(fault(Cause::ResponseHeadTooLarge, error.to_string()))),
            } {
                let mut bytes = std::mem::take(&mut self.from_upstream);
                self.head_end = HeadEnd::response();
                let then = self.heed(bytes.get(..length).unwrap_or_default(), client, context);
                bytes.drain(..length);
                self.from_upstream = bytes;
                if then.is_some() {
                    return then;
                }
                if self.answer.is_some() {
                    return None;
                }
            }
            if !self.upstream.ready.readable() {
                return None;
            }
            match self.upstream.read(&mut context.scratch) {
                Ok(None) => return None,
                Ok(Some(0)) => return Some(self.closed(None)),
                Ok(Some(count)) => self.from_upstream.extend_from_slice(&context.scratch[..count]),
                Err(error) => return Some(self.closed(Some(error))),
            }
        }
    }

    /// The connection ended before the answer.
    fn closed(&self, error: Option<std::io::Error>) -> Then {
        let was_kept = self.path() == Path::Kept;
        if was_kept && self.from_upstream.is_empty() && self.interim == 0 && !self.up.has_begun() {
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
            && (self.up.is_read() || self.request.expects_continue())
            && client.record.requests < limits::REQUESTS_PER_CONNECTION;
        let options = context.settings.forward_options();
        match hear(head, &self.request, &options, may_keep, &mut self.down.out) {
            Err(fault) => Some(Then::Fail(fault)),
            Ok(Heard::Interim) => {
                self.verdict(client, context);
                self.interim += 1;
                (self.interim > limits::INTERIM_ANSWERS)
                    .then(|| Then::Fail(fault(Cause::ResponseMalformed, "the upstream sends 1xx answers without end")))
            }
            Ok(Heard::Switching) => {
                self.verdict(client, context);
                Some(Then::Switch)
            }
            Ok(Heard::Asked { rechallenge, line }) => Some(self.asked(rechallenge, &line, client, context)),
            Ok(Heard::Final(mut answer)) => {
                self.verdict(client, context);
                client.record.status = answer.status;
                context.metrics.request("http", answer.status);
                let pump =
                    std::mem::replace(&mut answer.pump, crate::forward::BodyPump::same(crate::http::BodyFraming::None));
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
        let metrics = &attempt.hop.metrics;
        let Some(ticket) = self.ticket.take() else {
            metrics.answered_407(Reason407::Unprompted, 1);
            attempt.hop.forgets();
            return match self.up.has_begun() {
                false => Then::Again,
                true => Then::Fail(fault(
                    Cause::Reauthentication,
                    "the upstream asked for authentication anew when a part of the request's body was sent already",
                )),
            };
        };
        ticket.refused(context.now_ms());
        metrics.answered_407(if rechallenge { Reason407::Rechallenge } else { Reason407::Refused }, 1);
        let too_old = rechallenge && attempt.path == Path::Warm && !self.up.has_begun();
        if too_old {
            return Then::Again;
        }
        self.count(Outcome::Refused, client, context);
        Then::Fail(fault(Cause::CredentialsRefused, format!("the upstream refused the credentials: {line}")))
    }

    /// Any answer but a 407 to an AUTHENTICATE_MESSAGE says that the credentials were taken.
    fn verdict(&mut self, client: &mut Client, context: &Context) {
        if let Some(ticket) = self.ticket.take() {
            ticket.accepted(context.now_ms());
            if let Some(attempt) = &self.attempt {
                attempt.hop.metrics.phase(Phase::Authenticate, context.now_us - self.phase_us);
                attempt.hop.upstream.health.succeeded();
            }
            self.count(Outcome::Established, client, context);
        }
    }

    /// Writes down how the handshake went.
    fn count(&self, outcome: Outcome, client: &mut Client, context: &Context) {
        if let Some(attempt) = &self.attempt {
            Authenticate::write_down(attempt, outcome, client, context);
        }
    }

    fn path(&self) -> Path {
        self.attempt.as_ref().map_or(Path::Cold, |attempt| attempt.path)
    }

    /// The answer is delivered.
    fn over(mut self: Box<Self>, key: Key, client: &mut Client, context: &mut Context) -> Step {
        let Some(answer) = self.answer.take() else {
            return self.end(End::Finished, client, context);
        };
        let whole = self.up.is_read() && self.up.is_flushed() && !self.up_broken;
        let reusable = answer.keeps_upstream && whole && self.from_upstream.is_empty();
        let place = self.place.take();
        self.account(client, context);
        let Exchange { request, attempt, mut upstream, number, from_client, .. } = *self;
        let mut pinned = None;
        match attempt {
            Some(attempt) if reusable && (answer.pins || client.record.pinned) => {
                if place.is_none_or(|place| kept::own(place, &mut upstream, key, number, context).is_ok()) {
                    pinned = Some(Pinned { upstream, number, hop: attempt.hop, origin: request.origin().into() });
                }
            }
            Some(attempt) if reusable && !attempt.hop.is_forgetful() => {
                kept::put(&attempt.hop, upstream, place, context);
            }
            _ => place.into_iter().for_each(|place| kept::forget(place, context)),
        }
        client.record.pinned = pinned.is_some();
        client.record.finish_request(&End::Finished, context.now_us);
        match answer.keeps_client && whole {
            true => ReadHead::again(from_client, pinned, key, client, context),
            false => Closing::begin(End::Finished, key, client, context),
        }
    }

    /// 101: from here on it is a tunnel.
    fn switch(mut self: Box<Self>, key: Key, client: &mut Client, context: &mut Context) -> Step {
        if let Some(place) = self.place.take()
            && let Err(error) = kept::own(place, &mut self.upstream, key, self.number, context)
        {
            return self.end(context.fault(Fault::upstream_io(At::Reply, &error)), client, context);
        }
        self.account(client, context);
        client.record.status = 101;
        context.metrics.request("http", 101);
        let answer = self.down.take_unsent();
        let from_client = std::mem::take(&mut self.from_client);
        let Exchange { upstream, from_upstream, .. } = *self;
        Reply::relay(answer, upstream, from_upstream, from_client)
    }

    /// Goes on with another connection; nothing of the body has been taken.
    fn again(mut self: Box<Self>, key: Key, client: &mut Client, context: &mut Context) -> Step {
        self.let_go(context);
        let Some(mut attempt) = self.attempt.take() else {
            return self.end(End::Finished, client, context);
        };
        attempt.leftover = std::mem::take(&mut self.from_client);
        Dial::anew(*attempt, key, client, context)
    }

    fn fail(mut self: Box<Self>, fault: Fault, key: Key, client: &mut Client, context: &mut Context) -> Step {
        // A ticket that is dropped counts as unanswered.
        self.ticket = None;
        // Whether the upstream is to blame or its origin cannot be told here: its health hears of it from handshakes.
        let of_upstream = fault.cause.culprit() == Culprit::Upstream;
        if self.answer.is_some() || !self.down.is_flushed() {
            // A part of the answer is out: the client must not take it for the whole.
            super::relaying::reset_instead_of_close(client);
            return self.end(context.fault(fault), client, context);
        }
        let repeatable = !self.up.has_begun() && self.request.is_idempotent() && self.interim == 0;
        if of_upstream
            && repeatable
            && context.now_ms() < self.attempt.as_ref().map_or(0, |attempt| attempt.until_ms)
            && self.attempt.as_ref().is_some_and(|attempt| attempt.wish.has_next(&attempt.fleet))
            && let Some(mut attempt) = self.attempt.take()
        {
            self.let_go(context);
            attempt.leftover = std::mem::take(&mut self.from_client);
            return Dial::elsewhere(*attempt, key, client, context);
        }
        self.account(client, context);
        Reply::to_fault(fault, client, context)
    }

    fn end(mut self: Box<Self>, end: End, client: &mut Client, context: &mut Context) -> Step {
        self.account(client, context);
        Step::end(end)
    }

    /// The connection will not go back to where it was lent from.
    fn let_go(&mut self, context: &mut Context) {
        if let Some(place) = self.place.take() {
            kept::forget(place, context);
        }
    }

    /// Counts the bytes, and gives back what was borrowed.
    fn account(&mut self, client: &mut Client, context: &mut Context) {
        self.let_go(context);
        let (up, down) = (self.up.moved(), self.down.moved());
        context.metrics.bytes_up(up);
        context.metrics.bytes_down(down);
        client.record.bytes_up += up.copied + up.spliced;
        client.record.bytes_down += down.copied + down.spliced;
        self.up.dismantle(&mut context.pipes);
        self.down.dismantle(&mut context.pipes);
    }

    /// Gives back what was borrowed, because the gateway is shutting down.
    pub(super) fn cut(mut self: Box<Self>, client: &mut Client, context: &mut Context) {
        self.account(client, context);
    }

    fn all_moved(&self) -> u64 {
        let (up, down) = (self.up.moved(), self.down.moved());
        up.copied + up.spliced + down.copied + down.spliced
    }

    /// Sets the deadline by who is waited for now. A client has its time from when it began to be waited for, whatever it
    /// moves; an upstream has it anew with each byte.
    fn restart_deadline(&mut self, key: Key, client: &mut Client, context: &mut Context) {
        let waits = match &self.answer {
            _ if !self.down.is_flushed() => Waits::ForClient,
            None if !self.up.is_read() && !self.up_broken && self.upstream.ready.writable() => Waits::ForClient,
            None => Waits::ForAnswer,
            Some(_) => Waits::ForMore,
        };
        let moved = self.all_moved() != self.moved_at_wait;
        if waits != self.waits || (waits != Waits::ForClient && moved) {
            self.wait_for(waits, key, client, context);
        }
    }

    fn wait_for(&mut self, waits: Waits, key: Key, client: &mut Client, context: &mut Context) {
        let timeouts = &context.settings.timeouts;
        let wait_ms = match waits {
            Waits::ForClient => timeouts.body,
            Waits::ForAnswer | Waits::Unset => timeouts.response,
            Waits::ForMore => timeouts.idle,
        };
        (self.waits, self.moved_at_wait) = (waits, self.all_moved());
        client.set_deadline(key, context, context.now_ms() + wait_ms);
    }
}

fn fault(cause: Cause, detail: impl Into<std::borrow::Cow<'static, str>>) -> Fault {
    Fault::new(At::Reply, cause, detail)
}
