//! The session: a client's connection and what becomes of it, one stage at a time.
//!
//! ```text
//!   ReadRequest ──▶ Dial ──▶ Authenticate ──▶ Reply ──▶ Relay ──▶ end
//!      │          ▲ │          │             │
//!      │          │ └──────────┤ fault       └──▶ Linger ──▶ end
//!      │          └────────────┘ redial             ▲
//!      └──────────────── fault ─────────────────────┘ (through Reply)
//! ```
//!
//! A stage is a struct that owns what it needs and nothing else; stepping consumes it and yields the next. What every
//! stage has, the client's side, is [`Client`].

mod authenticate;
mod context;
mod declined;
mod dial;
mod direct;
mod exchange;
mod happy_eyeballs;
mod linger;
mod read_request;
mod record;
mod relay;
mod reply;
mod select_hop;
mod snapshot;

use std::net::SocketAddr;

use crate::event::{Deadline, Endpoint, Key, Lane, Readiness, Stream};
use crate::fault::{At, Cause, Fault};
use crate::upstream::Resolution;
use authenticate::Authenticate;
use declined::DeclinedPage;
use dial::Dial;
use direct::Direct;
use exchange::Exchange;
use linger::Linger;
use read_request::ReadRequest;
use relay::{Relay, Relayed};
use reply::Reply;

pub use crate::timeouts::TimeoutsMs;
pub use context::{Context, SessionSettings, pseudonym};
pub use read_request::Admission;
pub use record::{ACCESS, End, Record};
pub use snapshot::SessionSnapshot;

/// The client's side of a tunnel: there at every stage.
#[derive(Debug)]
struct Client {
    endpoint: Endpoint,
    record: Record,
    deadline: Deadline,
}

impl Client {
    /// Sets the one deadline of the tunnel.
    fn set_deadline(&mut self, key: Key, context: &mut Context, at_ms: u64) {
        context.timers.set(key, &mut self.deadline, at_ms);
    }

    fn handshake_us(&self, started_us: u64, context: &Context) -> u32 {
        u32::try_from(context.now_us.saturating_sub(started_us)).unwrap_or(u32::MAX)
    }
}

/// Where a tunnel is on the way of the data. What is rare and large is boxed, because ten thousand relaying tunnels
/// must be small.
#[derive(Debug)]
enum Stage {
    ReadRequest(ReadRequest),
    Dial(Box<Dial>),
    Direct(Box<Direct>),
    Exchange(Box<Exchange>),
    Authenticate(Box<Authenticate>),
    Declined(Box<DeclinedPage>),
    Reply(Box<Reply>),
    Relay(Relay),
    Linger(Box<Linger>),
    /// Only while a step is under way.
    Stepping,
}

impl Stage {
    fn at(&self) -> At {
        match self {
            Stage::ReadRequest(_) => At::ReadHead,
            Stage::Dial(_) | Stage::Direct(_) => At::Dial,
            Stage::Authenticate(_) => At::Authenticate,
            Stage::Declined(_) | Stage::Exchange(_) | Stage::Reply(_) | Stage::Linger(_) => At::Reply,
            Stage::Relay(_) | Stage::Stepping => At::Relay,
        }
    }
}

/// What came of stepping a stage.
enum Step {
    /// On to the next stage, at once.
    Go(Stage),
    /// Until an event, a deadline or a message comes.
    Wait(Stage),
    /// After the others: its budget is used up.
    Yield(Stage),
    /// The tunnel is over, with so many bytes relayed up and down.
    End(End, u64, u64),
}

impl Step {
    /// The end of a tunnel that never relayed.
    fn end(end: End) -> Step {
        Step::End(end, 0, 0)
    }
}

/// What the shard is to do with a tunnel that it stepped.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Leave it until something comes for it.
    Wait,
    /// Step it again after the others.
    Yield,
    /// Remove it.
    Close,
}

/// How a connection is idle: there is no request on it that anybody works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Nothing of a request has come.
    Silent,
    /// A part of a request's head has come.
    Begun,
    /// It was answered, and the client has not closed it.
    Answered,
}

/// How a client came.
#[derive(Clone, Copy, Debug)]
pub struct Came {
    /// Its address.
    pub from: SocketAddr,
    /// The number of the listener that it came in by.
    pub listener: usize,
    /// What was decided about it.
    pub admission: Admission,
}

/// One tunnel.
#[derive(Debug)]
pub struct Session {
    client: Client,
    stage: Stage,
}

