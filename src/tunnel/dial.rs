//! The second stage: finding the upstream and connecting to it.

use std::net::SocketAddr;

use mio::net::TcpStream;
use mio::{Interest, Token};

use super::authenticate::Authenticate;
use super::reply::Reply;
use super::shortage::Waiting;
use super::warm;
use super::{Client, Context, Stage, Step};
use crate::event::{Endpoint, EventToken, Key, Lane, Readiness};
use crate::fault::{At, Cause, Fault, is_exhaustion};
use crate::handshake::{Handshake, Request};
use crate::metrics::{Outcome, Path, Phase};
use crate::upstream::Resolution;

/// What a handshake takes along over all its connections.
#[derive(Debug)]
pub(super) struct Attempt {
    pub handshake: Handshake,
    /// What the client sent behind its head.
    pub leftover: Vec<u8>,
    /// When the first dial began, in µs.
    pub started_us: u64,
    /// When the client must have its answer, in ms.
    pub until_ms: u64,
    /// Connections dialled so far, wrapping; tells the events of one from those of the next.
    pub number: u8,
    /// Whether the present connection was challenged ahead.
    pub path: Path,
    /// Held from the dial to the challenge.
    pub waiting: Option<Waiting>,
}

#[derive(Debug)]
enum State {
    WaitForAddresses,
    Connecting { endpoint: Endpoint, peer: SocketAddr, index: usize, since_us: u64 },
}

/// Connecting, one address after the other.
#[derive(Debug)]
pub(super) struct Dial {
    attempt: Attempt,
    state: State,
    /// Addresses tried for this connection.
    tried: usize,
}

impl Dial {
    /// Begins a request's way upstream; gives up at once while the credential guard is closed.
    pub(super) fn start(
        request: Request,
        leftover: Vec<u8>,
        key: Key,
        client: &mut Client,
        context: &mut Context,
    ) -> Step {
        if let Some(rest) = context.settings.guard.held(context.now_ms()) {
            return Reply::to_fault(super::authenticate::held_fault(rest), client, context);
        }
        if let Some(rest) = context.settings.guard.barred(context.now_ms(), &request.authority) {
            return Reply::to_fault(super::authenticate::barred_fault(rest), client, context);
        }
        let until_ms = context.now_ms() + context.settings.timeouts.handshake;
        let started_us = context.now_us;
        let request = match warm::take(request, key, 0, context) {
            Ok((upstream, handshake)) => {
                let attempt =
                    Attempt { handshake, leftover, started_us, until_ms, number: 0, path: Path::Warm, waiting: None };
                return Authenticate::resume(attempt, upstream, key, client, context);
            }
            Err(request) => request,
        };
        let settings = &context.settings;
        let handshake = Handshake::new(request, settings.credentials.clone(), settings.head_limit_bytes);
        let attempt = Attempt { handshake, leftover, started_us, until_ms, number: 0, path: Path::Cold, waiting: None };
        Dial::anew(attempt, key, client, context)
    }

    /// Dials a fresh connection for a handshake that may have used up others.
    pub(super) fn anew(mut attempt: Attempt, key: Key, client: &mut Client, context: &mut Context) -> Step {
        attempt.path = Path::Cold;
        attempt.waiting = Some(context.warm.shortage.client_waits(context.now_ms()));
        let dial = Box::new(Dial { attempt, state: State::WaitForAddresses, tried: 0 });
        match &context.resolution {
            Some(Resolution::Addresses(_)) => dial.connect_next(None, key, client, context),
            Some(Resolution::Failed(why)) => {
                let fault = fault(Cause::ResolveFailed, format!("the upstream's name does not resolve: {why}"));
                dial.give_up(fault, client, context)
            }
            None => {
                context.address_waiters.push(key);
                let at_ms = context.now_ms() + context.settings.timeouts.connect;
                client.set_deadline(key, context, at_ms.min(dial.attempt.until_ms));
                Step::Wait(Stage::Dial(dial))
            }
        }
    }

    pub(super) fn endpoint(&mut self, attempt: u8) -> Option<&mut Endpoint> {
        match &mut self.state {
            State::Connecting { endpoint, .. } if self.attempt.number % 3 == attempt => Some(endpoint),
            _ => None,
        }
    }

