//! A tunnel that leads straight to its origin, past all upstreams.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::exchange::Exchange;
use super::happy_eyeballs::{Candidate, Race, Racer};
use super::reply::Reply;
use super::{Client, Context, Stage, Step};
use crate::egress::Egress;
use crate::event::{Endpoint, Key};
use crate::fault::{At, Cause, Fault};
use crate::forward::ForwardRequest;
use crate::http::{Authority, Host};
use crate::route::{Decision, metadata_network};
use crate::upstream::{Asked, Asker, HostPort, Resolution};

/// Finding the origin and connecting to it.
#[derive(Debug)]
pub(super) struct Direct {
    origin: HostPort,
    /// Plain HTTP; `None` for a tunnel.
    request: Option<Arc<ForwardRequest>>,
    /// By whose rules it is reached.
    egress: Arc<Egress>,
    leftover: Vec<u8>,
    race: Race,
    /// `None` while the name is looked up.
    addresses: Option<Arc<[SocketAddr]>>,
    tried: usize,
    started_us: u64,
    until_ms: u64,
    last: Option<Fault>,
}

impl Direct {
    pub(super) fn begin(
        origin: HostPort,
        request: Option<Arc<ForwardRequest>>,
        leftover: Vec<u8>,
        key: Key,
        client: &mut Client,
        context: &mut Context,
    ) -> Step {
        let until_ms = context.now_ms() + context.settings.timeouts.handshake;
        let literal = origin.host().parse().ok().map(|address| SocketAddr::new(address, origin.port()));
        let mut direct = Box::new(Direct {
            origin,
            request,
            egress: context.settings.egress.egress(),
            leftover,
            race: Race::new(0),
            addresses: None,
            tried: 0,
            started_us: context.now_us,
            until_ms,
            last: None,
        });
        if let Some(address) = literal {
            direct.addresses = Some([address].into());
            return direct.go_on(key, client, context);
        }
        let patience_ms = context.settings.timeouts.connect.min(context.settings.timeouts.handshake);
        let asker =
            Asker { client: client.record.client.ip().to_canonical(), patience: Duration::from_millis(patience_ms) };
        match (context.look_up)(direct.origin.clone(), key, asker) {
            Asked::Taken => {}
            Asked::Hangs => {
                let detail = format!("nobody answers for {}: its look-up hangs", direct.origin.host());
                return direct.give_up(fault(Cause::ResolveTimeout, detail), client, context);
            }
            Asked::Declined => {
                let detail = "too many look-ups wait, or no thread can be started for this one";
                return direct.give_up(fault(Cause::ResourcesExhausted, detail), client, context);
            }
        }
        client.set_deadline(key, context, context.now_ms() + patience_ms);
        Step::Wait(Stage::Direct(direct))
    }

    /// The origin's name was looked up.
    pub(super) fn found(&mut self, resolution: Resolution) {
        match resolution {
            Resolution::Addresses(addresses) => {
                // A name must not lead where its address would not.
                let allowed: Vec<SocketAddr> =
                    addresses.iter().filter(|address| self.is_allowed(**address)).copied().collect();
                if allowed.is_empty() {
                    let detail = format!(
                        "{} leads to a link-local address or a metadata service, which the routes deny",
                        self.origin
                    );
                    self.last = Some(fault(Cause::DestinationDenied, detail));
                }
                self.addresses = Some(allowed.into());
            }
            Resolution::Failed(why) => {
                self.last =
                    Some(fault(Cause::ResolveFailed, format!("{} does not resolve: {why}", self.origin.host())));
                self.addresses = Some(Arc::default());
            }
        }
    }

    /// A metadata service is, where a route names its address.
    fn is_allowed(&self, address: SocketAddr) -> bool {
        let host = match address.ip().to_canonical() {
            IpAddr::V4(address) => Host::V4(address),
            IpAddr::V6(address) => Host::V6(address),
        };
        let written_out = Authority { host, port: address.port() };
        metadata_network(address.ip()).is_none() || self.egress.decide(&written_out) == Decision::Direct
    }