impl Session {
    /// A tunnel for a connection that was just accepted and registered. Its deadline is set.
    pub fn new(key: Key, stream: Stream, came: Came, context: &mut Context) -> Session {
        let endpoint = Endpoint { stream, ready: Readiness::HOPEFUL };
        let listener = u16::try_from(came.listener).unwrap_or(u16::MAX);
        let record = Record { listener, ..Record::new(came.from, context.now_us) };
        let mut client = Client { endpoint, record, deadline: Deadline::UNARMED };
        let at_ms = context.now_ms() + context.settings.timeouts.head;
        client.set_deadline(key, context, at_ms);
        Session { client, stage: Stage::ReadRequest(ReadRequest::new(came)) }
    }

    /// Takes note of an event; `false` when it came for a connection that has been given up.
    pub fn learn(&mut self, lane: Lane, ready: Readiness) -> bool {
        let endpoint = match (lane, &mut self.stage) {
            (Lane::Downstream, _) => Some(&mut self.client.endpoint),
            (Lane::Upstream(attempt), Stage::Dial(dial)) => dial.endpoint(attempt),
            (Lane::Upstream(attempt), Stage::ReadRequest(stage)) => stage.endpoint(attempt),
            (Lane::Upstream(attempt), Stage::Exchange(stage)) => stage.endpoint(attempt),
            (Lane::Upstream(attempt), Stage::Direct(stage)) => stage.endpoint(attempt),
            (Lane::Upstream(attempt), Stage::Authenticate(stage)) => stage.endpoint(attempt),
            (Lane::Upstream(_), Stage::Declined(stage)) => Some(stage.endpoint()),
            (Lane::Upstream(_), Stage::Reply(stage)) => stage.endpoint(),
            (Lane::Upstream(_), Stage::Relay(stage)) => Some(stage.endpoint()),
            _ => None,
        };
        endpoint.map(|endpoint| endpoint.ready.learn(ready)).is_some()
    }

    /// Ends it between two requests.
    pub fn dismiss(&self, context: &Context) {
        self.conclude(context, &End::Finished, 0, 0);
    }

    /// The client's address.
    pub fn client(&self) -> SocketAddr {
        self.client.record.client
    }

    /// How it is idle, if it is.
    pub fn idle(&self) -> Option<Idle> {
        match &self.stage {
            Stage::ReadRequest(stage) if stage.rests() => Some(Idle::Silent),
            Stage::ReadRequest(_) => Some(Idle::Begun),
            Stage::Linger(_) => Some(Idle::Answered),
            _ => None,
        }
    }

    /// What its buffers take, in bytes.
    pub fn held_bytes(&self) -> usize {
        match &self.stage {
            Stage::ReadRequest(stage) => stage.held_bytes(),
            Stage::Dial(stage) => stage.held_bytes(),
            Stage::Direct(stage) => stage.held_bytes(),
            Stage::Exchange(stage) => stage.held_bytes(),
            Stage::Authenticate(stage) => stage.held_bytes(),
            Stage::Declined(stage) => stage.held_bytes(),
            Stage::Reply(stage) => stage.held_bytes(),
            Stage::Relay(stage) => stage.held_bytes(),
            Stage::Linger(_) | Stage::Stepping => 0,
        }
    }

    /// Ends it while it is idle, because others need its place or its descriptor now. Who has begun a request is told, as far as the
    /// connection takes it at once.
    pub fn give_way(&mut self, context: &mut Context) {
        let end = match std::mem::replace(&mut self.stage, Stage::Stepping) {
            Stage::Linger(stage) => stage.into_end(),
            Stage::ReadRequest(stage) if !stage.rests() => reply::give_way(&mut self.client, context),
            _ => End::GaveWay,
        };
        self.conclude(context, &end, 0, 0);
    }

    /// Whether it is between two requests.
    pub fn rests(&self) -> bool {
        matches!(&self.stage, Stage::ReadRequest(stage) if stage.rests()) && self.client.record.is_between_requests()
    }

    /// The name of its origin was looked up; it must be stepped then.
    pub fn found(&mut self, resolution: Resolution) {
        if let Stage::Direct(direct) = &mut self.stage {
            direct.found(resolution);
        }
    }

