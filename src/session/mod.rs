//! A session: a client's connection and what becomes of it, one stage at a time.
//!
//! ```text
//!       ┌───────────────────────────────────── next request ──────────────────────────────────────┐
//!       │                               ┌──── next ──────┬────────────┐                           │
//!       ▼                               ▼   candidate    │            │                           │
//!  ReadRequest ─▶ ChooseRoute ─▶ (follow_route) ─▶ (select_hop) ─▶ Connect ─▶ Authenticate ─▶ Exchange ─▶ Linger
//!       │              │                │                │            │           │  └▶ Decline   │ 101      ▲
//!       └──────────────┴─── rejected ───┴────────────────┴────────────┴───────────┴───────┴───────┴─▶ Reply ─┤
//!                                                                                                            └▶ Relay
//! ```
//!
//! A stage owns what it needs and nothing else. Stepping consumes it; it waits by returning itself, and ends by
//! returning a [`Transition`], whose file has every edge. Only this file builds stages and acts on transitions; no
//! stage names another. `follow_route` and `select_hop` decide at once and so are functions.

mod admission;
mod attempt;
mod authenticate;
mod choose_route;
mod connect;
mod connection_source;
mod context;
mod cx;
mod decline;
mod effects;
mod exchange;
mod few;
mod follow_route;
mod guard_faults;
mod happy_eyeballs;
mod linger;
mod pinned;
mod read_request;
mod record;
mod relay;
mod reply;
mod respond;
mod route_progress;
mod select_hop;
mod snapshot;
mod stage;
mod transition;

use std::net::SocketAddr;
use std::sync::Arc;

use crate::client_protocol::ClientProtocol;
use crate::event::{DIALS, Deadline, EventToken, Key, Lane};
use crate::fault::{At, Cause, Fault};
use crate::route::RouteAnswer;
use crate::transport::{Endpoint, Readiness, SocketOptions, Stream};
use crate::upstream::Resolution;
use authenticate::Authenticate;
use choose_route::ChooseRoute;
use connect::Connect;
use cx::{Client, Cx};
use decline::Decline;
use exchange::Exchange;
use linger::Linger;
use read_request::ReadRequest;
use relay::Relay;
use reply::Reply;
use stage::{StageOps, Step, Wake};
use transition::Transition;

pub use crate::timeouts::TimeoutsMs;
pub use admission::Admission;
pub use context::{Context, SessionSettings, TurnTime, pseudonym};
pub use record::ACCESS;
use record::{End, Record};
pub use snapshot::SessionSnapshot;
pub use stage::Idle;

/// Declares the stages and the only code that tells them apart.
macro_rules! stages {
    ($($name:ident($type:ty),)*) => {
        /// Where a session is. What is rare and large is boxed, because ten thousand relaying sessions must be small.
        #[derive(Debug)]
        enum Stage {
            $($name($type),)*
            /// It is over.
            Ended,
        }

        // What every event asks for has a function of its own, because a call through `dyn` cannot be inlined.
        impl Stage {
            fn wake(self, wake: Wake, cx: &mut Cx<'_>) -> Step<Stage> {
                match self {
                    $(Stage::$name(stage) => match wake {
                        Wake::Ready => stage.step(cx).map(Stage::$name),
                        Wake::Expired => stage.expired(cx).map(Stage::$name),
                        Wake::GiveWay => Step::Go(Transition::End(stage.give_way(cx))),
                    },)*
                    Stage::Ended => Step::Wait(Stage::Ended),
                }
            }

            fn dismantle(self, cx: &mut Cx<'_>) -> [u64; 2] {
                match self {
                    $(Stage::$name(stage) => stage.dismantle(cx),)*
                    Stage::Ended => [0, 0],
                }
            }

            fn held_bytes(&self) -> usize {
                match self {
                    $(Stage::$name(stage) => stage.held_bytes(),)*
                    Stage::Ended => 0,
                }
            }

            fn idle(&self) -> Option<Idle> {
                match self {
                    $(Stage::$name(stage) => stage.idle(),)*
                    Stage::Ended => None,
                }
            }

            fn upstream(&mut self, number: u8) -> Option<&mut Endpoint> {
                match self {
                    $(Stage::$name(stage) => stage.upstream(number),)*
                    Stage::Ended => None,
                }
            }

            fn ops(&self) -> Option<&dyn StageOps> {
                match self {
                    $(Stage::$name(stage) => Some(stage),)*
                    Stage::Ended => None,
                }
            }

            fn moves_bulk(&self) -> bool {
                match self {
                    $(Stage::$name(stage) => stage.moves_bulk(),)*
                    Stage::Ended => false,
                }
            }

            fn ops_mut(&mut self) -> Option<&mut dyn StageOps> {
                match self {
                    $(Stage::$name(stage) => Some(stage),)*
                    Stage::Ended => None,
                }
            }
        }
    };
}

