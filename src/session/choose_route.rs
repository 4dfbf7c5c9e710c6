//! Between the request and its plan: as whom the client is served, and what the source of routes says about its target.
//! A source that does not answer at once is waited for.

use std::sync::Arc;
use std::time::Duration;

use super::admission::client_fault;
use super::cx::Cx;
use super::respond;
use super::route_progress::RouteProgress;
use super::stage::{StageOps, Step};
use super::transition::{Departure, Received, Transition};
use crate::client_protocol::Demand;
use crate::egress::Egress;
use crate::fault::{At, Cause, Fault};
use crate::limits::{self, millis};
use crate::route::{RouteAnswer, RouteQuestion, RouteReply};
use crate::transport::Endpoint;

/// A request that waits for its plan.
#[derive(Debug)]
pub(super) struct ChooseRoute {
    received: Received,
    asked: Asked,
    /// Distinguishes the answer from those to other requests of the session.
    question: u32,
    answer: Option<RouteAnswer>,
}

/// On whose behalf the source was asked.
#[derive(Debug)]
struct Asked {
    egress: Arc<Egress>,
    /// The identity, by index, that the client has of its own.
    identity: Option<usize>,
}

/// Asks for a plan; waits if the source does not answer at once.
pub(super) fn choose(received: Received, cx: &mut Cx<'_>) -> Step<Box<ChooseRoute>> {
    let identity = match identity(&received.demand, cx) {
        Ok(identity) => identity,
        Err(fault) => return Step::Go(respond::failed(fault, cx)),
    };
    let asked = Asked { egress: cx.shard.settings.egress.egress(), identity };
    let demand = &received.demand;
    if let Err(fault) = original_permitted(demand, &asked.egress) {
        return Step::Go(respond::failed(fault, cx));
    }
    let client = cx.client.record.client().ip().to_canonical();
    let destination = demand.target.authority(demand.request.origin());
    let patience_ms = millis(limits::ROUTE_TIMEOUT).min(cx.timeouts().handshake);
    let question = RouteQuestion { destination, client, patience: Duration::from_millis(patience_ms) };
    // No other request of this connection has the same number.
    let number = cx.client.record.requests.into();
    let (key, route_ticket) = (cx.key, &cx.shard.route_ticket);
    match asked.egress.routes.route(&question, &|| route_ticket(key, number)) {
        RouteReply::Now(answer) => Step::Go(decided(answer, asked, received, cx)),
        RouteReply::Later => {
            cx.set_deadline_in(patience_ms);
            Step::Wait(Box::new(ChooseRoute { received, asked, question: number, answer: None }))
        }
    }
}

/// The identity of the client, if it has one of its own.
fn identity(demand: &Demand, cx: &Cx<'_>) -> Result<Option<usize>, Fault> {
    let (record, egress) = (&cx.client.record, &cx.shard.settings.egress);
    let identity = egress.identity_of(record.listener.into(), record.client().ip(), &demand.login, cx.now_ms());
    identity.map_err(client_fault)
}

/// A redirected client that names its destination must not bypass the rules about the address that it connected to.
fn original_permitted(demand: &Demand, egress: &Egress) -> Result<(), Fault> {
    match demand.original {
        Some(original) if !egress.rules.permit_address(original.ip(), original.port()) => {
            let name = demand.request.origin();
            let detail = format!("the routes deny {original}, where the client connected to reach {name}");
            Err(At::ReadHead.fault(Cause::DestinationDenied, detail))
        }
        _ => Ok(()),
    }
}

/// The source has answered.
fn decided(answer: RouteAnswer, asked: Asked, received: Received, cx: &mut Cx<'_>) -> Transition {
    let plan = match answer {
        Ok(plan) => plan,
        Err(why) => return respond::failed(At::Dial.fault(Cause::RouteUnavailable, why), cx),
    };
    let Received { demand, leftover, pinned } = received;
    let route = RouteProgress {
        plan,
        egress: asked.egress,
        identity: asked.identity,
        target: demand.target,
        until_ms: cx.now_ms() + cx.timeouts().handshake,
    };
    Transition::FollowRoute(Departure { request: demand.request, leftover, pinned, route })
}

impl StageOps for Box<ChooseRoute> {
    fn label(&self) -> &'static str {
        "choose_route"
    }

    fn at(&self) -> At {
        At::Dial
    }

    fn held_bytes(&self) -> usize {
        self.received.demand.request.held_bytes() + self.received.leftover.capacity()
    }

    fn upstream(&mut self, number: u8) -> Option<&mut Endpoint> {
        let pinned = self.received.pinned.as_mut()?;
        (pinned.number == number).then_some(&mut pinned.upstream)
    }

    fn routed(&mut self, question: u32, answer: RouteAnswer) -> bool {
        let is_awaited = question == self.question && self.answer.is_none();
        if is_awaited {
            self.answer = Some(answer);
        }
        is_awaited
    }

    fn step(mut self, cx: &mut Cx<'_>) -> Step<Self> {
        if cx.client.endpoint.ready.reset() {
            let fault = At::Dial.fault(Cause::ClientGone, "the client reset its connection");
            return Step::Go(Transition::End(cx.end_by(fault)));
        }
        match self.answer.take() {
            Some(answer) => Step::Go(decided(answer, self.asked, self.received, cx)),
            None => Step::Wait(self),
        }
    }

    fn expired(self, cx: &mut Cx<'_>) -> Step<Self> {
        let fault = At::Dial.fault(Cause::RouteUnavailable, "the source of routes did not answer in time");
        Step::Go(respond::failed(fault, cx))
    }
}
