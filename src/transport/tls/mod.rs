//! TLS over another stream, which is TCP outside of tests: rustls, driven by readiness.
//!
//! Of rustls' two interfaces this uses the one without buffers. With the other, each connection keeps at least 4 KiB
//! for what it reads, and reads a record in four calls; with this one, the socket is read into memory that all
//! connections of a thread share, a record is decrypted there, and what a caller writes is encrypted into such memory,
//! too. A connection has a buffer of its own only for what is left: the beginning of a record that has not come whole,
//! decrypted bytes that the caller had no room for, and encrypted ones that the socket did not take.
//!
//! | file | subject |
//! |---|---|
//! | `engine` | rustls, working on memory that its caller lends it |
//! | `kernel` | a connection whose records the kernel encrypts and decrypts |
//! | `kernel_socket` | what the socket of such a connection is asked |
//! | `kernel_support` | whether the kernel of this machine can do that |

mod engine;
mod kernel;
mod kernel_socket;
mod kernel_support;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;

use rustls::{Error, ServerConfig};

use super::Stream;
use crate::tls::TlsSettings;
use engine::{Engine, Halt, MOST_STEPS, RECORD_BYTES, Sink, Task, missing_bytes};
use kernel::{HandOver, bytes_to_boundary};

/// What a caller writes is encrypted and sent in pieces of this size, which is one read of the relay. What a full
/// socket does not take of a piece is held.
const SEALED_AT_ONCE_BYTES: usize = 4 * RECORD_BYTES;

/// By how much encryption lengthens a record at most, with the ciphers that rustls has: header, nonce, tag and type.
const MOST_EXPANSION_BYTES: usize = 5 + 8 + 16 + 1;

/// By how much a record of TLS 1.3 is longer than its plaintext.
const USUAL_EXPANSION_BYTES: usize = 5 + 16 + 1;

/// The least that is read from the socket at once: a record of a small message, and the next one's header.
const LEAST_READ_BYTES: usize = 2048;

/// The longest incomplete message that is kept: one of a handshake has up to 64 KiB, and the records that it comes in
/// add to that.
const MOST_INCOMPLETE_BYTES: usize = 128 * 1024;

/// What a step of rustls counts in the budget of a turn: it takes about as long as to decrypt so many bytes.
const STEP_BYTES: usize = 512;

thread_local! {
    /// What is read from a socket, until rustls has worked through it.
    static INCOMING: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// What rustls has encrypted, until a socket has taken it.
    static SEALED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A connection.
pub struct Tls {
    /// What carries the records.
    carrier: Stream,
    engine: Engine,
    /// What the server's certificate gives; see [`Tls::channel_bindings`].
    settings: Option<Arc<TlsSettings>>,
    bindings: Option<[u8; 16]>,
    is_established: bool,
    hand_over: HandOver,
    /// Read from the socket, and not done with.
    incoming: Vec<u8>,
    /// `incoming` may have a complete record.
    has_record: bool,
    /// Decrypted bytes from `handed_out` on are for the caller.
    plain: Vec<u8>,
    handed_out: usize,
    end: End,
    /// Steps that rustls took in the last call.
    steps: u16,
    /// Bytes from `sent` on are for the socket.
    outgoing: Vec<u8>,
    sent: usize,
    write: WriteSide,
    /// The close is a reset.
    resets: Cell<bool>,
}

/// The end of what the peer sends.
#[derive(Debug)]
enum End {
    /// It has not come.
    Open,
    /// It comes after what is decrypted.
    Pending(io::Result<()>),
    /// The caller knows.
    Reported,
    /// The same, and it was an error.
    Failed,
}

/// The direction of this end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriteSide {
    Open,
    /// To be shut down once everything is sent.
    Ending,
    Ended,
}

/// What the connection is worked on for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    /// To be established.
    Handshake,
    /// To get bytes for a caller's buffer.
    Read,
    /// To know whether there is anything for a caller.
    Look,
}

impl Tls {
    /// The client's end over a stream that is connecting.
    ///
    /// # Errors
    /// When rustls has no random numbers, or cannot use the settings.
    pub fn connecting(carrier: Stream, settings: &Arc<TlsSettings>) -> io::Result<Tls> {
        let engine = Engine::client(settings).map_err(failure)?;
        Ok(Tls::new(carrier, engine, Some(Arc::clone(settings))))
    }