stages! {
    ReadRequest(ReadRequest),
    ChooseRoute(Box<ChooseRoute>),
    Connect(Box<Connect>),
    Authenticate(Box<Authenticate>),
    Exchange(Box<Exchange>),
    Decline(Box<Decline>),
    Reply(Box<Reply>),
    Relay(Relay),
    Linger(Box<Linger>),
}

/// Builds the stage that a transition leads to, or ends the session.
fn enter(transition: Transition, cx: &mut Cx<'_>) -> Result<Stage, End> {
    Ok(match transition {
        Transition::ChooseRoute(received) => match choose_route::choose(received, cx) {
            Step::Wait(stage) | Step::Yield(stage) => Stage::ChooseRoute(stage),
            Step::Go(transition) => return enter(transition, cx),
        },
        // A plan has few candidates, so this ends.
        Transition::FollowRoute(departure) => return enter(follow_route::follow(departure, cx), cx),
        Transition::SelectHop(departure, candidate) => return enter(select_hop::select(departure, candidate, cx), cx),
        Transition::ReadRequest(next) => Stage::ReadRequest(ReadRequest::next(next, cx)),
        Transition::Connect(target) => Stage::Connect(Box::new(Connect::new(target, cx))),
        Transition::Authenticate(connected) => Stage::Authenticate(Box::new(Authenticate::new(connected, cx))),
        Transition::Exchange(opened) => Stage::Exchange(Box::new(Exchange::new(opened, cx))),
        Transition::Decline(declining) => Stage::Decline(Box::new(Decline::new(declining))),
        Transition::Reply(answer) => match reply::reply(answer, cx) {
            Step::Wait(stage) | Step::Yield(stage) => Stage::Reply(stage),
            Step::Go(transition) => return enter(transition, cx),
        },
        Transition::Relay(halves) => Stage::Relay(Relay::new(halves, cx)),
        Transition::Linger(end) => Stage::Linger(Box::new(Linger::new(end, cx)?)),
        Transition::End(end) => return Err(end),
    })
}

/// What the shard is to do with a session that it stepped.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Leave it until something comes for it.
    Wait,
    /// Step it again after the others; if it moves bulk data, when bulk transfers do not pause.
    Yield,
    /// A PROXY header has named its client, which is to be admitted ([`Session::admit`]).
    Named,
    /// Remove it.
    Close,
}

/// How a client arrived.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Its address.
    pub from: SocketAddr,
    /// The number of the listener that accepted it.
    pub listener: usize,
    /// What was decided about it.
    pub admission: Admission,
    /// A PROXY header must come first and name the client.
    pub awaits_proxy_header: bool,
}

/// One client's connection.
#[derive(Debug)]
pub struct Session {
    client: Client,
    stage: Stage,
}

impl Session {
    /// A session for a connection that was just accepted and registered. Its deadline is set.
    pub fn new(key: Key, stream: Stream, arrival: Arrival, context: &mut Context) -> Session {
        let record = Record::new(arrival.from, arrival.listener, context.now_us());
        let mut client = Client {
            endpoint: Endpoint { stream, ready: Readiness::HOPEFUL },
            record,
            deadline: Deadline::UNARMED,
            protocol: ClientProtocol::Unknown,
            last_dial: 0,
            lasts: false,
            parked: None,
            awaits_room: false,
        };
        let mut cx = Cx { key, client: &mut client, shard: context };
        let stage = Stage::ReadRequest(ReadRequest::first(arrival.admission, arrival.awaits_proxy_header, &mut cx));
        Session { client, stage }
    }

    /// Takes note of an event; `false` if it is about a connection that was given up.
    #[inline]
    pub fn learn(&mut self, lane: Lane, ready: Readiness) -> bool {
        let endpoint = match lane {
            Lane::Downstream => Some(&mut self.client.endpoint),
            Lane::Upstream(number) if self.client.parked == Some(number) => None,
            Lane::Upstream(number) => self.stage.upstream(number),
        };
        endpoint.map(|endpoint| endpoint.learn(ready)).is_some()
    }

    /// The client that a PROXY header has named, once, after [`Next::Named`].
    pub fn take_named(&mut self) -> Option<SocketAddr> {
        match &mut self.stage {
            Stage::ReadRequest(stage) => stage.take_named(),
            _ => None,
        }
    }

