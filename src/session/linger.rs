//! The last stage of a client that was told an error: its connection is closed without destroying the answer.

use std::net::Shutdown;

use super::cx::Cx;
use super::record::End;
use super::stage::{Idle, StageOps, Step};
use super::transition::Transition;
use crate::fault::At;
use crate::limits;
use crate::transport::Endpoint;

/// Waiting for the client to close, and discarding what it still sends.
#[derive(Debug)]
pub(super) struct Linger {
    end: End,
}

impl Linger {
    /// Ends our direction; the client's may take a moment ([`crate::limits::LINGER_TIMEOUT`]).
    ///
    /// # Errors
    /// The end itself, if the connection is gone already.
    pub(super) fn new(end: End, cx: &mut Cx<'_>) -> Result<Linger, End> {
        if cx.client.endpoint.stream.shutdown(Shutdown::Write).is_err() {
            return Err(end);
        }
        cx.set_deadline_in(cx.timeouts().linger);
        Ok(Linger { end })
    }
}

impl StageOps for Box<Linger> {
    fn label(&self) -> &'static str {
        "closing"
    }

    fn at(&self) -> At {
        At::Reply
    }

    fn held_bytes(&self) -> usize {
        0
    }

    fn upstream(&mut self, _number: u8) -> Option<&mut Endpoint> {
        None
    }

    fn idle(&self) -> Option<Idle> {
        Some(Idle::Answered)
    }

    fn step(self, cx: &mut Cx<'_>) -> Step<Self> {
        for _ in 0..limits::READS_PER_TURN {
            if !cx.client.endpoint.ready.readable() {
                return Step::Wait(self);
            }
            match cx.client.endpoint.read(&mut cx.shard.scratch) {
                Ok(Some(0)) | Err(_) => return Step::Go(Transition::End(self.end)),
                Ok(_) => {}
            }
        }
        Step::Yield(self)
    }

    fn expired(self, _cx: &mut Cx<'_>) -> Step<Self> {
        Step::Go(Transition::End(self.end))
    }

    fn give_way(self, _cx: &mut Cx<'_>) -> End {
        self.end
    }
}
