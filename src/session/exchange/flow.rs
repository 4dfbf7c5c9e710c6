//! One direction of an exchange: a head, then a body that may change its framing on the way.
//!
//! Bytes are parsed where a read put them. A read that is passed on unchanged is written from there. If the body splits
//! it into several pieces, they are gathered first, so that a read costs one write however small the peer's chunks are.
//! Only what the destination does not accept is kept, and only until it does. Large pieces that are passed on unchanged
//! are spliced.

use std::io;

use crate::event::take_front;
use crate::forward::{BodyError, BodyPump};
use crate::limits;
use crate::relay::{Moved, PipePool, RelayError, Resources, Run, RunTurn};
use crate::transport::Endpoint;

/// This many bytes are gathered before a write, so that a head and a small body are sent together.
const GATHER_BYTES: usize = 16 * 1024;

/// A piece of at least this many bytes is spliced once reads are large.
const RUN_BYTES: u64 = 64 * 1024;

/// What a step of the chunk parser takes from the budget of a turn, in bytes: it costs about as much as moving them.
const STEP_BYTES: usize = 128;

/// The longest read from a peer that sends tiny chunks, in bytes, so that its turns stay short.
const COSTLY_READ_BYTES: usize = 16 * 1024;

/// How a call of [`Flow::pump`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FlowTurn {
    /// The source has nothing now.
    WaitsForSource,
    /// The destination accepts nothing now.
    WaitsForDestination,
    /// The budget is used up, and there is more to do.
    Yielded,
    /// The body is complete and delivered.
    Done,
}

/// Why a direction cannot go on.
#[derive(Debug)]
pub(super) enum FlowError {
    /// A connection failed.
    Relay(RelayError),
    /// The body is not what its head promised.
    Body(BodyError),
}

/// One direction.
#[derive(Debug)]
pub(super) struct Flow {
    /// Ready for the destination.
    pub out: Vec<u8>,
    sent: usize,
    /// `None` until the head is there.
    pump: Option<BodyPump>,
    run: Option<Run>,
    /// The last read was large.
    bulk: bool,
    /// Parsing the last read took more steps than an eighth of its bytes.
    costly: bool,
    /// Something of the body was taken from the source.
    begun: bool,
    /// The destination takes nothing more.
    refused: bool,
    /// The source's connection was reset, which a write has reported: its end of file does not end a body.
    source_reset: bool,
    moved: Moved,
}

impl Flow {
    /// Begins with what is in `out`.
    pub(super) fn new(out: Vec<u8>, pump: Option<BodyPump>) -> Flow {
        Flow {
            out,
            sent: 0,
            pump,
            run: None,
            bulk: false,
            costly: false,
            begun: false,
            refused: false,
            source_reset: false,
            moved: Moved::default(),
        }
    }

    /// Sends nothing but what is in `out` until there is a body again.
    pub(super) fn hold_body(&mut self) {
        self.pump = None;
    }

    /// From now on there is a body.
    pub(super) fn set_body(&mut self, pump: BodyPump) {
        self.pump = Some(pump);
    }

    /// The destination takes nothing more: nothing is delivered from now on.
    pub(super) fn refuse(&mut self) {
        self.refused = true;
    }

    /// The source's connection was reset, and this was reported to a write: reads will only bring an end of file.
    pub(super) fn source_was_reset(&mut self) {
        self.source_reset = true;
    }

    /// The destination takes nothing more.
    pub(super) fn is_refused(&self) -> bool {
        self.refused
    }

    /// The whole body has been taken from the source and delivered.
    pub(super) fn is_delivered(&self) -> bool {
        self.is_read() && self.is_flushed() && !self.refused
    }

    /// The whole body has been taken from the source.
    pub(super) fn is_read(&self) -> bool {
        self.pump.as_ref().is_some_and(BodyPump::is_done)
    }

    /// Bytes that wait for the destination, except for those in a pipe.
    pub(super) fn unsent_bytes(&self) -> usize {
        self.out.len() - self.sent
    }

    /// Frees room that a head has not used, because a client may take long to read it.
    pub(super) fn trim(&mut self) {
        if self.out.capacity() - self.out.len() > limits::HEAD_READ_BYTES {
            self.out.shrink_to_fit();
        }
    }

