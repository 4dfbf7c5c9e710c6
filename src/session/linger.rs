//! The last stage of a client that was told an error: its connection is closed without destroying the answer.

use std::net::Shutdown;

use super::{Client, Context, End, Stage, Step};
use crate::event::Key;
use crate::limits;

/// Waiting for the client to close, reading past what it still sends.
#[derive(Debug)]
pub(super) struct Linger {
    end: End,
}

impl Linger {
    /// Ends our direction; the client's may take a moment ([`crate::limits::LINGER_TIMEOUT`]).
    pub(super) fn begin(end: End, key: Key, client: &mut Client, context: &mut Context) -> Step {
        if client.endpoint.stream.shutdown(Shutdown::Write).is_err() {
            return Step::end(end);
        }
        let at_ms = context.now_ms() + context.settings.timeouts.linger;
        client.set_deadline(key, context, at_ms);
        Step::Go(Stage::Linger(Box::new(Linger { end })))
    }

    pub(super) fn step(self: Box<Self>, client: &mut Client, context: &mut Context) -> Step {
        for _ in 0..limits::READS_PER_TURN {
            if !client.endpoint.ready.readable() {
                return Step::Wait(Stage::Linger(self));
            }
            match client.endpoint.read(&mut context.scratch) {
                Ok(Some(0)) | Err(_) => return Step::end(self.end),
                Ok(_) => {}
            }
        }
        Step::Yield(Stage::Linger(self))
    }

    pub(super) fn into_end(self) -> End {
        self.end
    }
}
