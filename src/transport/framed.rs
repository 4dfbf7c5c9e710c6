//! A transport for tests: it does to its callers what one that encrypts does, without the cryptography.
//!
//! ```text
//!   record = kind (1 byte) │ length (2 bytes) │ payload, every byte XORed with MASK
//! ```
//!
//! Both ends send `Hello` first. A record is handed out whole or not at all, so bytes wait in `plain` after the socket
//! is empty. `Ticket` carries nothing for the reader, as a TLS session ticket does. `Close` ends a direction; an end of
//! file without it is an error.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

const MASK: u8 = 0x5a;
const RECORD_BYTES: usize = 1000;
const HEADER_BYTES: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Hello,
    Data,
    Ticket,
    Close,
}

/// A connection. What it knows is kept in [`STATES`], so that tests measure the size of a session as it is over TCP.
#[derive(Debug)]
pub struct Framed(TcpStream);

static STATES: Mutex<BTreeMap<RawFd, State>> = Mutex::new(BTreeMap::new());

#[derive(Debug, Default)]
struct State {
    said_hello: bool,
    heard_hello: bool,
    /// Read from the socket: less than a record.
    raw: Vec<u8>,
    /// Taken out of records and not handed out.
    plain: Vec<u8>,
    /// The peer's end, or an error, after what is in `plain`; `None` while the direction is open or once that was
    /// handed out.
    end: Option<io::Result<usize>>,
    /// Records that the socket has not taken.
    unsent: Vec<u8>,
    ends_write: bool,
}

impl Framed {
    pub const CHANNEL_BINDINGS: [u8; 16] = *b"a framed channel";

    pub fn new(socket: TcpStream) -> Framed {
        states().insert(socket.as_raw_fd(), State::default());
        Framed(socket)
    }

    pub fn socket(&self) -> &TcpStream {
        &self.0
    }

    pub fn has_buffered(&self) -> bool {
        self.with(|_, state| state.has_buffered())
    }

    pub fn held_bytes(&self) -> usize {
        self.with(|_, state| state.raw.capacity() + state.plain.capacity() + state.unsent.capacity())
    }

    pub fn shake_hands(&mut self) -> io::Result<bool> {
        self.with(|socket, state| state.shake_hands(socket))
    }

    pub fn go_on(&mut self) -> bool {
        // Any other error is the next caller's.
        let outcome = self.with(|socket, state| state.send(socket));
        !matches!(outcome, Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    pub fn has_unsent(&self) -> bool {
        self.with(|_, state| !state.unsent.is_empty())
    }

    pub fn has_input(&mut self) -> bool {
        self.with(|socket, state| state.has_input(socket))
    }

    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.with(|socket, state| state.read(socket, buffer))
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.with(|socket, state| state.write(socket, bytes))
    }

    pub fn shutdown(&mut self, how: Shutdown) -> io::Result<()> {
        assert_eq!(how, Shutdown::Write);
        self.with(|socket, state| {
            state.seal(Kind::Close, &[]);
            state.ends_write = true;
            match state.send(socket) {
                // The rest follows when the socket becomes writable.
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
                other => other,
            }
        })
    }

    pub fn send_ticket(&mut self) -> io::Result<()> {
        self.with(|socket, state| {
            state.seal(Kind::Ticket, b"for the next connection");
            state.send(socket)
        })
    }

    fn with<T>(&self, look: impl FnOnce(&TcpStream, &mut State) -> T) -> T {
        let mut state = states().remove(&self.0.as_raw_fd()).unwrap();
        let outcome = look(&self.0, &mut state);
        states().insert(self.0.as_raw_fd(), state);
        outcome
    }
}

impl Drop for Framed {
    fn drop(&mut self) {
        states().remove(&self.0.as_raw_fd());
    }
}

fn states() -> MutexGuard<'static, BTreeMap<RawFd, State>> {
    STATES.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn has_buffered(&self) -> bool {
        !self.plain.is_empty() || self.end.is_some()
    }

    fn shake_hands(&mut self, socket: &TcpStream) -> io::Result<bool> {
        if !std::mem::replace(&mut self.said_hello, true) {
            self.seal(Kind::Hello, &[]);
        }
        self.send(socket)?;
        while !self.heard_hello {
            match self.take_in(socket) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                other => other?,
            }
        }
        Ok(true)
    }

    fn has_input(&mut self, socket: &TcpStream) -> bool {
        loop {
            if self.has_buffered() {
                return true;
            }
            match self.take_in(socket) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) => self.end = Some(Err(error)),
                Ok(()) => {}
            }
        }
    }

    fn read(&mut self, socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        while self.plain.len() < buffer.len() && self.end.is_none() {
            match self.take_in(socket) {
                Err(error) if error.kind() == ErrorKind::WouldBlock && self.plain.is_empty() => return Err(error),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => self.end = Some(Err(error)),
                Ok(()) => {}
            }
        }
        if self.plain.is_empty()
            && let Some(end) = self.end.take()
        {
            return end;
        }
        let count = self.plain.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.plain[..count]);
        self.plain.drain(..count);
        self.release();
        Ok(count)
    }

    fn write(&mut self, socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        let mut taken = 0;
        loop {
            match self.send(socket) {
                Err(error) if error.kind() == ErrorKind::WouldBlock && taken > 0 => return Ok(taken),
                other => other?,
            }
            let piece = &bytes[taken..bytes.len().min(taken + RECORD_BYTES)];
            if piece.is_empty() {
                return Ok(taken);
            }
            self.seal(Kind::Data, piece);
            taken += piece.len();
        }
    }

    fn seal(&mut self, kind: Kind, payload: &[u8]) {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        let record = [kind as u8].into_iter().chain(length).chain(payload.iter().copied());
        self.unsent.extend(record.map(|byte| byte ^ MASK));
    }

    /// Sends all that is unsent; `WouldBlock` while the socket does not take it.
    fn send(&mut self, mut socket: &TcpStream) -> io::Result<()> {
        while !self.unsent.is_empty() {
            let count = socket.write(&self.unsent)?;
            self.unsent.drain(..count);
        }
        if std::mem::take(&mut self.ends_write) {
            socket.shutdown(Shutdown::Write)?;
        }
        self.release();
        Ok(())
    }

    /// Reads the socket once and opens the records that are complete.
    fn take_in(&mut self, mut socket: &TcpStream) -> io::Result<()> {
        let mut piece = [0; 700];
        let count = socket.read(&mut piece)?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.raw.extend(piece[..count].iter().map(|byte| byte ^ MASK));
        while let Some((header, rest)) = self.raw.split_at_checked(HEADER_BYTES) {
            let length = usize::from(u16::from_be_bytes([header[1], header[2]]));
            let Some(payload) = rest.get(..length) else { break };
            match header[0] {
                kind if kind == Kind::Hello as u8 => self.heard_hello = true,
                kind if kind == Kind::Data as u8 => self.plain.extend_from_slice(payload),
                kind if kind == Kind::Close as u8 => self.end = Some(Ok(0)),
                _ => {}
            }
            self.raw.drain(..HEADER_BYTES + length);
        }
        self.release();
        Ok(())
    }

    /// Buffers exist only while bytes are in them.
    fn release(&mut self) {
        for buffer in [&mut self.raw, &mut self.plain, &mut self.unsent] {
            if buffer.is_empty() {
                *buffer = Vec::new();
            }
        }
    }
}
