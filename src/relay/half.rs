//! One direction of a tunnel.
//!
//! ```text
//!             bytes held                  source's end of file           held bytes gone
//!   Open ────────────────▶ Open, held ───────────────────▶ SourceEnded ──────────────────▶ Finished
//!     ▲                        │                                           shutdown(SHUT_WR)
//!     └──── bytes gone ────────┘
//! ```
//!
//! A half begins by copying through the shard's scratch buffer: a small message costs one read and one write. After a
//! large read it borrows a pipe and splices, if both connections can be spliced, and returns the pipe once it is empty.

use std::io;
use std::net::Shutdown;

use rustix::io::Errno;

use super::pipe_pool::PipePool;
use crate::limits;
use crate::transport::{Endpoint, Pipe};

/// After a read of at least this many bytes a half splices. Measured (`benches/RESULTS.md`): at 16 KiB splicing saves 7
/// % of the CPU that copying takes, at 64 KiB 22 %, at 256 KiB 54 %.
const BULK_READ_BYTES: usize = 16 * 1024;

/// After a spliced piece of fewer bytes than this a half copies again: at this size both cost the same.
const BULK_FLOOR_BYTES: usize = 8 * 1024;

/// What the halves of a shard share.
pub struct Resources<'a> {
    /// Holds one read of one half; empty between calls.
    pub scratch: &'a mut [u8],
    /// Pipes for splicing.
    pub pipes: &'a mut PipePool,
}

/// Bytes delivered, by how they were moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Through user space.
    pub copied: u64,
    /// Through a pipe.
    pub spliced: u64,
}

impl Moved {
    /// What has moved since an earlier reading.
    #[inline]
    #[must_use]
    pub fn since(self, before: Moved) -> Moved {
        Moved { copied: self.copied - before.copied, spliced: self.spliced - before.spliced }
    }
}

/// How a call of [`Half::pump`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing can be done until a socket becomes ready.
    Waiting,
    /// The budget is used up and there is more to do; no further event will come for it.
    Yielded,
    /// The source has ended, all its bytes are delivered, and the destination has been shut down.
    Finished,
}

/// Which connection failed.
#[derive(Debug)]
pub enum RelayError {
    /// Reading from the source.
    Source(io::Error),
    /// Writing to the destination.
    Destination(io::Error),
}

/// Bytes that were read and not delivered, in one place.
#[derive(Debug)]
enum Held {
    Nothing,
    /// Boxed, because an idle half must stay small and this is rare.
    Buffer(Box<Buffer>),
    /// Invariant: the pipe holds exactly `bytes`.
    Piped {
        pipe: Pipe,
        bytes: u32,
    },
}

#[derive(Debug)]
struct Buffer {
    bytes: Vec<u8>,
    sent: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Open,
    SourceEnded,
    Finished,
}

/// One direction of a tunnel. Every byte is delivered once and in order: what is held goes out before more is read.
#[derive(Debug)]
pub struct Half {
    held: Held,
    flow: Flow,
    /// The last piece was large, so the next one is spliced.
    bulk: bool,
    /// How many of the next small messages are a part of the bulk transfer before them.
    messages_of_bulk: u8,
    moved: Moved,
}

impl Half {
    /// A half whose first bytes are `leftover`: those that followed a head.
    pub fn new(leftover: Vec<u8>) -> Half {
        let held = match leftover.is_empty() {
            true => Held::Nothing,
            false => Held::Buffer(Box::new(Buffer { bytes: leftover, sent: 0 })),
        };
        Half { held, flow: Flow::Open, bulk: false, messages_of_bulk: 0, moved: Moved::default() }
    }

    /// Bytes delivered so far.
    #[inline]
    pub fn moved(&self) -> Moved {
        self.moved
    }

    /// The memory of its buffer, in bytes. Bytes in a pipe are in the kernel, and bounded by the number of pipes.
    #[inline]
    pub fn held_bytes(&self) -> usize {
        match &self.held {
            Held::Buffer(buffer) => buffer.bytes.capacity(),
            Held::Nothing | Held::Piped { .. } => 0,
        }
    }

    /// Whether its last piece was large, so that it is part of a bulk transfer.
    #[inline]
    pub fn is_bulk(&self) -> bool {
        self.bulk
    }

    /// Takes note that bulk data was moved in this direction or the other one.
    #[inline]
    pub fn follows_bulk(&mut self) {
        self.messages_of_bulk = limits::MESSAGES_OF_BULK;
    }

