//! Which upstream a request goes to first, as whom, and on which connection.

use std::sync::Arc;

use super::attempt::{Attempt, HopChoice};
use super::connection_source::ConnectionSource;
use super::cx::Cx;
use super::transition::{Connected, Connecting, Departure, GroupCandidate, Opened, Transition};
use super::{guard_faults, pinned, respond};
use crate::auth::{Handshake, Request};
use crate::egress::{Egress, Hop, Tried};
use crate::event::EventToken;
use crate::fault::{At, Cause, Fault};
use crate::forward::ForwardRequest;
use crate::pool::{Challenged, Taken};
use crate::transport::Endpoint;
use crate::upstream::Refusal;

/// Selects the hop and a connection; fails at once where no upstream is up, or the guard refuses.
pub(super) fn select(departure: Departure, candidate: GroupCandidate, cx: &mut Cx<'_>) -> Transition {
    let GroupCandidate { group, without_credentials } = candidate;
    let route = &departure.route;
    let mut choice = HopChoice { group, identity: route.identity, tried: Tried::default() };
    // With an alternative, nobody has to try an upstream that is ejected.
    let may_try = !route.has_alternative();
    let (member, hop) = match first_hop(&route.egress, &mut choice, &departure.request, may_try, cx.now_ms()) {
        Ok((member, hop)) => (member, Arc::clone(hop)),
        Err(fault) if route.falls_back(&fault, cx.now_ms()) => {
            log::debug!("{}: {fault}; on to the next candidate", departure.request.origin());
            return Transition::FollowRoute(departure);
        }
        Err(fault) => return respond::failed(fault, cx),
    };
    let Departure { request, leftover, pinned, route } = departure;
    cx.goes_to(&hop);
    let settings = &cx.shard.settings;
    let forward = request.forward().cloned();
    let mut attempt = Box::new(Attempt {
        handshake: Handshake::new(request, hop.credentials.clone(), settings.head_limit_bytes)
            .with_field_limit(settings.field_limit),
        egress: Arc::clone(&route.egress),
        hop,
        choice,
        member,
        leftover,
        started_us: cx.now_us(),
        until_ms: route.until_ms,
        number: cx.client.last_dial,
        route: route.plan.next().is_some().then(|| Box::new(route)),
        source: ConnectionSource::Cold,
        waiting: None,
        scout: None,
        challenged_ms: 0,
        without_credentials,
        asked_on_kept: false,
        failed: Vec::new(),
        cut_off: None,
        refusal: None,
    });
    if let Some(request) = &forward
        && let Some(pinned) = pinned::fitting(pinned, request.origin(), Some(&attempt.hop), cx)
    {
        (attempt.number, attempt.source) = (pinned.number, ConnectionSource::Kept);
        return on_kept(attempt, Arc::clone(request), pinned.upstream, cx);
    }
    if without_credentials {
        attempt.handshake.ask_plainly();
        return Transition::Connect(Connecting::Upstream(attempt));
    }
    select_connection(attempt, forward, cx)
}

/// Takes a connection from the pools, or has one dialled.
fn select_connection(mut attempt: Box<Attempt>, forward: Option<Arc<ForwardRequest>>, cx: &mut Cx<'_>) -> Transition {
    let may_be_kept = forward.is_some() || attempt.hop.habits.may_reuse_for_connect(cx.now_ms());
    let can_be_repeated = attempt.handshake.request().is_idempotent();
    attempt.number = cx.client.next_dial();
    let token = EventToken::upstream(cx.key, attempt.number);
    let (pools, loan) = cx.shard.pools();
    let parked = &mut cx.client.parked;
    if may_be_kept
        && let Some(Taken { upstream, number }) =
            pools.keep_alive.take(&attempt.hop, token, parked, can_be_repeated, &loan)
    {
        (attempt.number, attempt.source) = (number, ConnectionSource::Kept);
        if let Some(request) = forward {
            return on_kept(attempt, request, upstream, cx);
        }
        // Without credentials; if they are asked for, the handshake takes place on the same connection.
        attempt.handshake.ask_plainly();
        return Transition::Authenticate(Connected { attempt, upstream });
    }
    let origin = attempt.handshake.request().origin();
    let is_cut_off = attempt.hop.upstream.health.cuts_off(cx.now_ms(), origin);
    let (pools, loan) = cx.shard.pools();
    if !is_cut_off
        && let Some(Challenged { upstream, handshake, challenged_ms }) =
            pools.pre_challenged.take(&attempt.hop, token, can_be_repeated, &loan)
    {
        let own = std::mem::replace(&mut attempt.handshake, handshake);
        attempt.handshake.retarget(own.into_request());
        (attempt.challenged_ms, attempt.source) = (challenged_ms, ConnectionSource::Warm);
        return Transition::Authenticate(Connected { attempt, upstream });
    }
    attempt.choose_first_leg(cx.now_ms());
    Transition::Connect(Connecting::Upstream(attempt))
}

