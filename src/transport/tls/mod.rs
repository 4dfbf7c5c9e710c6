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
//! | `receive` | the handshake, and what is read |
//! | `send` | what is written, and its end |

mod engine;
mod kernel;
mod kernel_socket;
mod kernel_support;
mod receive;
mod send;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use rustls::{Error, ServerConfig};

use super::Stream;
use crate::tls::TlsSettings;
use engine::{Engine, Halt, RECORD_BYTES, Sink, Task};
use kernel::HandOver;

/// The least that is read from the socket at once: a record of a small message, and the next one's header.
const LEAST_READ_BYTES: usize = 2048;

/// The longest incomplete message that is kept: one of a handshake has up to 64 KiB, and the records that it comes in
/// add to that.
const MOST_INCOMPLETE_BYTES: usize = 128 * 1024;

/// What a step of rustls counts in the budget of a turn: it takes about as long as to decrypt so many bytes.
const STEP_BYTES: usize = 512;

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

    pub fn reset_on_close(&self) {
        self.resets.set(true);
        self.carrier.reset_on_close();
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
