//! Splices a known number of bytes from one connection to another: a piece of an HTTP body.

use std::io;

use rustix::io::Errno;

use super::half::{RelayError, splice_out};
use super::pipe_pool::PipePool;
use crate::limits;
use crate::transport::{Endpoint, Pipe};

/// How a call of [`Run::pump`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunTurn {
    /// Nothing can be done until a socket becomes ready.
    Waiting,
    /// The budget is used up and there is more to do.
    Yielded,
    /// All bytes are delivered.
    Done,
    /// The source has ended early; what it sent is delivered.
    SourceEnded,
    /// What comes next has to be read; what came before is delivered.
    NeedsRead,
}

/// Bytes to be moved. They are in the pipe or still in the source.
#[derive(Debug)]
pub struct Run {
    pipe: Pipe,
    /// Bytes in the pipe.
    held: u32,
    /// Bytes still to be taken from the source.
    left: u64,
    ended: bool,
    needs_read: bool,
    moved: u64,
}

impl Run {
    /// Moves at most `bytes`; `u64::MAX` for everything up to the end.
    pub fn new(bytes: u64, pipe: Pipe) -> Run {
        Run { pipe, held: 0, left: bytes, ended: false, needs_read: false, moved: 0 }
    }

    /// Moves bytes until all are delivered, neither side can go on, or `budget_bytes` (counted down) is used up.
    ///
    /// # Errors
    /// The error of a connection, with its side.
    pub fn pump(
        &mut self,
        from: &mut Endpoint,
        to: &mut Endpoint,
        budget_bytes: &mut usize,
    ) -> Result<RunTurn, RelayError> {
        loop {
            while self.held > 0 {
                if !to.ready.writable() {
                    return Ok(RunTurn::Waiting);
                }
                let sent = splice_out(&self.pipe, to, self.held).map_err(RelayError::Destination)?;
                self.held -= sent;
                self.moved += u64::from(sent);
            }
            match (self.left, self.ended) {
                (0, _) => return Ok(RunTurn::Done),
                (_, true) => return Ok(RunTurn::SourceEnded),
                _ if self.needs_read => return Ok(RunTurn::NeedsRead),
                _ => {}
            }
            if !from.ready.readable() || !to.ready.writable() {
                return Ok(RunTurn::Waiting);
            }
            if *budget_bytes == 0 {
                return Ok(RunTurn::Yielded);
            }
            let taken = self.take(from, *budget_bytes).map_err(RelayError::Source)?;
            *budget_bytes = budget_bytes.saturating_sub(taken);
        }
    }

    /// Bytes delivered so far.
    pub fn moved(&self) -> u64 {
        self.moved
    }

    /// Whether bytes are in the pipe.
    pub fn holds_bytes(&self) -> bool {
        self.held > 0
    }

    /// Ends the run; an empty pipe goes back to the pool.
    pub fn dismantle(self, pipes: &mut PipePool) {
        match self.held {
            0 => pipes.give_back(self.pipe),
            _ => pipes.discard(self.pipe),
        }
    }

    fn take(&mut self, from: &mut Endpoint, most_bytes: usize) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(limits::PIPE_BYTES).min(most_bytes);
        loop {
            match self.pipe.fill(&from.stream, most) {
                Ok(0) | Err(Errno::INVAL) if from.stream.needs_reads() => {
                    self.needs_read = true;
                    return Ok(0);
                }
                Ok(0) => {
                    self.ended = true;
                    return Ok(0);
                }
                Ok(count) => {
                    // A pipe holds PIPE_BYTES at most.
                    self.held = u32::try_from(count).unwrap_or(u32::MAX);
                    if self.left != u64::MAX {
                        self.left -= count as u64;
                    }
                    return Ok(count);
                }
                Err(Errno::INTR) => {}
                // The pipe is empty, so this EAGAIN is the socket's.
                Err(Errno::AGAIN) => {
                    from.ready.read_blocked();
                    return Ok(0);
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}