    /// The server's end over a stream that was accepted.
    ///
    /// # Errors
    /// When rustls has no random numbers, or cannot use the configuration.
    pub fn accepted(carrier: Stream, config: Arc<ServerConfig>) -> io::Result<Tls> {
        Ok(Tls::new(carrier, Engine::server(config).map_err(failure)?, None))
    }

    fn new(carrier: Stream, engine: Engine, settings: Option<Arc<TlsSettings>>) -> Tls {
        let wants_kernel = settings.as_ref().is_some_and(|settings| settings.wants_kernel());
        Tls {
            carrier,
            engine,
            settings,
            bindings: None,
            is_established: false,
            hand_over: if wants_kernel { HandOver::WithBulk } else { HandOver::Never },
            incoming: Vec::new(),
            has_record: false,
            plain: Vec::new(),
            handed_out: 0,
            end: End::Open,
            steps: 0,
            outgoing: Vec::new(),
            sent: 0,
            write: WriteSide::Open,
            resets: Cell::new(false),
        }
    }

    pub fn carrier(&self) -> &Stream {
        &self.carrier
    }

    pub fn carrier_mut(&mut self) -> &mut Stream {
        &mut self.carrier
    }

    /// Whether the handshake was shortened by a session of an earlier connection.
    pub fn is_resumed(&self) -> bool {
        self.engine.is_resumed()
    }

    pub fn channel_bindings(&self) -> Option<[u8; 16]> {
        self.bindings
    }

    pub fn has_buffered(&self) -> bool {
        let may_kernel_have_more = match &self.engine {
            Engine::Kernel(kernel) => kernel.may_have_more(),
            _ => false,
        };
        !self.plain.is_empty() || self.has_record || may_kernel_have_more || matches!(self.end, End::Pending(_))
    }

    pub fn held_bytes(&self) -> usize {
        let held_for_kernel = match &self.engine {
            Engine::Kernel(kernel) => kernel.held_bytes(),
            _ => 0,
        };
        self.incoming.capacity() + self.plain.capacity() + self.outgoing.capacity() + held_for_kernel
    }

    /// What the last read, which has brought `count` bytes, counts in the budget of a turn.
    pub fn read_cost(&self, count: usize) -> usize {
        count.max(usize::from(self.steps) * STEP_BYTES)
    }

    pub fn shake_hands(&mut self) -> io::Result<bool> {
        if !self.is_established {
            self.work(&mut [], Goal::Handshake);
            // The end may have come right after the handshake.
            self.is_established = !self.engine.is_handshaking();
            match (self.is_established, std::mem::replace(&mut self.end, End::Open)) {
                (true, end) => {
                    self.end = end;
                    self.bindings = self.find_bindings();
                }
                (false, End::Open) => {}
                (false, End::Pending(Err(error))) => return Err(error),
                (false, End::Pending(Ok(())) | End::Reported | End::Failed) => return Err(truncated()),
            }
        }
        Ok(self.is_established)
    }

    fn find_bindings(&self) -> Option<[u8; 16]> {
        self.settings.as_ref()?.channel_bindings(self.engine.peers_certificate()?)
    }

    /// Sends what is outgoing; `false` while the socket does not take all of it.
    pub fn go_on(&mut self) -> bool {
        // Any other error is the next caller's.
        !matches!(self.send(), Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    pub fn has_unsent(&self) -> bool {
        !self.outgoing.is_empty()
    }

    pub fn has_input(&mut self) -> bool {
        if self.plain.is_empty() && matches!(self.end, End::Open) {
            match self.engine {
                Engine::Kernel(_) => self.look_at_kernel(),
                _ => {
                    self.work(&mut [], Goal::Look);
                }
            }
        }
        !self.plain.is_empty() || !matches!(self.end, End::Open)
    }

    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.steps = 0;
        let from_plain = self.hand_out(buffer);
        let room = buffer.get_mut(from_plain..).unwrap_or_default();
        if room.is_empty() {
            return Ok(from_plain);
        }
        let count = from_plain
            + match (&self.end, &self.engine) {
                (End::Open, Engine::Kernel(_)) => self.read_from_kernel(room),
                (End::Open, _) => self.work(room, Goal::Read),
                _ => 0,
            };
        self.perhaps_hand_over();
        if count > 0 {
            return Ok(count);
        }
        match std::mem::replace(&mut self.end, End::Reported) {
            End::Open => {
                self.end = End::Open;
                Err(ErrorKind::WouldBlock.into())
            }
            End::Pending(Ok(())) | End::Reported => Ok(0),
            End::Pending(Err(error)) => {
                self.end = End::Failed;
                Err(error)
            }
            End::Failed => {
                self.end = End::Failed;
                Ok(0)
            }
        }
    }

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
        match self.send() {
            // The rest follows when the socket becomes writable.
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            other => other,
        }
    }