    /// Whether a small message that was moved just now is a part of the bulk transfer before it.
    #[inline]
    pub fn was_part_of_bulk(&mut self) -> bool {
        let was_part = self.messages_of_bulk > 0;
        self.messages_of_bulk = self.messages_of_bulk.saturating_sub(1);
        was_part
    }

    /// The source has ended and everything is delivered.
    #[inline]
    pub fn is_finished(&self) -> bool {
        self.flow == Flow::Finished
    }

    /// Whether [`Half::pump`] would find nothing to do.
    #[inline]
    pub fn is_at_rest(&self, from: &Endpoint, to: &Endpoint) -> bool {
        matches!(self.held, Held::Nothing) && self.flow == Flow::Open && !(from.ready.readable() && to.ready.writable())
    }

    /// Moves bytes until neither side can, or `budget_bytes` (counted down) is used up. No more than that is taken from
    /// the source.
    ///
    /// `other_finished` says that the opposite half has finished. The whole tunnel is closed next then, and no separate
    /// shutdown is needed.
    ///
    /// # Errors
    /// The error of a connection, with its side. The tunnel must be closed then.
    #[inline]
    pub fn pump(
        &mut self,
        from: &mut Endpoint,
        to: &mut Endpoint,
        other_finished: bool,
        resources: &mut Resources<'_>,
        budget_bytes: &mut usize,
    ) -> Result<Turn, RelayError> {
        match self.is_at_rest(from, to) {
            true => Ok(Turn::Waiting),
            false => self.work(from, to, other_finished, resources, budget_bytes),
        }
    }

    fn work(
        &mut self,
        from: &mut Endpoint,
        to: &mut Endpoint,
        other_finished: bool,
        resources: &mut Resources<'_>,
        budget_bytes: &mut usize,
    ) -> Result<Turn, RelayError> {
        loop {
            if !self.flush(to, resources.pipes)? {
                return Ok(Turn::Waiting);
            }
            match self.flow {
                Flow::Finished => return Ok(Turn::Finished),
                Flow::SourceEnded => {
                    let is_finished = self.finish(to, other_finished)?;
                    return Ok(if is_finished { Turn::Finished } else { Turn::Waiting });
                }
                Flow::Open => {}
            }
            if !from.ready.readable() || !to.ready.writable() {
                return Ok(Turn::Waiting);
            }
            if *budget_bytes == 0 {
                return Ok(Turn::Yielded);
            }
            let taken = self.take(from, to, resources, *budget_bytes)?;
            *budget_bytes = budget_bytes.saturating_sub(taken);
        }
    }

    /// Ends the half in any state; a pipe that it borrowed goes back to the pool.
    pub fn dismantle(self, pipes: &mut PipePool) -> Moved {
        if let Held::Piped { pipe, .. } = self.held {
            pipes.discard(pipe);
        }
        self.moved
    }

    /// Takes one piece of at most `most_bytes` from the source; returns what it counts in the budget.
    fn take(
        &mut self,
        from: &mut Endpoint,
        to: &mut Endpoint,
        resources: &mut Resources<'_>,
        most_bytes: usize,
    ) -> Result<usize, RelayError> {
        if self.bulk
            && from.prepare_splice()
            && to.prepare_splice()
            && let Some(pipe) = resources.pipes.borrow()
        {
            return self.take_by_splice(from, pipe, most_bytes, resources.pipes);
        }
        let most = most_bytes.min(resources.scratch.len());
        self.take_by_copy(from, to, &mut resources.scratch[..most])
    }

    fn take_by_copy(
        &mut self,
        from: &mut Endpoint,
        to: &mut Endpoint,
        scratch: &mut [u8],
    ) -> Result<usize, RelayError> {
        let count = match from.read(scratch).map_err(RelayError::Source)? {
            None => return Ok(0),
            Some(0) => {
                self.flow = Flow::SourceEnded;
                return Ok(0);
            }
            Some(count) => count,
        };
        self.bulk = count >= BULK_READ_BYTES || count == scratch.len();
        let bytes = &scratch[..count];
        let sent = to.write(bytes).map_err(RelayError::Destination)?;
        self.moved.copied += sent as u64;
        if sent < count {
            self.held = Held::Buffer(Box::new(Buffer { bytes: bytes[sent..].to_vec(), sent: 0 }));
        }
        Ok(from.read_cost(count))
    }

