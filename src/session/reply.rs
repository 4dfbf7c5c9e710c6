//! Writing an answer to the client.

use super::cx::Cx;
use super::record::End;
use super::stage::{StageOps, Step};
use super::transition::{AfterAnswer, ClientAnswer, Transition};
use crate::fault::{At, Cause, Fault};
use crate::transport::Endpoint;

/// An answer, and what follows it.
#[derive(Debug)]
pub(super) struct Reply {
    answer: Vec<u8>,
    sent: usize,
    /// The client did not take it at once, and has a deadline now.
    bounded: bool,
    then: AfterAnswer,
}

impl Reply {
    /// Sends the answer, as far as the client takes it; `true` once nothing is left.
    fn send(&mut self, cx: &mut Cx<'_>) -> Result<bool, Fault> {
        while self.sent < self.answer.len() {
            if !cx.client.endpoint.ready.writable() {
                self.bound_the_wait(cx);
                return Ok(false);
            }
            let count = cx.client.endpoint.write(&self.answer[self.sent..]);
            self.sent += count.map_err(|error| Fault::downstream_io(At::Reply, &error))?;
        }
        Ok(true)
    }

    /// The answer was sent.
    fn followed(self) -> Transition {
        match self.then {
            AfterAnswer::Relay(halves) => Transition::Relay(halves),
            AfterAnswer::Close(end) => Transition::Linger(end),
        }
    }

    /// A client that does not read its answer has as long as one that does not write its request.
    fn bound_the_wait(&mut self, cx: &mut Cx<'_>) {
        if !std::mem::replace(&mut self.bounded, true) {
            cx.set_deadline_in(cx.timeouts().head);
        }
    }

    /// How the session ends whose answer could not be sent: by the fault that the answer names, if it names one.
    fn unsent(self, fault: Fault, cx: &Cx<'_>) -> Transition {
        Transition::End(match self.then {
            AfterAnswer::Close(end @ End::Fault(_)) => end,
            _ => cx.end_by(fault),
        })
    }
}

impl StageOps for Box<Reply> {
    fn label(&self) -> &'static str {
        "reply"
    }

    fn at(&self) -> At {
        At::Reply
    }

    fn held_bytes(&self) -> usize {
        let behind = match &self.then {
            AfterAnswer::Relay(halves) => {
                halves.upstream.held_bytes() + halves.up.held_bytes() + halves.down.held_bytes()
            }
            AfterAnswer::Close(_) => 0,
        };
        self.answer.capacity() + behind
    }

    fn upstream(&mut self, _number: u8) -> Option<&mut Endpoint> {
        match &mut self.then {
            AfterAnswer::Relay(halves) => Some(&mut halves.upstream),
            AfterAnswer::Close(_) => None,
        }
    }

    fn step(mut self, cx: &mut Cx<'_>) -> Step<Self> {
        match self.send(cx) {
            Ok(true) => Step::Go(self.followed()),
            Ok(false) => Step::Wait(self),
            Err(fault) => Step::Go(self.unsent(fault, cx)),
        }
    }

    fn expired(self, cx: &mut Cx<'_>) -> Step<Self> {
        let fault = Fault::new(At::Reply, Cause::ClientGone, "the client does not read its answer");
        Step::Go(self.unsent(fault, cx))
    }
}

/// Writes an answer. Most clients take it at once, and then there is no stage to wait in.
pub(super) fn reply(answer: ClientAnswer, cx: &mut Cx<'_>) -> Step<Box<Reply>> {
    let mut reply = Reply { answer: answer.bytes, sent: 0, bounded: false, then: answer.then };
    match reply.send(cx) {
        Ok(true) => {
            cx.shard.spare_buffers.give_back(std::mem::take(&mut reply.answer));
            Step::Go(reply.followed())
        }
        Ok(false) => Step::Wait(Box::new(reply)),
        Err(fault) => Step::Go(reply.unsent(fault, cx)),
    }
}