    /// Does all that can be done now.
    pub fn step(&mut self, key: Key, context: &mut Context) -> Next {
        loop {
            // Stepped in place: to move this stage out and back would cost as much as a small message does.
            if let Stage::Relay(stage) = &mut self.stage {
                match stage.step(key, &mut self.client, context) {
                    Relayed::Wait => return Next::Wait,
                    Relayed::Yield => return Next::Yield,
                    Relayed::Over(end) => {
                        self.end_relay(&end, context);
                        return Next::Close;
                    }
                }
            }
            let step = match std::mem::replace(&mut self.stage, Stage::Stepping) {
                Stage::ReadRequest(stage) => stage.step(key, &mut self.client, context),
                Stage::Dial(stage) => stage.step(key, &mut self.client, context),
                Stage::Direct(stage) => stage.step(key, &mut self.client, context),
                Stage::Exchange(stage) => stage.step(key, &mut self.client, context),
                Stage::Authenticate(stage) => stage.step(key, &mut self.client, context),
                Stage::Declined(stage) => stage.step(&mut self.client, context),
                Stage::Reply(stage) => stage.step(key, &mut self.client, context),
                Stage::Linger(stage) => stage.step(&mut self.client, context),
                Stage::Relay(_) | Stage::Stepping => {
                    unreachable!("the relay is stepped in place, and every stage is put back")
                }
            };
            if let Some(next) = self.take(step, context) {
                return next;
            }
        }
    }

    /// The deadline's entry in the timers has come up; steps on if the deadline has really passed.
    pub fn deadline_due(&mut self, key: Key, context: &mut Context) -> Next {
        let now_ms = context.now_ms();
        if !context.timers.expired(key, &mut self.client.deadline, now_ms) {
            return Next::Wait;
        }
        let step = match std::mem::replace(&mut self.stage, Stage::Stepping) {
            Stage::ReadRequest(stage) => stage.expired(&mut self.client, context),
            Stage::Dial(stage) => stage.expired(key, &mut self.client, context),
            Stage::Direct(stage) => stage.expired(key, &mut self.client, context),
            Stage::Exchange(stage) => stage.expired(key, &mut self.client, context),
            Stage::Authenticate(stage) => stage.expired(key, &mut self.client, context),
            Stage::Declined(stage) => stage.expired(&mut self.client, context),
            Stage::Relay(stage) => {
                let end = stage.timed_out(context);
                self.stage = Stage::Relay(stage);
                self.end_relay(&end, context);
                return Next::Close;
            }
            Stage::Reply(stage) => stage.expired(context),
            Stage::Linger(stage) => Step::end(stage.into_end()),
            Stage::Stepping => unreachable!("a stage is put back after every step"),
        };
        match self.take(step, context) {
            Some(next) => next,
            None => self.step(key, context),
        }
    }

    /// Ends the tunnel wherever it is, because the gateway is shutting down.
    pub fn cut(&mut self, context: &mut Context) {
        let end = context.fault(Fault::new(self.stage.at(), Cause::Drained, "the gateway is shutting down"));
        self.end_relay(&end, context);
    }

    /// Ends a tunnel whose halves may hold pipes.
    fn end_relay(&mut self, end: &End, context: &mut Context) {
        let (up, down) = match std::mem::replace(&mut self.stage, Stage::Stepping) {
            Stage::Relay(stage) => stage.dismantle(context),
            Stage::Exchange(stage) => {
                stage.cut(&mut self.client, context);
                (0, 0)
            }
            _ => (0, 0),
        };
        self.conclude(context, end, up, down);
    }

    /// Puts the result of a step in place; `None` to go on at once.
    fn take(&mut self, step: Step, context: &mut Context) -> Option<Next> {
        match step {
            Step::Go(stage) => {
                self.stage = stage;
                None
            }
            Step::Wait(stage) => {
                self.stage = stage;
                Some(Next::Wait)
            }
            Step::Yield(stage) => {
                self.stage = stage;
                Some(Next::Yield)
            }
            Step::End(end, bytes_up, bytes_down) => {
                self.conclude(context, &end, bytes_up, bytes_down);
                Some(Next::Close)
            }
        }
    }

    /// Counts and logs the end of the tunnel.
    fn conclude(&self, context: &Context, end: &End, bytes_up: u64, bytes_down: u64) {
        context.metrics.closed(end.label());
        #[cfg(test)]
        self.client.endpoint.stream.conclude(
            end.label(),
            matches!(end, End::Fault(fault) if fault.at == At::Relay),
            [bytes_up, bytes_down],
        );
        let record = &self.client.record;
        if !record.is_between_requests() {
            record.log(record.bytes_up + bytes_up, record.bytes_down + bytes_down, context.now_us, end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten thousand of them are idle: what is rare and large must stay behind a pointer.
    #[test]
    fn a_tunnel_takes_little_room_in_the_slab() {
        let bytes = size_of::<Session>();
        assert!(bytes <= 272, "{bytes} bytes");
    }
}
