//! What all stages have in common.

use super::cx::Cx;
use super::record::End;
use super::transition::Transition;
use crate::fault::At;
use crate::route::RouteAnswer;
use crate::transport::Endpoint;
use crate::upstream::Resolution;

/// The result of stepping a stage.
pub(super) enum Step<S> {
    /// It waits for an event, its deadline or a message.
    Wait(S),
    /// It has used up its budget and goes on after the others.
    Yield(S),
    /// It is over.
    Go(Transition),
}

/// Why a stage is stepped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wake {
    /// Something may have come for it.
    Ready,
    /// Its deadline has passed.
    Expired,
    /// It is idle, and others need its place now.
    GiveWay,
}

/// What every stage can do.
pub(super) trait StageOps {
    /// Its name at `/tunnels`.
    fn label(&self) -> &'static str;

    /// Where a fault is reported that ends it from outside.
    fn at(&self) -> At;

    /// The size of its buffers in bytes.
    fn held_bytes(&self) -> usize;

    /// The upstream connection of this number, if it has it.
    fn upstream(&mut self, number: u8) -> Option<&mut Endpoint>;

    /// How it is idle, if it is.
    fn idle(&self) -> Option<Idle> {
        None
    }

    /// Whether it moves bulk data.
    fn moves_bulk(&self) -> bool {
        false
    }

    /// What it has relayed, if it relays.
    fn relayed(&self) -> Option<Relayed> {
        None
    }

    /// The name that it waits for was looked up.
    fn found(&mut self, _resolution: Resolution) {}

    /// A source of routes has answered the question of this number; `true` if it waits for that answer.
    fn routed(&mut self, _question: u32, _answer: RouteAnswer) -> bool {
        false
    }

    /// Does all that can be done now.
    fn step(self, cx: &mut Cx<'_>) -> Step<Self>
    where
        Self: Sized;

    /// Its deadline has passed.
    fn expired(self, cx: &mut Cx<'_>) -> Step<Self>
    where
        Self: Sized;

    /// Others need its place.
    fn give_way(self, _cx: &mut Cx<'_>) -> End
    where
        Self: Sized,
    {
        End::GaveWay
    }

    /// It is ended from outside: gives back what it borrowed. Returns the bytes relayed up and down.
    fn dismantle(self, _cx: &mut Cx<'_>) -> [u64; 2]
    where
        Self: Sized,
    {
        [0, 0]
    }
}

/// What a tunnel has relayed so far.
pub(super) struct Relayed {
    pub bytes_up: u64,
    pub bytes_down: u64,
    /// When bytes moved last, in ms of the shard's clock.
    pub active_ms: u64,
}

impl<S> Step<S> {
    pub(super) fn map<T>(self, into: impl FnOnce(S) -> T) -> Step<T> {
        match self {
            Step::Wait(stage) => Step::Wait(into(stage)),
            Step::Yield(stage) => Step::Yield(into(stage)),
            Step::Go(transition) => Step::Go(transition),
        }
    }
}

/// How a connection is idle: there is no request on it in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Nothing of a request has come.
    Silent,
    /// Part of a request's head has come.
    Begun,
    /// It was answered, and the client has not closed it.
    Answered,
}