    /// Admits the client that a PROXY header has named, or not; it must be stepped then.
    pub fn admit(&mut self, client: SocketAddr, admission: Admission, key: Key, context: &mut Context) {
        self.client.record.comes_from(client);
        if let Stage::ReadRequest(stage) = &mut self.stage {
            stage.admit(admission, &mut Cx { key, client: &mut self.client, shard: context });
        }
    }

    /// The client's address.
    pub fn client(&self) -> SocketAddr {
        self.client.record.client()
    }

    /// How it is idle, if it is.
    #[inline]
    pub fn idle(&self) -> Option<Idle> {
        match &self.stage {
            // Asked after every message.
            Stage::Relay(_) => None,
            stage => stage.idle(),
        }
    }

    /// The size of its buffers in bytes.
    #[inline]
    pub fn held_bytes(&self) -> usize {
        self.client.endpoint.held_bytes()
            + match &self.stage {
                Stage::Relay(relay) => relay.held_bytes(),
                stage => stage.held_bytes(),
            }
    }

    /// Whether it is between two requests.
    pub fn rests(&self) -> bool {
        self.idle() == Some(Idle::Silent) && self.client.record.is_between_requests()
    }

    /// The name of its origin was looked up; it must be stepped then.
    pub fn found(&mut self, resolution: Resolution) {
        if let Some(stage) = self.stage.ops_mut() {
            stage.found(resolution);
        }
    }

    /// A source of routes has answered the question of this number; `true` if the session waits for that answer, and
    /// must be stepped.
    pub fn routed(&mut self, question: u32, answer: RouteAnswer) -> bool {
        self.stage.ops_mut().is_some_and(|stage| stage.routed(question, answer))
    }

    /// What it is doing now.
    pub fn describe(&self, shard: usize, key: Key, context: &Context) -> SessionSnapshot {
        let record = &self.client.record;
        let stage = self.stage.ops();
        let relayed = stage.and_then(StageOps::relayed);
        SessionSnapshot {
            shard,
            key,
            client: record.client(),
            target: record.target().unwrap_or_default().into(),
            upstream: record.on_hop.as_ref().map_or_else(|| "-".into(), |hop| Arc::clone(hop.upstream.name())),
            // Between two steps no session is asked, and one that has ended is gone.
            stage: stage.map_or("closing", StageOps::label),
            age_ms: context.now_us().saturating_sub(record.accepted_us) / 1000,
            idle_ms: relayed.as_ref().map(|relayed| context.now_ms().saturating_sub(relayed.active_ms)),
            bytes_up: relayed.as_ref().map_or(0, |relayed| relayed.bytes_up),
            bytes_down: relayed.as_ref().map_or(0, |relayed| relayed.bytes_down),
        }
    }

    /// Does all that can be done now.
    #[inline]
    pub fn step(&mut self, key: Key, context: &mut Context) -> Next {
        let next = match &self.stage {
            Stage::Relay(_) => self.relay(Wake::Ready, key, context),
            _ => self.step_stage(key, context),
        };
        self.with_room(next, key, context)
    }

    /// As [`Session::step`], for stages other than the relay. Takes note of small work. Never inlined, because `step`
    /// is on the path of every message.
    #[inline(never)]
    fn step_stage(&mut self, key: Key, context: &mut Context) -> Next {
        let bulk_moves = context.bulk_pace.bulk_moves();
        let next = self.wake(Wake::Ready, key, context);
        if !self.moves_bulk() && context.bulk_pace.bulk_moves() == bulk_moves {
            context.bulk_pace.did_small_work(context.now_us());
        }
        next
    }

    /// Whether it moves bulk data: it goes on after [`Next::Yield`] only while bulk transfers do not pause.
    pub fn moves_bulk(&self) -> bool {
        self.stage.moves_bulk()
    }

    /// The deadline's entry in the timers has come up; steps on if the deadline has really passed.
    pub fn deadline_due(&mut self, key: Key, context: &mut Context) -> Next {
        let now_ms = context.now_ms();
        match context.timers.expired(key, &mut self.client.deadline, now_ms) {
            true => {
                let next = self.wake(Wake::Expired, key, context);
                self.with_room(next, key, context)
            }
            false => {
                self.notice_lasting(&context.settings.socket_options());
                Next::Wait
            }
        }
    }

