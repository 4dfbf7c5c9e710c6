//! Connecting to an upstream of the request's group, or straight to the origin.
//!
//! One address is tried after the other, the next beside a slow one (RFC 8305 §5); after the last address of an
//! upstream comes the next upstream. The first to take the connection gets the request.

mod origin;
mod upstreams;

use super::cx::Cx;
use super::happy_eyeballs::{Candidate, Race, Racer};
use super::respond;
use super::stage::{StageOps, Step};
use super::transition::{Connecting, Transition};
use crate::fault::{At, Cause, Fault};
use crate::transport::Endpoint;
use crate::transport::Transport;
use crate::upstream::Resolution;
use origin::DirectTarget;
use upstreams::Upstreams;

/// Connecting.
#[derive(Debug)]
pub(super) struct Connect {
    target: Target,
    race: Race,
    /// When the client must have its answer, in ms.
    until_ms: u64,
    /// What failed last.
    last: Option<Fault>,
}

/// What is connected to: it says which addresses are tried, and what becomes of a connection.
#[derive(Debug)]
enum Target {
    Upstreams(Upstreams),
    Origin(DirectTarget),
}

/// Whether addresses can be tried.
enum Addresses {
    /// They are there, as far as they will be.
    Ready,
    /// Something is waited for, until this time in ms at most; `None` leaves the deadline as it is.
    Wait { until_ms: Option<u64> },
    /// The guard lets nobody in.
    Refused(Fault),
    /// There will be none.
    Fail(Fault),
}

impl Connect {
    pub(super) fn new(connecting: Connecting, cx: &mut Cx<'_>) -> Connect {
        let (target, until_ms) = match connecting {
            Connecting::Upstream(attempt) => Upstreams::begin(attempt, cx),
            Connecting::NextUpstream(mut attempt) => {
                attempt.move_on(cx);
                Upstreams::begin(attempt, cx)
            }
            Connecting::Origin { origin, departure } => DirectTarget::begin(origin, departure, cx),
        };
        Connect { target, race: Race::default(), until_ms, last: None }
    }

    /// Tries addresses until a connection is there, or all that may be are on their way.
    fn race(mut self: Box<Self>, cx: &mut Cx<'_>) -> Step<Box<Self>> {
        while let Some((racer, outcome)) = self.race.finished(cx) {
            match outcome {
                Ok(()) => return Step::Go(self.connected(racer, cx)),
                Err(error) => self.failed(racer.candidate.member, Fault::dial_io(racer.candidate.address, &error)),
            }
        }
        while self.race.may_launch(cx.now_ms()) {
            let Some(candidate) = self.next_candidate() else { break };
            let Some(transport) = self.target.transport(candidate.member) else { break };
            if let Err(error) = self.race.launch(candidate, &transport, cx) {
                let fault = Fault::dial_io(candidate.address, &error);
                if fault.cause != Cause::ResourcesExhausted {
                    self.failed(candidate.member, fault);
                } else if self.race.is_empty() {
                    return Step::Go(self.give_up(fault, cx));
                } else {
                    // It is the gateway that lacks something, not the address.
                    self.target.excuse(candidate.member);
                    self.last = Some(fault);
                }
            }
        }
        if self.race.is_empty() {
            return self.nothing_left(cx);
        }
        let due_ms = self.race.due_ms(self.target.has_next()).unwrap_or(self.until_ms);
        cx.set_deadline(due_ms.min(self.until_ms));
        Step::Wait(self)
    }

    fn next_candidate(&mut self) -> Option<Candidate> {
        match &mut self.target {
            Target::Upstreams(upstreams) => upstreams.next_candidate(&mut self.last),
            Target::Origin(origin) => origin.next_candidate(),
        }
    }

    /// An address took no connection.
    fn failed(&mut self, member: usize, fault: Fault) {
        if let Target::Upstreams(upstreams) = &mut self.target {
            upstreams.failed(member, &fault);
        }
        self.last = Some(fault);
    }

    /// Every address has failed, except for those that are still being looked up.
    fn nothing_left(mut self: Box<Self>, cx: &mut Cx<'_>) -> Step<Box<Self>> {
        if let Target::Upstreams(upstreams) = &mut self.target
            && let Some(until_ms) = upstreams.wait_for_addresses(cx)
        {
            cx.set_deadline(until_ms.min(self.until_ms));
            return Step::Wait(self);
        }
        let fault = self.last.take().unwrap_or_else(|| At::Dial.fault(Cause::ResolveFailed, self.target.no_address()));
        Step::Go(self.give_up(fault, cx))
    }

    fn connected(self, winner: Racer, cx: &mut Cx<'_>) -> Transition {
        match self.target {
            Target::Upstreams(upstreams) => upstreams.connected(winner, &self.race, cx),
            Target::Origin(origin) => origin.connected(winner, cx),
        }
    }

