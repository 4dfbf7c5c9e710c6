//! Between the request and the first connection: as whom the client is served, and where its request goes.

use super::attempt::HopChoice;
use super::cx::Cx;
use super::transition::{Connecting, Departure, Opened, Received, Transition};
use super::{pinned, respond};
use crate::client_protocol::Demand;
use crate::egress::{ClientError, LoginError, Tried};
use crate::fault::{At, Cause, Fault};
use crate::route::{Candidate, Plan};
use crate::upstream::HostPort;

/// Decides where a request goes.
pub(super) fn choose(received: Received, cx: &mut Cx<'_>) -> Transition {
    match plan(&received.demand, cx) {
        Ok((identity, plan)) => follow(plan, identity, received, cx),
        Err(fault) => respond::failed(fault, cx),
    }
}

/// The identity of the client, if it has one of its own, and the plan for its target.
fn plan(demand: &Demand, cx: &Cx<'_>) -> Result<(Option<usize>, Plan), Fault> {
    let (record, egress) = (&cx.client.record, &cx.shard.settings.egress);
    let target = demand.target.authority(demand.request.origin());
    let identity = egress
        .identity_of(record.listener.into(), record.client.ip(), &demand.login, cx.now_ms())
        .map_err(client_fault)?;
    Ok((identity, egress.rules.plan(&target)))
}

/// Goes to the plan's first candidate.
fn follow(plan: Plan, identity: Option<usize>, received: Received, cx: &mut Cx<'_>) -> Transition {
    let Received { demand, leftover, pinned } = received;
    let request = demand.request;
    match plan.first() {
        Candidate::Deny => {
            let detail = format!("the routes deny {}", request.origin());
            respond::failed(At::ReadHead.fault(Cause::DestinationDenied, detail), cx)
        }
        Candidate::Group { group, without_credentials } => {
            let choice = HopChoice { group, identity, tried: Tried::default() };
            Transition::SelectHop(Departure { request, choice, without_credentials, leftover, pinned })
        }
        Candidate::Direct => {
            let origin: HostPort = match request.origin().parse() {
                Ok(origin) => origin,
                Err(error) => {
                    return respond::failed(At::ReadHead.fault(Cause::RequestMalformed, format!("{error}")), cx);
                }
            };
            let request = request.forward().cloned();
            if let Some(request) = &request
                && let Some(pinned) = pinned::fitting(pinned, request.origin(), None, cx)
            {
                let (request, upstream, number) = (request.clone(), pinned.upstream, pinned.number);
                return Transition::Exchange(Opened::Origin { request, upstream, number, leftover });
            }
            Transition::Connect(Connecting::Origin { origin, request, leftover })
        }
    }
}

fn client_fault(error: ClientError) -> Fault {
    let (cause, detail) = match error {
        ClientError::Login(LoginError::Wrong) => (Cause::LoginRequired, "the gateway knows no such user and password"),
        ClientError::Login(LoginError::Unreadable) => (
            Cause::LoginRequired,
            "the Basic credentials for the gateway cannot be read: they must be one field with the base64 of user:password in UTF-8",
        ),
        ClientError::Login(LoginError::Throttled) => (
            Cause::LoginThrottled,
            "too many wrong logins came from this address; for a few seconds none is checked, not even a right one",
        ),
        ClientError::ListenerWithdrawn => (
            Cause::ListenerWithdrawn,
            "a reload took this listening address away from its identity; it closes when the gateway is restarted",
        ),
    };
    At::ReadHead.fault(cause, detail)
}
