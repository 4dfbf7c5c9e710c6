//! An origin as what is connected to, past all upstreams: its name is looked up on another thread.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::{Addresses, Target};
use crate::fault::{At, Cause, Fault};
use crate::http::{Authority, Host};
use crate::route::Candidate as RouteCandidate;
use crate::session::cx::Cx;
use crate::session::happy_eyeballs::{Candidate, Racer};
use crate::session::respond;
use crate::session::transition::{Departure, Opened, Transition};
use crate::upstream::{HostPort, LookupClient, LookupReply, Resolution};

/// An origin, and how far it has come with its addresses.
#[derive(Debug)]
pub(super) struct DirectTarget {
    origin: HostPort,
    departure: Departure,
    lookup: Lookup,
    started_us: u64,
}

/// How far the look-up of its name has come.
#[derive(Debug)]
enum Lookup {
    /// Not asked for yet.
    Wanted,
    /// Another thread does it.
    UnderWay,
    /// Its addresses, of which so many were tried.
    Found { addresses: Arc<[SocketAddr]>, tried: usize },
}

impl DirectTarget {
    /// Returns the target, and when the client must have its answer, in ms.
    pub(super) fn begin(origin: HostPort, departure: Departure, cx: &Cx<'_>) -> (Target, u64) {
        let literal = origin.host().parse().ok().map(|address| SocketAddr::new(address, origin.port()));
        let lookup = match literal {
            Some(address) => Lookup::Found { addresses: [address].into(), tried: 0 },
            None => Lookup::Wanted,
        };
        let until_ms = departure.route.until_ms;
        let origin = DirectTarget { origin, departure, lookup, started_us: cx.now_us() };
        (Target::Origin(origin), until_ms)
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.departure.leftover.capacity() + self.departure.request.held_bytes()
    }

    pub(super) fn addresses(&mut self, cx: &mut Cx<'_>) -> Addresses {
        match self.lookup {
            Lookup::Found { .. } => Addresses::Ready,
            Lookup::UnderWay => Addresses::Wait { until_ms: None },
            Lookup::Wanted => self.look_up(cx),
        }
    }

    fn look_up(&mut self, cx: &mut Cx<'_>) -> Addresses {
        self.lookup = Lookup::UnderWay;
        let patience_ms = cx.timeouts().connect.min(cx.timeouts().handshake);
        let client = cx.client.record.client().ip().to_canonical();
        let asker = LookupClient { client, patience: Duration::from_millis(patience_ms) };
        match (cx.shard.look_up)(self.origin.clone(), cx.key, asker) {
            LookupReply::Accepted => Addresses::Wait { until_ms: Some(cx.now_ms() + patience_ms) },
            LookupReply::Hangs => {
                let detail = format!("nobody answers for {}: its look-up hangs", self.origin.host());
                Addresses::Fail(At::Dial.fault(Cause::ResolveTimeout, detail))
            }
            LookupReply::Declined => {
                let detail = "too many look-ups wait, or no thread can be started for this one";
                Addresses::Fail(At::Dial.fault(Cause::ResourcesExhausted, detail))
            }
        }
    }

    /// The origin's name was looked up; returns what is wrong with its addresses.
    pub(super) fn found(&mut self, resolution: Resolution) -> Option<Fault> {
        let (addresses, fault) = match resolution {
            Resolution::Addresses(addresses) => {
                // A name must not lead where its address would not.
                let allowed: Vec<SocketAddr> =
                    addresses.iter().filter(|address| self.denial(**address).is_none()).copied().collect();
                let denied = allowed.is_empty().then(|| {
                    let what = addresses.first().and_then(|address| self.denial(*address)).unwrap_or("nowhere");
                    At::Dial.fault(Cause::DestinationDenied, format!("{} leads to {what}", self.origin))
                });
                (allowed.into(), denied)
            }
            Resolution::Failed(why) => {
                let detail = format!("{} does not resolve: {why}", self.origin.host());
                (Arc::default(), Some(At::Dial.fault(Cause::ResolveFailed, detail)))
            }
        };
        self.lookup = Lookup::Found { addresses, tried: 0 };
        fault
    }

    /// What an address is that a connection must not go to, whatever name led there. A metadata service is reached only
    /// where a route names its address.
    fn denial(&self, address: SocketAddr) -> Option<&'static str> {
        let host = match address.ip().to_canonical() {
            IpAddr::V4(address) => Host::V4(address),
            IpAddr::V6(address) => Host::V6(address),
        };
        let written_out = Authority { host, port: address.port() };
        let rules = &self.departure.route.egress.rules;
        if !rules.permit(RouteCandidate::Direct, &written_out) {
            return Some("a link-local address or a metadata service, which the routes deny");
        }
        (!rules.permit_address(address.ip(), address.port())).then_some("an address that the routes deny")
    }

    /// The fault, if its time is over before its addresses are known.
    pub(super) fn timed_out(&self) -> Option<Fault> {
        match self.lookup {
            Lookup::Found { .. } => None,
            Lookup::Wanted | Lookup::UnderWay => {
                Some(At::Dial.fault(Cause::ResolveTimeout, format!("{} was not resolved in time", self.origin.host())))
            }
        }
    }

    pub(super) fn next_candidate(&mut self) -> Option<Candidate> {
        let Lookup::Found { addresses, tried } = &mut self.lookup else { return None };
        let address = addresses.get(*tried).copied()?;
        *tried += 1;
        Some(Candidate { address, member: 0, place: *tried - 1 })
    }

    pub(super) fn has_next(&self) -> bool {
        matches!(&self.lookup, Lookup::Found { addresses, tried } if *tried < addresses.len())
    }

    /// The origin took the connection.
    pub(super) fn connected(self, winner: Racer, cx: &mut Cx<'_>) -> Transition {
        cx.reached_origin(self.started_us);
        if let Some((peer, local)) = winner.endpoint.stream.ends()
            && cx.shard.settings.egress.is_gateway(peer, local)
        {
            let detail = format!("{} is the gateway itself", self.origin);
            return respond::failed(At::Dial.fault(Cause::DestinationDenied, detail), cx);
        }
        let (upstream, number) = (winner.endpoint, winner.number);
        let Departure { request, leftover, .. } = self.departure;
        match request.forward().cloned() {
            Some(request) => Transition::Exchange(Opened::Origin { request, upstream, number, leftover }),
            None => respond::established(upstream, Vec::new(), leftover, cx),
        }
    }

    /// The origin took no connection. Returns the request.
    pub(super) fn give_up(self, cx: &mut Cx<'_>) -> Departure {
        cx.reached_origin(self.started_us);
        self.departure
    }
}