    /// The size of its buffer in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.out.capacity()
    }

    /// Everything so far is delivered.
    pub(super) fn is_flushed(&self) -> bool {
        self.sent == self.out.len() && self.run.is_none()
    }

    /// Part of what is to be sent is delivered, and the rest must follow.
    pub(super) fn is_amid_delivery(&self) -> bool {
        (1..self.out.len()).contains(&self.sent)
    }

    /// Something of the body was taken from the source.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Whether its last read was large and more is to come, so that it is part of a bulk transfer.
    pub(super) fn is_bulk(&self) -> bool {
        self.bulk && !self.is_read()
    }

    /// Bytes delivered, heads included.
    pub(super) fn moved(&self) -> Moved {
        self.moved
    }

    /// Bytes delivered and waiting to be delivered.
    pub(super) fn promised(&self) -> u64 {
        self.moved.copied + self.moved.spliced + (self.out.len() - self.sent) as u64
    }

    /// Takes what has not been delivered; nothing is delivered after this.
    pub(super) fn take_unsent(&mut self) -> Vec<u8> {
        let unsent = self.out.split_off(self.sent);
        self.out.clear();
        self.sent = 0;
        unsent
    }

    /// Returns the pipe that it borrowed.
    pub(super) fn dismantle(&mut self, pipes: &mut PipePool) {
        if let Some(run) = self.run.take() {
            run.dismantle(pipes);
        }
    }

    /// Moves what can be moved. `held` is what was read from the source before and not used.
    pub(super) fn pump(
        &mut self,
        from: &mut Endpoint,
        held: &mut Vec<u8>,
        to: &mut Endpoint,
        resources: &mut Resources<'_>,
        budget_bytes: &mut usize,
    ) -> Result<FlowTurn, FlowError> {
        if self.refused {
            return Ok(FlowTurn::Done);
        }
        if self.out.is_empty() && self.run.is_none() {
            match &self.pump {
                None => return Ok(FlowTurn::WaitsForSource),
                Some(pump) if pump.is_done() => return Ok(FlowTurn::Done),
                Some(_) => {}
            }
        }
        loop {
            self.use_held(held, budget_bytes)?;
            if !self.flush(to)? {
                return Ok(FlowTurn::WaitsForDestination);
            }
            if self.run.is_some() {
                match self.pump_run(from, to, resources.pipes, budget_bytes)? {
                    Some(turn) => return Ok(turn),
                    None => continue,
                }
            }
            let Some(pump) = &mut self.pump else { return Ok(FlowTurn::WaitsForSource) };
            if pump.is_done() {
                return Ok(FlowTurn::Done);
            }
            if !held.is_empty() {
                match self.use_held(held, budget_bytes)? {
                    true => continue,
                    false => return Ok(FlowTurn::WaitsForSource),
                }
            }
            if !from.ready.readable() {
                return Ok(FlowTurn::WaitsForSource);
            }
            if *budget_bytes == 0 {
                return Ok(FlowTurn::Yielded);
            }
            if self.bulk
                && pump.splice_run() >= RUN_BYTES
                && from.prepare_splice()
                && to.prepare_splice()
                && let Some(pipe) = resources.pipes.borrow()
            {
                self.begun = true;
                self.run = Some(Run::new(pump.splice_run(), pipe));
                continue;
            }
            let wanted = pump.length_left().map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX));
            let scratch_bytes = resources.scratch.len();
            let bound = if self.costly { COSTLY_READ_BYTES.min(scratch_bytes) } else { scratch_bytes };
            match from
                .read(&mut resources.scratch[..wanted.min(bound)])
                .map_err(|error| FlowError::Relay(RelayError::Source(error)))?
            {
                None => {}
                Some(0) => self.end_of_file()?,
                Some(count) => {
                    *budget_bytes = budget_bytes.saturating_sub(from.read_cost(count));
                    self.begun = true;
                    self.bulk = count as u64 >= RUN_BYTES / 4;
                    self.pass(&resources.scratch[..count], to, held, budget_bytes)?;
                }
            }
        }
    }

    /// Adds what was held to what is to be sent, up to a limit; `false` when nothing of it could be used.
    fn use_held(&mut self, held: &mut Vec<u8>, budget_bytes: &mut usize) -> Result<bool, FlowError> {
        let Some(pump) = &mut self.pump else { return Ok(false) };
        let mut used = 0;
        while used < held.len() && !pump.is_done() && self.out.len() - self.sent < GATHER_BYTES {
            let piece = pump.step(&held[used..]).map_err(FlowError::Body)?;
            if piece.used == 0 && piece.is_empty() {
                break;
            }
            piece.copy_rest(0, &mut self.out);
            used += piece.used;
            *budget_bytes = budget_bytes.saturating_sub(piece.used + STEP_BYTES * piece.work);
            self.begun = true;
        }
        take_front(held, used);
        Ok(used > 0)
    }

    /// Passes one read on; what follows the end of the body is held.
    fn pass(
        &mut self,
        bytes: &[u8],
        to: &mut Endpoint,
        held: &mut Vec<u8>,
        budget_bytes: &mut usize,
    ) -> Result<(), FlowError> {
        let Some(pump) = &mut self.pump else { return Ok(()) };
        let (mut used, mut work) = (0, 0);
        while used < bytes.len() && !pump.is_done() {
            let piece = pump.step(&bytes[used..]).map_err(FlowError::Body)?;
            if piece.used == 0 && piece.is_empty() {
                break;
            }
            used += piece.used;
            work += piece.work;
            let is_all = used == bytes.len() || piece.done;
            let goes_as_it_is = is_all && self.out.is_empty() && piece.lead.is_empty() && piece.tail.is_empty();
            let sent = match goes_as_it_is && to.ready.writable() {
                true => to.write(piece.data).map_err(|error| FlowError::Relay(RelayError::Destination(error)))?,
                false => 0,
            };
            self.moved.copied += sent as u64;
            piece.copy_rest(sent, &mut self.out);
        }
        self.costly = work > bytes.len() / 8;
        *budget_bytes = budget_bytes.saturating_sub(STEP_BYTES * work);
        held.extend_from_slice(&bytes[used..]);
        Ok(())
    }

    /// `None` when the run is over and copying continues.
    fn pump_run(
        &mut self,
        from: &mut Endpoint,
        to: &mut Endpoint,
        pipes: &mut PipePool,
        budget_bytes: &mut usize,
    ) -> Result<Option<FlowTurn>, FlowError> {
        let (Some(run), Some(pump)) = (&mut self.run, &mut self.pump) else { return Ok(None) };
        let before = run.moved();
        let turn = run.pump(from, to, budget_bytes);
        self.moved.spliced += run.moved() - before;
        let turn = turn.map_err(FlowError::Relay)?;
        let outcome = match turn {
            RunTurn::Waiting if !to.ready.writable() => Some(FlowTurn::WaitsForDestination),
            RunTurn::Waiting => Some(FlowTurn::WaitsForSource),
            RunTurn::Yielded => Some(FlowTurn::Yielded),
            RunTurn::Done | RunTurn::SourceEnded | RunTurn::NeedsRead => None,
        };
        if outcome.is_some() && run.holds_bytes() {
            return Ok(outcome);
        }
        // An empty pipe is not kept waiting: others may need it.
        pump.skip(run.moved());
        match turn {
            RunTurn::SourceEnded => self.end_of_file()?,
            RunTurn::NeedsRead => self.bulk = false,
            _ => {}
        }
        self.dismantle(pipes);
        Ok(outcome)
    }

    fn end_of_file(&mut self) -> Result<(), FlowError> {
        let Some(pump) = &mut self.pump else { return Ok(()) };
        if self.source_reset && !pump.is_done() {
            return Err(FlowError::Relay(RelayError::Source(io::ErrorKind::ConnectionReset.into())));
        }
        pump.finish(&mut self.out).map_err(FlowError::Body)
    }

    /// `true` when everything is sent.
    fn flush(&mut self, to: &mut Endpoint) -> Result<bool, FlowError> {
        while self.sent < self.out.len() {
            if !to.ready.writable() {
                return Ok(false);
            }
            let sent =
                to.write(&self.out[self.sent..]).map_err(|error| FlowError::Relay(RelayError::Destination(error)))?;
            self.sent += sent;
            self.moved.copied += sent as u64;
        }
        take_front(&mut self.out, self.sent);
        self.sent = 0;
        Ok(true)
    }
}