    /// What its buffers take, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.leftover.capacity() + self.request.as_ref().map_or(0, |request| request.held_bytes())
    }

    pub(super) fn endpoint(&mut self, number: u8) -> Option<&mut Endpoint> {
        self.race.endpoint(number)
    }

    pub(super) fn step(self: Box<Self>, key: Key, client: &mut Client, context: &mut Context) -> Step {
        if client.endpoint.ready.reset() {
            return Step::end(context.fault(fault(Cause::ClientGone, "the client reset its connection")));
        }
        match &self.addresses {
            None => Step::Wait(Stage::Direct(self)),
            Some(_) => self.go_on(key, client, context),
        }
    }

    pub(super) fn expired(mut self: Box<Self>, key: Key, client: &mut Client, context: &mut Context) -> Step {
        let now_ms = context.now_ms();
        if self.addresses.is_none() {
            let detail = format!("{} was not resolved in time", self.origin.host());
            return self.give_up(fault(Cause::ResolveTimeout, detail), client, context);
        }
        while let Some((_, fault)) = self.race.overdue(now_ms) {
            self.last = Some(fault);
        }
        if now_ms >= self.until_ms {
            let late = || fault(Cause::ConnectTimeout, "the origin did not take the connection in time");
            let fault = self.last.take().unwrap_or_else(late);
            return self.give_up(fault, client, context);
        }
        self.go_on(key, client, context)
    }

    fn go_on(mut self: Box<Self>, key: Key, client: &mut Client, context: &mut Context) -> Step {
        while let Some((racer, outcome)) = self.race.finished() {
            match outcome {
                Ok(()) => return self.connected(racer, key, client, context),
                Err(error) => self.last = Some(Fault::dial_io(racer.candidate.address, &error)),
            }
        }
        let addresses = self.addresses.clone().unwrap_or_default();
        while self.race.may_launch(context.now_ms())
            && let Some(address) = addresses.get(self.tried).copied()
        {
            let candidate = Candidate { address, member: 0, place: self.tried };
            self.tried += 1;
            if let Err(error) = self.race.launch(candidate, key, context) {
                self.last = Some(Fault::dial_io(address, &error));
            }
        }
        if self.race.is_empty() {
            let none = || fault(Cause::ResolveFailed, "the origin's name has no address");
            let fault = self.last.take().unwrap_or_else(none);
            return self.give_up(fault, client, context);
        }
        let due_ms = self.race.due_ms(self.tried < addresses.len()).unwrap_or(self.until_ms);
        client.set_deadline(key, context, due_ms.min(self.until_ms));
        Step::Wait(Stage::Direct(self))
    }

    fn connected(self, winner: Racer, key: Key, client: &mut Client, context: &mut Context) -> Step {
        if let Some((peer, local)) = winner.endpoint.stream.ends()
            && context.settings.egress.is_gateway(peer, local)
        {
            let detail = format!("{} is the gateway itself", self.origin);
            return self.give_up(fault(Cause::DestinationDenied, detail), client, context);
        }
        client.record.handshake_us = client.handshake_us(self.started_us, context);
        if let Some(request) = self.request {
            return Exchange::straight(request, winner.endpoint, winner.number, self.leftover, key, client, context);
        }
        Reply::established(winner.endpoint, Vec::new(), self.leftover, client, context)
    }

    fn give_up(self, fault: Fault, client: &mut Client, context: &mut Context) -> Step {
        client.record.handshake_us = client.handshake_us(self.started_us, context);
        Reply::to_fault(fault, client, context)
    }
}

fn fault(cause: Cause, detail: impl Into<std::borrow::Cow<'static, str>>) -> Fault {
    Fault::new(At::Dial, cause, detail)
}
