//! The end of a tunnel: moves bytes between a socket and a built-in origin.

use std::io;
use std::net::Shutdown;

use super::counters::Counters;
use super::origin::{Origin, Reaction};
use crate::transport::Endpoint;

/// Bytes that a connection may move in one turn before it yields to others.
pub(super) const TURN_BYTES: usize = 1024 * 1024;

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TunnelStatus {
    /// Nothing can be done until the socket is ready.
    Waiting,
    /// There is more to do, and no further event will follow.
    Yielded,
    /// Both directions have ended.
    Finished,
}

/// The state of a tunnel. While idle it owns no buffer.
pub(super) struct Tunnel {
    origin: Origin,
    /// What the origin sent and the socket has not accepted yet. Nothing is read until it is written.
    pending: Vec<u8>,
    sent: usize,
    read_ended: bool,
    write_ended: bool,
}

impl Tunnel {
    /// Starts a tunnel; `early` are the first bytes for the origin.
    pub(super) fn new(mut origin: Origin, early: Vec<u8>) -> Tunnel {
        let pending = match early.is_empty() {
            true => Vec::new(),
            false => match origin.receive(&early) {
                Reaction::Nothing => Vec::new(),
                Reaction::Mirror => early,
                Reaction::Send(bytes) => bytes,
            },
        };
        Tunnel { origin, pending, sent: 0, read_ended: false, write_ended: false }
    }

    /// Moves as many bytes as possible, up to [`TURN_BYTES`].
    ///
    /// # Errors
    /// The socket's error. The tunnel must not be used any more.
    pub(super) fn turn(
        &mut self,
        endpoint: &mut Endpoint,
        scratch: &mut [u8],
        counters: &Counters,
    ) -> io::Result<TunnelStatus> {
        let mut budget = TURN_BYTES;
        loop {
            let written = self.write(endpoint, counters)?;
            let read = if self.pending.is_empty() { self.read(endpoint, scratch, counters)? } else { 0 };
            self.end_writing(endpoint)?;
            if self.read_ended && self.write_ended && !endpoint.stream.is_ending() {
                return Ok(TunnelStatus::Finished);
            }
            if written + read == 0 {
                return Ok(TunnelStatus::Waiting);
            }
            budget = budget.saturating_sub(written + read);
            if budget == 0 {
                return Ok(TunnelStatus::Yielded);
            }
        }
    }

    /// Writes what the origin sends on its own initiative, then what is pending.
    fn write(&mut self, endpoint: &mut Endpoint, counters: &Counters) -> io::Result<usize> {
        let mut written = 0;
        // Unsolicited bytes come before answers.
        while endpoint.ready.writable() && written < TURN_BYTES {
            let bytes = self.origin.unsolicited();
            if bytes.is_empty() {
                break;
            }
            let count = endpoint.write(bytes)?;
            self.origin.unsolicited_sent(count);
            written += count;
        }
        if endpoint.ready.writable() && !self.pending.is_empty() {
            let count = endpoint.write(self.pending.get(self.sent..).unwrap_or_default())?;
            self.sent += count;
            written += count;
            if self.sent == self.pending.len() {
                self.pending = Vec::new();
                self.sent = 0;
            }
        }
        counters.bytes_sent.add(written as u64);
        Ok(written)
    }

    /// Reads once and lets the origin react. Mirrored bytes are written back at once; only what the socket does not
    /// accept is kept.
    fn read(&mut self, endpoint: &mut Endpoint, scratch: &mut [u8], counters: &Counters) -> io::Result<usize> {
        if self.read_ended || !endpoint.ready.readable() {
            return Ok(0);
        }
        let Some(count) = endpoint.read(scratch)? else {
            return Ok(0);
        };
        counters.bytes_received.add(count as u64);
        let bytes = scratch.get(..count).unwrap_or_default();
        let reaction = if bytes.is_empty() {
            self.read_ended = true;
            self.origin.finish()
        } else {
            self.origin.receive(bytes)
        };
        match reaction {
            Reaction::Nothing => {}
            Reaction::Mirror => {
                let sent = if endpoint.ready.writable() { endpoint.write(bytes)? } else { 0 };
                counters.bytes_sent.add(sent as u64);
                self.pending = bytes.get(sent..).unwrap_or_default().to_vec();
            }
            Reaction::Send(bytes) => self.pending = bytes,
        }
        // The end of the direction counts as progress, because the origin's reaction to it has to be written.
        Ok(count.max(usize::from(self.read_ended)))
    }

    fn end_writing(&mut self, endpoint: &mut Endpoint) -> io::Result<()> {
        if self.origin.is_done() && self.pending.is_empty() && !self.write_ended {
            self.write_ended = true;
            endpoint.stream.shutdown(Shutdown::Write)?;
        }
        Ok(())
    }
}
