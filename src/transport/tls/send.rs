//! The direction to the peer: what is written, and its end.

use std::cell::RefCell;
use std::io::{self, ErrorKind, Write};
use std::net::Shutdown;

use super::engine::{Engine, Halt, RECORD_BYTES, Task};
use super::{Tls, WriteSide, make_room, records, unusable};
use crate::transport::Stream;

/// What a caller writes is encrypted and sent in pieces of this size, which is one read of the relay. What a full
/// socket does not take of a piece is held.
pub(super) const SEALED_AT_ONCE_BYTES: usize = 4 * RECORD_BYTES;

/// By how much encryption lengthens a record at most, with the ciphers that rustls has: header, nonce, tag and type.
pub(super) const MOST_EXPANSION_BYTES: usize = 5 + 8 + 16 + 1;

thread_local! {
    /// What rustls has encrypted, until a socket has taken it.
    static SEALED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Tls {
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if matches!(self.engine, Engine::Kernel(_)) {
            return self.write_to_kernel(bytes);
        }
        self.send()?;
        let mut taken = 0;
        for piece in bytes.chunks(SEALED_AT_ONCE_BYTES) {
            self.seal(piece)?;
            taken += piece.len();
            if self.has_unsent() {
                break;
            }
        }
        Ok(taken)
    }

    pub fn shutdown(&mut self, how: Shutdown) -> io::Result<()> {
        if how != Shutdown::Write || !self.is_established {
            return self.carrier.shutdown(how);
        }
        if self.write == WriteSide::Open {
            self.write = WriteSide::Ending;
            if !matches!(self.engine, Engine::Kernel(_)) {
                self.say_goodbye()?;
            }
        }
        // The rest follows when the socket becomes writable.
        unless_full(self.send()).map(drop)
    }

    pub fn is_ending(&self) -> bool {
        self.write == WriteSide::Ending
    }

    /// Sends what is outgoing; `false` while the socket does not take all of it.
    pub fn go_on(&mut self) -> bool {
        // An error is the next caller's.
        unless_full(self.send()).unwrap_or(true)
    }

    pub fn has_unsent(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Encrypts bytes, sends them, and keeps what the socket does not take, if it is full.
    fn seal(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.write != WriteSide::Open || self.is_broken() {
            return Err(ErrorKind::BrokenPipe.into());
        }
        SEALED.with_borrow_mut(|room| {
            let mut least = bytes.len() + records(bytes.len()) * MOST_EXPANSION_BYTES;
            let count = loop {
                let room = make_room(room, least);
                match self.perform(Task::Seal { bytes, room }) {
                    Halt::Done(count) => break count,
                    Halt::NeedsRoom(bytes) if bytes > least => least = bytes,
                    halt => return Err(unusable(halt)),
                }
            };
            let sealed = room.get(..count).unwrap_or_default();
            if self.outgoing.is_empty() {
                let sent = write_as_much_as_fits(&mut self.carrier, sealed)?;
                self.outgoing = sealed.get(sent..).unwrap_or_default().to_vec();
                return Ok(());
            }
            // Messages of TLS itself go first.
            self.outgoing.extend_from_slice(sealed);
            unless_full(self.send()).map(drop)
        })
    }

    /// Adds the notice that this direction ends to what is sent.
    pub(super) fn say_goodbye(&mut self) -> io::Result<()> {
        match self.perform(Task::Close) {
            Halt::Done(_) => Ok(()),
            halt => Err(unusable(halt)),
        }
    }

    /// Sends all that is outgoing; `WouldBlock` while the socket does not take it.
    pub(super) fn send(&mut self) -> io::Result<()> {
        if matches!(self.engine, Engine::Kernel(_)) {
            return if self.write == WriteSide::Ending { self.end_at_kernel() } else { Ok(()) };
        }
        if !self.outgoing.is_empty() {
            self.sent += write_as_much_as_fits(&mut self.carrier, self.outgoing.get(self.sent..).unwrap_or_default())?;
            if self.sent < self.outgoing.len() {
                return Err(ErrorKind::WouldBlock.into());
            }
            (self.outgoing, self.sent) = (Vec::new(), 0);
        }
        if self.write == WriteSide::Ending {
            self.write = WriteSide::Ended;
            self.carrier.shutdown(Shutdown::Write)?;
        }
        Ok(())
    }
}

/// What [`Tls::send`] has returned: `false` if the socket is full, which is no error.
fn unless_full(sent: io::Result<()>) -> io::Result<bool> {
    match sent {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes until the socket takes no more; returns how many bytes it has taken.
fn write_as_much_as_fits(carrier: &mut Stream, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
        match carrier.write(rest) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}