    /// Waits for room if the client's connection is full and the session goes on.
    #[inline]
    fn with_room(&mut self, next: Next, key: Key, context: &Context) -> Next {
        if !self.client.endpoint.ready.writable() && next != Next::Close {
            self.await_room(key, context);
        }
        next
    }

    /// The client's connection takes nothing now: has the poll report when it does. Connections of clients are
    /// registered for reading only, because most of them never fill up, and one that is registered for writing, too, is
    /// reported at once.
    #[cold]
    fn await_room(&mut self, key: Key, context: &Context) {
        if !std::mem::replace(&mut self.client.awaits_room, true) {
            let token = EventToken::downstream(key);
            if let Err(error) = self.client.endpoint.hand_over(token, &context.registry) {
                log::warn!("a client's connection cannot be registered with epoll for writing: {error}");
            }
        }
    }

    /// Sets the options that only a connection that lasts needs. The entry of a deadline that was moved comes up early,
    /// which is when this costs no turn of its own.
    fn notice_lasting(&mut self, options: &SocketOptions) {
        // While it connects, it is not known which connection will be used.
        if self.client.lasts || matches!(self.stage, Stage::Connect(_)) {
            return;
        }
        for number in 0..DIALS {
            if let Some(upstream) = self.stage.upstream(number) {
                upstream.lasts(options);
                self.client.lasts = true;
                return;
            }
        }
    }

    /// Ends it while it is idle, because others need its place or its descriptor now. A client that has begun a request
    /// is told, as far as its connection takes the answer at once.
    pub fn give_way(&mut self, key: Key, context: &mut Context) {
        self.wake(Wake::GiveWay, key, context);
    }

    /// Ends it between two requests.
    pub fn dismiss(&mut self, key: Key, context: &mut Context) {
        self.end(End::Finished, key, context);
    }

    /// Ends it wherever it is, because the gateway is shutting down.
    pub fn cut(&mut self, key: Key, context: &mut Context) {
        let at = self.stage.ops().map_or(At::Relay, StageOps::at);
        let fault = Fault::new(at, Cause::Drained, "the gateway is shutting down");
        let end = Cx { key, client: &mut self.client, shard: context }.end_by(fault);
        self.end(end, key, context);
    }

    /// Steps a session that relays in place: to move its stage out and back would cost as much as a small message does.
    #[inline]
    fn relay(&mut self, wake: Wake, key: Key, context: &mut Context) -> Next {
        let Stage::Relay(stage) = &mut self.stage else { return Next::Wait };
        match stage.turn(wake == Wake::Expired, &mut Cx { key, client: &mut self.client, shard: context }) {
            relay::Progress::Wait => Next::Wait,
            relay::Progress::Yield => Next::Yield,
            relay::Progress::Over(end) => {
                self.end(end, key, context);
                Next::Close
            }
        }
    }

    /// Steps a session through its stages until it waits.
    fn wake(&mut self, mut wake: Wake, key: Key, context: &mut Context) -> Next {
        loop {
            if let Stage::Relay(_) = self.stage {
                return self.relay(wake, key, context);
            }
            let cx = &mut Cx { key, client: &mut self.client, shard: context };
            let step = std::mem::replace(&mut self.stage, Stage::Ended).wake(wake, cx);
            wake = Wake::Ready;
            match step {
                Step::Wait(stage) => {
                    self.stage = stage;
                    return Next::Wait;
                }
                Step::Yield(stage) => {
                    let has_named = matches!(&stage, Stage::ReadRequest(stage) if stage.has_named());
                    self.stage = stage;
                    return if has_named { Next::Named } else { Next::Yield };
                }
                Step::Go(transition) => match enter(transition, cx) {
                    Ok(stage) => self.stage = stage,
                    Err(end) => {
                        self.end(end, key, context);
                        return Next::Close;
                    }
                },
            }
        }
    }

    /// Ends it wherever it is, and writes it down.
    fn end(&mut self, end: End, key: Key, context: &mut Context) {
        let cx = &mut Cx { key, client: &mut self.client, shard: context };
        let relayed = std::mem::replace(&mut self.stage, Stage::Ended).dismantle(cx);
        cx.session_ended(end, relayed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_a_label_for_every_protocol_of_clients() {
        assert_eq!(ClientProtocol::ALL.map(ClientProtocol::label), crate::metrics::PROTOCOLS);
    }

    /// Ten thousand of them are idle: what is rare and large must stay behind a pointer.
    #[test]
    fn a_session_takes_little_room_in_the_slab() {
        let bytes = size_of::<Session>();
        assert!(bytes <= 256, "{bytes} bytes");
    }
}