    fn take_by_splice(
        &mut self,
        from: &mut Endpoint,
        pipe: Pipe,
        most_bytes: usize,
        pipes: &mut PipePool,
    ) -> Result<usize, RelayError> {
        let most_bytes = most_bytes.min(limits::PIPE_BYTES);
        let spliced = loop {
            match pipe.fill(&from.stream, most_bytes) {
                Err(Errno::INTR) => {}
                other => break other,
            }
        };
        match spliced {
            Ok(0) | Err(Errno::INVAL) if from.stream.needs_reads() => {
                pipes.give_back(pipe);
                self.bulk = false;
                Ok(0)
            }
            Ok(0) => {
                pipes.give_back(pipe);
                self.flow = Flow::SourceEnded;
                Ok(0)
            }
            Ok(count) => {
                self.bulk = count >= BULK_FLOOR_BYTES;
                // A pipe holds PIPE_BYTES at most.
                let bytes = u32::try_from(count).unwrap_or(u32::MAX);
                self.held = Held::Piped { pipe, bytes };
                Ok(count)
            }
            Err(Errno::AGAIN) => {
                // The pipe is empty, so this EAGAIN is the socket's.
                pipes.give_back(pipe);
                from.ready.read_blocked();
                Ok(0)
            }
            Err(errno) => {
                pipes.give_back(pipe);
                Err(RelayError::Source(errno.into()))
            }
        }
    }

    /// Delivers what is held; `true` once nothing is held.
    fn flush(&mut self, to: &mut Endpoint, pipes: &mut PipePool) -> Result<bool, RelayError> {
        loop {
            match &mut self.held {
                Held::Nothing => return Ok(true),
                _ if !to.ready.writable() => return Ok(false),
                Held::Buffer(buffer) => {
                    let sent = to.write(&buffer.bytes[buffer.sent..]).map_err(RelayError::Destination)?;
                    buffer.sent += sent;
                    self.moved.copied += sent as u64;
                    if buffer.sent == buffer.bytes.len() {
                        self.held = Held::Nothing;
                    }
                }
                Held::Piped { pipe, bytes } => {
                    let sent = splice_out(pipe, to, *bytes).map_err(RelayError::Destination)?;
                    self.moved.spliced += u64::from(sent);
                    *bytes -= sent;
                    if *bytes == 0
                        && let Held::Piped { pipe, .. } = std::mem::replace(&mut self.held, Held::Nothing)
                    {
                        pipes.give_back(pipe);
                    }
                }
            }
        }
    }

    /// Shuts the destination down: nothing more follows. `false` while the destination does not take the notice of it.
    fn finish(&mut self, to: &mut Endpoint, other_finished: bool) -> Result<bool, RelayError> {
        if other_finished && to.stream.ends_by_closing() {
            self.flow = Flow::Finished;
            return Ok(true);
        }
        match to.stream.shutdown(Shutdown::Write) {
            Ok(()) if to.stream.is_ending() => {
                to.ready.write_blocked();
                return Ok(false);
            }
            // The destination has ended already, which its own half will find out; or it had, when nothing is left to
            // be lost.
            Err(error) if error.kind() != io::ErrorKind::NotConnected && !other_finished => {
                return Err(RelayError::Destination(error));
            }
            _ => {}
        }
        self.flow = Flow::Finished;
        Ok(true)
    }
}

/// Splices at most `bytes` out of a pipe that holds that many; 0 if the destination takes none now.
pub(super) fn splice_out(pipe: &Pipe, to: &mut Endpoint, bytes: u32) -> io::Result<u32> {
    loop {
        match pipe.empty(&to.stream, bytes as usize) {
            Ok(count) => return Ok(u32::try_from(count).unwrap_or(bytes)),
            Err(Errno::INTR) => {}
            // The pipe is not empty, so this EAGAIN is the socket's.
            Err(Errno::AGAIN) => {
                to.ready.write_blocked();
                return Ok(0);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_small_messages_after_bulk_data_are_a_part_of_it() {
        let mut half = Half::new(Vec::new());
        assert!(!half.was_part_of_bulk());
        half.follows_bulk();
        let parts = (0..10).filter(|_| half.was_part_of_bulk()).count();
        assert_eq!(parts, usize::from(limits::MESSAGES_OF_BULK));
    }
}