    /// Nobody took the connection: the next candidate of the plan gets the request, if there is one and it may.
    fn give_up(self, fault: Fault, cx: &mut Cx<'_>) -> Transition {
        let left = match self.target {
            Target::Upstreams(upstreams) => upstreams.give_up(&fault, &self.race, cx),
            Target::Origin(origin) => Some(origin.give_up(cx)),
        };
        match left.filter(|departure| departure.route.falls_back(&fault, cx.now_ms())) {
            Some(departure) => {
                log::debug!("{}: {fault}; on to the next candidate", departure.request.origin());
                Transition::FollowRoute(departure)
            }
            None => respond::failed(fault, cx),
        }
    }
}

impl Target {
    /// Whether addresses can be tried now.
    fn addresses(&mut self, last: &mut Option<Fault>, cx: &mut Cx<'_>) -> Addresses {
        match self {
            Target::Upstreams(upstreams) => upstreams.addresses(last, cx),
            Target::Origin(origin) => origin.addresses(cx),
        }
    }

    /// What carries the bytes to an upstream of the request's group, or to the origin.
    fn transport(&self, member: usize) -> Option<Transport> {
        match self {
            Target::Upstreams(upstreams) => upstreams.transport(member),
            Target::Origin(_) => Some(Transport::Tcp),
        }
    }

    /// Whether there is a next address to try.
    fn has_next(&self) -> bool {
        match self {
            Target::Upstreams(upstreams) => upstreams.has_next(),
            Target::Origin(origin) => origin.has_next(),
        }
    }

    /// The gateway could not even try this upstream.
    fn excuse(&mut self, member: usize) {
        if let Target::Upstreams(upstreams) = self {
            upstreams.excuse(member);
        }
    }

    fn no_address(&self) -> &'static str {
        match self {
            Target::Upstreams(_) => "the upstream's name has no address",
            Target::Origin(_) => "the origin's name has no address",
        }
    }

    /// What has not come in time.
    fn late(&self) -> Fault {
        match self {
            Target::Upstreams(_) => {
                At::Dial.fault(Cause::ConnectTimeout, "the upstream did not take the connection in time")
            }
            Target::Origin(_) => {
                At::Dial.fault(Cause::ConnectTimeout, "the origin did not take the connection in time")
            }
        }
    }
}

impl StageOps for Box<Connect> {
    fn label(&self) -> &'static str {
        match &self.target {
            Target::Upstreams(_) => "dial",
            Target::Origin(_) => "direct",
        }
    }

    fn at(&self) -> At {
        At::Dial
    }

    fn held_bytes(&self) -> usize {
        match &self.target {
            Target::Upstreams(upstreams) => upstreams.held_bytes(),
            Target::Origin(origin) => origin.held_bytes(),
        }
    }

    fn upstream(&mut self, number: u8) -> Option<&mut Endpoint> {
        self.race.endpoint(number)
    }

    fn found(&mut self, resolution: Resolution) {
        if let Target::Origin(origin) = &mut self.target {
            self.last = origin.found(resolution);
        }
    }

    fn step(mut self, cx: &mut Cx<'_>) -> Step<Self> {
        if cx.client.endpoint.ready.reset() {
            if let Target::Upstreams(upstreams) = &self.target {
                upstreams.abandoned(cx);
            }
            let fault = At::Dial.fault(Cause::ClientGone, "the client reset its connection");
            return Step::Go(Transition::End(cx.end_by(fault)));
        }
        match self.target.addresses(&mut self.last, cx) {
            Addresses::Ready => self.race(cx),
            Addresses::Wait { until_ms } => {
                if let Some(until_ms) = until_ms {
                    cx.set_deadline(until_ms.min(self.until_ms));
                }
                Step::Wait(self)
            }
            Addresses::Refused(fault) => Step::Go(respond::failed(fault, cx)),
            Addresses::Fail(fault) => Step::Go(self.give_up(fault, cx)),
        }
    }

    fn expired(mut self, cx: &mut Cx<'_>) -> Step<Self> {
        let late = match &mut self.target {
            Target::Upstreams(upstreams) => upstreams.timed_out(&mut self.last),
            Target::Origin(origin) => origin.timed_out(),
        };
        if let Some(fault) = late {
            return Step::Go(self.give_up(fault, cx));
        }
        while let Some((candidate, fault)) = self.race.overdue(cx.now_ms()) {
            self.failed(candidate.member, fault);
        }
        if cx.now_ms() >= self.until_ms {
            let fault = self.last.take().unwrap_or_else(|| self.target.late());
            return Step::Go(self.give_up(fault, cx));
        }
        self.race(cx)
    }
}