fn on_kept(attempt: Box<Attempt>, request: Arc<ForwardRequest>, upstream: Endpoint, cx: &mut Cx<'_>) -> Transition {
    attempt.goes_on_kept(cx);
    Transition::Exchange(Opened::Kept { attempt, request, upstream })
}

/// The first upstream that is up and where the guard lets the identity log on. If none is up, one that is ejected
/// `may_try` the request.
fn first_hop<'a>(
    egress: &'a Egress,
    choice: &mut HopChoice,
    request: &Request,
    may_try: bool,
    now_ms: u64,
) -> Result<(usize, &'a Arc<Hop>), Fault> {
    let refusal_of = |hop: &Hop| match hop.credentials.begins_with_logon() {
        true => hop.identity.guard.refuses(now_ms, hop.upstream.name(), request.method(), request.origin()),
        false => None,
    };
    let usable = |present: &'a Arc<Hop>| {
        let hop = present.in_use(now_ms);
        let Some(refusal) = refusal_of(hop) else { return Ok(hop) };
        // It may have been found out just now which secret is right.
        let other = present.in_use(now_ms);
        if Arc::ptr_eq(hop, other) || refusal_of(other).is_some() { Err(refusal) } else { Ok(other) }
    };
    let mut refused: Option<Refusal> = None;
    while let Some((member, hop)) = choice.next(egress) {
        match usable(hop) {
            Err(refusal) => refused = refused.or(Some(refusal)),
            Ok(hop) => return Ok((member, hop)),
        }
    }
    if refused.is_none()
        && may_try
        && let Some((member, hop)) = choice.next_for_trial(egress, request.origin(), now_ms)
    {
        match usable(hop) {
            Err(refusal) => refused = Some(refusal),
            Ok(hop) => return Ok((member, hop)),
        }
    }
    Err(refused.map_or_else(|| nobody(egress, choice), guard_faults::refused))
}

/// Why there is no upstream for a request.
fn nobody(egress: &Egress, choice: &HopChoice) -> Fault {
    let in_group = || egress.members.iter().enumerate().filter(|(_, member)| member.group == choice.group);
    if in_group().next().is_none() {
        let detail = "the source of routes named a group of upstreams that does not exist";
        return At::Dial.fault(Cause::RouteUnavailable, detail);
    }
    // Whether upstreams are up does not matter to a client that none of them would serve.
    let is_served = in_group().any(|(member, _)| egress.hop(member, choice.identity).is_some());
    let why = if is_served { egress.why_down(choice.group) } else { String::new() };
    match (why.is_empty(), egress.takes_logins()) {
        (false, _) => At::Dial.fault(Cause::UpstreamsDown, format!("no upstream is up: {why}")),
        (true, true) => {
            At::ReadHead.fault(Cause::LoginRequired, "the gateway needs a user and a password from this client")
        }
        (true, false) => At::ReadHead.fault(Cause::NoIdentity, "no identity is configured for this client"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::{Member, Tried, UpstreamOrder};
    use crate::limits;
    use crate::metrics::Metrics;
    use crate::route::Rules;
    use crate::transport::Transport;
    use crate::upstream::{OwnAddresses, Upstream};

    /// An egress without identities, whose only upstream, of group 0, is ejected.
    fn egress() -> Egress {
        let upstream = Upstream::new("u", vec!["localhost:1".parse().unwrap()], Transport::Tcp, |_| {});
        (0..limits::EJECT_AFTER).for_each(|_| upstream.health.failed(0, "a test"));
        let metrics = Metrics::new().unwrap().upstream("u");
        let rules = Arc::new(Rules::default());
        Egress {
            members: vec![Member { upstream, metrics, group: 0, weight: 1, identity: None }],
            identities: Vec::new(),
            hops: Vec::new(),
            order: UpstreamOrder::Failover,
            routes: rules.clone(),
            rules,
            listeners: Vec::new(),
            own: OwnAddresses::default(),
        }
    }

    /// The request would fall back to the next candidate if its upstreams were only down.
    #[test]
    fn a_client_that_no_upstream_would_serve_lacks_an_identity_even_if_all_are_down() {
        let cause_in = |group| nobody(&egress(), &HopChoice { group, identity: None, tried: Tried::default() }).cause;
        assert_eq!(cause_in(0), Cause::NoIdentity);
        assert_eq!(cause_in(1), Cause::RouteUnavailable, "there is no such group");
    }
}
