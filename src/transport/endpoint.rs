//! A connection with its readiness.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use mio::{Interest, Registry, Token};
use rustls::ServerConfig;

use super::tls::Tls;
use super::{Readiness, SocketOptions, Stream};

/// A connection together with what is known of its readiness.
#[derive(Debug)]
pub struct Endpoint {
    /// The connection; closed when this is dropped.
    pub stream: Stream,
    /// What is known of it.
    pub ready: Readiness,
}

impl Endpoint {
    /// The server's end of a TLS connection over a socket that was accepted and does not block. How its handshake ended
    /// is known from [`Endpoint::connect_outcome`].
    ///
    /// # Errors
    /// When the system has no random numbers, or the configuration cannot be used.
    pub fn accept_tls(socket: TcpStream, config: Arc<ServerConfig>) -> io::Result<Endpoint> {
        let stream = Stream::Tls(Box::new(Tls::accepted(Stream::Tcp(socket), config)?));
        Ok(Endpoint { stream, ready: Readiness::HOPEFUL })
    }

    /// Takes note of an event.
    pub fn learn(&mut self, more: Readiness) {
        self.ready.learn(more);
        if !self.stream.go_on() {
            self.ready.write_blocked();
        }
    }

    /// How connecting ended, the transport's own handshake included; `None` while it is under way. To be asked after
    /// each event until then.
    pub fn connect_outcome(&mut self) -> Option<io::Result<()>> {
        match self.socket_outcome()? {
            Ok(()) => self.handshake_outcome(),
            Err(error) => Some(Err(error)),
        }
    }

    /// How connecting the socket ended; `None` while it is under way. To be asked after each event until then.
    pub fn socket_outcome(&mut self) -> Option<io::Result<()>> {
        if !self.ready.writable() {
            return None;
        }
        // Without an error in the event there is none to ask for. If the connection fails later, the first write says
        // so.
        let error = if self.ready.reset() { self.stream.take_error() } else { Ok(None) };
        match error {
            Ok(None) => Some(Ok(())),
            Ok(Some(error)) | Err(error) => Some(Err(error)),
        }
    }

    /// How the transport's own handshake on a connected socket ended; `None` while it is under way. The first call
    /// begins it; it is to be asked after each event until then.
    pub fn handshake_outcome(&mut self) -> Option<io::Result<()>> {
        self.stream.shake_hands().map(|is_complete| is_complete.then_some(())).transpose()
    }

    /// The connection has lasted for a while (`limits::LASTING_CONNECTION_AGE`): sets the options that short
    /// connections do without, because they take four system calls. Does no harm when it is repeated.
    pub fn lasts(&self, options: &SocketOptions) {
        self.stream.set_lasting_options(options);
    }

    /// Gives the connection's events to another owner. The first of them reports what its socket can do at present.
    ///
    /// # Errors
    /// The system's error; the connection is of no use then.
    pub fn hand_over(&mut self, token: impl Into<Token>, registry: &Registry) -> io::Result<()> {
        registry.reregister(&mut self.stream, token.into(), Interest::READABLE | Interest::WRITABLE)
    }

    /// Reads once into `buffer` and updates the readiness. While the stream [has buffered](Stream::has_buffered) bytes,
    /// the endpoint stays readable.
    ///
    /// `Ok(None)`: there is nothing to read now. `Ok(Some(0))`: the peer has ended its direction.
    ///
    /// # Errors
    /// The stream's error, except EAGAIN and EINTR.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match self.stream.read(buffer) {
                Ok(count) => {
                    if count != 0 && count < buffer.len() && !self.stream.has_buffered() {
                        self.ready.read_exhausted();
                    }
                    return Ok(Some(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.ready.read_blocked();
                    return Ok(None);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// What the last read, which has brought `count` bytes, counts in the budget of a turn: more than its bytes if they
    /// took more work, as many short records do.
    #[inline]
    pub fn read_cost(&self, count: usize) -> usize {
        self.stream.read_cost(count)
    }

    /// Writes once from `bytes` and updates the readiness; returns how many bytes were taken, 0 when none can be now.
    ///
    /// # Errors
    /// The stream's error, except EAGAIN and EINTR.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.stream.write(bytes) {
                Ok(count) => {
                    if count < bytes.len() || self.stream.has_unsent() {
                        self.ready.write_blocked();
                    }
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.ready.write_blocked();
                    return Ok(0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the peer of a connection that nobody reads at present has sent something or has ended, as far as events
    /// have reported it. To be asked after an event.
    pub fn has_input(&mut self) -> bool {
        let has_input = self.stream.has_input(self.ready.readable());
        if !has_input {
            self.ready.read_blocked();
        }
        has_input
    }

    /// Whether the connection is open both ways and nothing has come on it, as far as events have reported it.
    pub fn seems_at_rest(&self) -> bool {
        !self.ready.readable() && !self.ready.read_closed() && !self.ready.reset()
    }

    /// Whether the connection is open both ways and nothing has come on it. Asks the socket, because an event may be
    /// pending.
    pub fn is_at_rest(&mut self) -> bool {
        let is_silent = self.stream.is_silent();
        if is_silent {
            self.ready.read_blocked();
        }
        is_silent && !self.ready.read_closed() && !self.ready.reset()
    }

    /// Whether a pipe may carry its bytes from now on; see [`Stream::prepare_splice`].
    #[inline]
    pub fn prepare_splice(&mut self) -> bool {
        self.stream.prepare_splice()
    }

    /// See [`Stream::channel_bindings`].
    pub fn channel_bindings(&self) -> Option<[u8; 16]> {
        self.stream.channel_bindings()
    }

    /// See [`Stream::held_bytes`].
    pub fn held_bytes(&self) -> usize {
        self.stream.held_bytes()
    }
}