    pub(super) fn step(self: Box<Self>, key: Key, client: &mut Client, context: &mut Context) -> Step {
        if client.endpoint.ready.reset() {
            return self.client_gone(context);
        }
        match &self.state {
            State::WaitForAddresses if context.resolution.is_none() => Step::Wait(Stage::Dial(self)),
            State::WaitForAddresses => {
                context.metrics.phase(Phase::Resolve, context.now_us - self.attempt.started_us);
                Dial::anew(self.attempt, key, client, context)
            }
            State::Connecting { endpoint, .. } if !endpoint.ready.writable() => Step::Wait(Stage::Dial(self)),
            State::Connecting { endpoint, peer, .. } => match endpoint.stream.take_error() {
                Ok(None) => self.connected(key, client, context),
                Ok(Some(error)) | Err(error) => {
                    let fault = Fault::dial_io(*peer, &error);
                    self.connect_next(Some(fault), key, client, context)
                }
            },
        }
    }

    pub(super) fn expired(self: Box<Self>, key: Key, client: &mut Client, context: &mut Context) -> Step {
        match self.state {
            State::WaitForAddresses => {
                let fault = fault(Cause::ResolveTimeout, "the upstream's name was not resolved in time");
                self.give_up(fault, client, context)
            }
            State::Connecting { peer, .. } => {
                let fault = fault(Cause::ConnectTimeout, format!("{peer} did not take the connection in time"));
                match context.now_ms() >= self.attempt.until_ms {
                    true => self.give_up(fault, client, context),
                    false => self.connect_next(Some(fault), key, client, context),
                }
            }
        }
    }

    /// Begins connecting to the next address; with none left, the last fault is the answer.
    fn connect_next(
        mut self: Box<Self>,
        mut last: Option<Fault>,
        key: Key,
        client: &mut Client,
        context: &mut Context,
    ) -> Step {
        loop {
            let Some((index, address)) = context.address(self.tried) else {
                let none = || fault(Cause::ResolveFailed, "the upstream's name has no address");
                return self.give_up(last.unwrap_or_else(none), client, context);
            };
            self.tried += 1;
            self.attempt.number = self.attempt.number.wrapping_add(1) % 3;
            context.metrics.dials.inc();
            match connect(address, key, self.attempt.number, context) {
                Ok(endpoint) => {
                    self.state = State::Connecting { endpoint, peer: address, index, since_us: context.now_us };
                    let at_ms = context.now_ms() + context.settings.timeouts.connect;
                    client.set_deadline(key, context, at_ms.min(self.attempt.until_ms));
                    return Step::Wait(Stage::Dial(self));
                }
                Err(error) => {
                    let exhausted = is_exhaustion(&error);
                    let fault = Fault::dial_io(address, &error);
                    if exhausted {
                        return self.give_up(fault, client, context);
                    }
                    last = Some(fault);
                }
            }
        }
    }

    fn connected(self: Box<Self>, key: Key, client: &mut Client, context: &mut Context) -> Step {
        let Dial { attempt, state, .. } = *self;
        let State::Connecting { endpoint, index, since_us, .. } = state else {
            unreachable!("only a connecting dial connects")
        };
        context.preferred_address = index;
        context.metrics.phase(Phase::Connect, context.now_us - since_us);
        Authenticate::begin(attempt, endpoint, key, client, context)
    }

    fn give_up(self: Box<Self>, fault: Fault, client: &mut Client, context: &mut Context) -> Step {
        let duration_us = client.handshake_us(self.attempt.started_us, context);
        context.metrics.handshake(Path::Cold, Outcome::Failed, u64::from(duration_us));
        client.record.handshake_us = duration_us;
        client.record.legs = self.attempt.handshake.legs();
        Reply::to_fault(fault, client, context)
    }

    fn client_gone(self: Box<Self>, context: &Context) -> Step {
        context.metrics.handshake(Path::Cold, Outcome::Failed, context.now_us - self.attempt.started_us);
        Step::end(context.fault(fault(Cause::ClientGone, "the client reset its connection")))
    }
}

/// Begins to connect and registers the connection, for reading and writing at once and for good.
pub(super) fn connect(address: SocketAddr, key: Key, number: u8, context: &Context) -> std::io::Result<Endpoint> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    // The request follows at once: its segment carries the handshake's last ACK, which saves a packet a tunnel. A kernel that
    // declines sends that ACK by itself.
    let _ = rustix::net::sockopt::set_tcp_quickack(&stream, false);
    let token = Token::from(EventToken { key, lane: Lane::Upstream(number) });
    context.registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
    Ok(Endpoint { stream, ready: Readiness::NOTHING })
}

fn fault(cause: Cause, detail: impl Into<std::borrow::Cow<'static, str>>) -> Fault {
    Fault::new(At::Dial, cause, detail)
}
