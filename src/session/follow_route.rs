//! Which candidate of its plan a request goes to: the first one, or the next after one that could not be used.

use super::cx::Cx;
use super::transition::{Connecting, Departure, GroupCandidate, Opened, Transition};
use super::{pinned, respond};
use crate::fault::{At, Cause};
use crate::route::Candidate;
use crate::upstream::HostPort;

/// Goes to the next candidate of the plan.
pub(super) fn follow(mut departure: Departure, cx: &mut Cx<'_>) -> Transition {
    cx.tries_candidate();
    let route = &mut departure.route;
    let Some(candidate) = route.plan.take_next() else {
        let fault = At::Dial.fault(Cause::RouteUnavailable, "the source of routes named no way to the destination");
        return respond::failed(fault, cx);
    };
    // Checked here and not by the source, so that no source can get round it.
    let origin = departure.request.origin();
    if !route.egress.rules.permit(candidate, &route.target.authority(origin)) {
        let detail = format!("{origin} is a link-local address or a metadata service, which the routes deny");
        return respond::failed(At::ReadHead.fault(Cause::DestinationDenied, detail), cx);
    }
    match candidate {
        Candidate::Deny => {
            let detail = format!("the routes deny {origin}");
            respond::failed(At::ReadHead.fault(Cause::DestinationDenied, detail), cx)
        }
        Candidate::Group { group, without_credentials } => {
            Transition::SelectHop(departure, GroupCandidate { group, without_credentials })
        }
        Candidate::Direct => direct(departure, cx),
    }
}

/// Straight to the origin.
fn direct(mut departure: Departure, cx: &mut Cx<'_>) -> Transition {
    let origin: HostPort = match departure.request.origin().parse() {
        Ok(origin) => origin,
        Err(error) => {
            return respond::failed(At::ReadHead.fault(Cause::RequestMalformed, format!("{error}")), cx);
        }
    };
    let pinned = departure.pinned.take();
    if let Some(request) = departure.request.forward()
        && let Some(pinned) = pinned::fitting(pinned, request.origin(), None, cx)
    {
        let (upstream, number, leftover) = (pinned.upstream, pinned.number, departure.leftover);
        return Transition::Exchange(Opened::Origin { request: request.clone(), upstream, number, leftover });
    }
    Transition::Connect(Connecting::Origin { origin, departure })
}