    pub fn is_ending(&self) -> bool {
        self.write == WriteSide::Ending
    }

    pub fn reset_on_close(&self) {
        self.resets.set(true);
        self.carrier.reset_on_close();
    }

    /// Gives the caller what is decrypted, as far as it has room.
    fn hand_out(&mut self, buffer: &mut [u8]) -> usize {
        let rest = self.plain.get(self.handed_out..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        if let (Some(room), Some(bytes)) = (buffer.get_mut(..count), rest.get(..count)) {
            room.copy_from_slice(bytes);
        }
        self.handed_out += count;
        if self.handed_out == self.plain.len() {
            (self.plain, self.handed_out) = (Vec::new(), 0);
        }
        count
    }

    /// Reads the socket, lets rustls work, and sends what it says, until the goal is reached or the socket is empty.
    /// Returns how many bytes of `buffer` are filled. An end, or an error, is kept for later.
    fn work(&mut self, buffer: &mut [u8], goal: Goal) -> usize {
        INCOMING.with_borrow_mut(|room| {
            let mut filled = self.incoming.len();
            make_room(room, filled).copy_from_slice(&self.incoming);
            let mut start = 0;
            let (mut is_to_be_processed, mut is_emptied) = (self.has_record || goal == Goal::Handshake, false);
            let mut plain = std::mem::take(&mut self.plain);
            let mut sink = Sink::new(buffer, &mut plain);
            loop {
                if is_to_be_processed {
                    let incoming = room.get_mut(start..filled).unwrap_or_default();
                    let (used, halt) = self.engine.advance(incoming, Task::Receive, &mut sink, &mut self.outgoing);
                    start += used;
                    self.has_record = matches!(halt, Halt::Full);
                    if let Halt::Failed(error) = halt {
                        self.engine.alert(room.get_mut(start..filled).unwrap_or_default(), &mut self.outgoing);
                        let error = match &self.settings {
                            Some(settings) => {
                                settings.failure(&error, self.is_established && self.engine.may_renegotiate())
                            }
                            None => failure(error),
                        };
                        self.end = End::Pending(Err(error));
                    } else if sink.has_ended {
                        self.end = End::Pending(Ok(()));
                    } else if sink.steps >= MOST_STEPS && sink.filled == 0 && sink.aside.is_empty()
                        || filled - start > MOST_INCOMPLETE_BYTES
                    {
                        self.end = End::Pending(Err(excessive()));
                    }
                    self.go_on();
                }
                let is_reached = match goal {
                    Goal::Handshake => !self.engine.is_handshaking(),
                    Goal::Read => {
                        let is_enough = is_emptied || self.hand_over == HandOver::Soon && start == filled;
                        sink.space() == 0 || (is_enough && sink.filled > 0)
                    }
                    Goal::Look => false,
                };
                if is_reached || self.has_record || !sink.aside.is_empty() || !matches!(self.end, End::Open) {
                    break;
                }
                room.copy_within(start..filled, 0);
                (start, filled) = (0, filled - start);
                let incoming = room.get(..filled).unwrap_or_default();
                let to_boundary = match self.hand_over {
                    HandOver::Soon => bytes_to_boundary(incoming),
                    _ => None,
                };
                let most = to_boundary.unwrap_or_else(|| read_bytes(sink.space(), incoming));
                let asked = make_room(room, filled + most).get_mut(filled..).unwrap_or_default();
                match self.carrier.read(asked) {
                    Ok(0) => self.end = End::Pending(Err(truncated())),
                    Ok(count) => {
                        is_emptied = count < asked.len();
                        filled += count;
                        is_to_be_processed = true;
                        continue;
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {
                        is_to_be_processed = false;
                        continue;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => self.end = End::Pending(Err(error)),
                }
                break;
            }
            let (count, steps) = (sink.filled, sink.steps);
            self.steps = u16::try_from(steps).unwrap_or(u16::MAX);
            self.plain = plain;
            self.keep(room.get(start..filled).unwrap_or_default());
            count
        })
    }

    /// Keeps what rustls is not done with.
    fn keep(&mut self, rest: &[u8]) {
        if rest.is_empty() || !matches!(self.end, End::Open) {
            (self.incoming, self.has_record) = (Vec::new(), false);
        } else if self.incoming.len() == rest.len() {
            self.incoming.copy_from_slice(rest);
        } else {
            self.incoming = rest.to_vec();
        }
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
            match self.send() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
                other => other,
            }
        })
    }

    /// Adds the notice that this direction ends to what is sent.
    fn say_goodbye(&mut self) -> io::Result<()> {
        match self.perform(Task::Close) {
            Halt::Done(_) => Ok(()),
            halt => Err(unusable(halt)),
        }
    }

    /// Lets rustls do something with an established connection. What has been read must be there, because rustls may
    /// have worked on a part of it; what is decrypted on the way is set aside.
    fn perform(&mut self, task: Task<'_>) -> Halt {
        let mut sink = Sink::new(&mut [], &mut self.plain);
        let (used, halt) = self.engine.advance(&mut self.incoming, task, &mut sink, &mut self.outgoing);
        if sink.has_ended {
            self.end = End::Pending(Ok(()));
        }
        self.has_record = false;
        if used == self.incoming.len() {
            self.incoming = Vec::new();
        } else {
            self.incoming.drain(..used);
        }
        halt
    }

    /// Sends all that is outgoing; `WouldBlock` while the socket does not take it.
    fn send(&mut self) -> io::Result<()> {
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

    /// Whether the connection has failed: its peer must not take what it got for the whole.
    fn is_broken(&self) -> bool {
        matches!(&self.end, End::Pending(Err(_)) | End::Failed)
    }
}

impl Drop for Tls {
    /// As a TCP connection's close tells the peer that this direction has ended, unless it is a reset.
    fn drop(&mut self) {
        let has_lost_nothing = self.outgoing.is_empty() && !self.resets.get() && !self.is_broken();
        if self.is_established && self.write == WriteSide::Open && has_lost_nothing {
            // The peer may be gone.
            let _ = match self.engine {
                Engine::Kernel(_) => self.end_at_kernel(),
                _ => self.say_goodbye().and_then(|()| self.send()),
            };
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Tls")
            .field("carrier", &self.carrier)
            .field("engine", &self.engine)
            .field("is_established", &self.is_established)
            .field("held_bytes", &self.held_bytes())
            .field("end", &self.end)
            .field("write", &self.write)
            .finish_non_exhaustive()
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

/// The first `bytes` of memory that a thread's connections share.
fn make_room(room: &mut Vec<u8>, bytes: usize) -> &mut [u8] {
    if room.len() < bytes {
        room.resize(bytes, 0);
    }
    room.get_mut(..bytes).unwrap_or_default()
}

/// How many records so many bytes make; at least one.
fn records(bytes: usize) -> usize {
    bytes.div_ceil(RECORD_BYTES).max(1)
}

/// How much to read from the socket for a caller that has room for `space`, after what has come already: records of the
/// usual length that fill the room exactly, so that no part of one has to be kept.
fn read_bytes(space: usize, incoming: &[u8]) -> usize {
    let for_caller = (space + records(space) * USUAL_EXPANSION_BYTES).saturating_sub(incoming.len());
    for_caller.max(missing_bytes(incoming)).max(LEAST_READ_BYTES)
}

/// rustls' error, which can be found in it again.
fn failure(error: Error) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}

/// The peer has closed the connection without saying that its direction ends: somebody may have cut it off.
fn truncated() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "the connection ended without TLS's close_notify")
}

/// A peer could hold up all connections of a thread with session tickets, or the thread's memory with messages that
/// never end.
fn excessive() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "the peer sends too many or too long messages of TLS itself")
}

fn unusable(halt: Halt) -> io::Error {
    match halt {
        Halt::Failed(error) => failure(error),
        _ => ErrorKind::BrokenPipe.into(),
    }
}
