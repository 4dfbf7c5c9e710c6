//! Connecting without blocking.

use std::io;
use std::net::SocketAddr;

use mio::{Interest, Registry, Token};

use super::{Endpoint, EventToken, KeepAlive, Readiness, Stream};

/// Options of the sockets to upstreams and origins.
#[derive(Clone, Copy, Debug)]
pub struct SocketOptions {
    /// What the socket may hold back each way, in bytes; 0 leaves it to the system.
    pub buffer_bytes: usize,
    /// How the connection is probed while nothing moves.
    pub keep_alive: Option<KeepAlive>,
}

impl Endpoint {
    /// Begins to connect and registers the connection for reading and writing, once and for good.
    ///
    /// # Errors
    /// What the system says at once; what it says later is told by [`Stream::take_error`].
    pub fn connect(
        address: SocketAddr,
        token: EventToken,
        options: &SocketOptions,
        registry: &Registry,
    ) -> io::Result<Endpoint> {
        let mut stream = Stream::connect(address)?;
        stream.bound_buffers(options.buffer_bytes);
        stream.keep_alive(options.keep_alive);
        registry.register(&mut stream, Token::from(token), Interest::READABLE | Interest::WRITABLE)?;
        Ok(Endpoint { stream, ready: Readiness::NOTHING })
    }

    /// Gives the connection's events to another owner. The first of them says what the connection can do now.
    ///
    /// # Errors
    /// What the system says; the connection is of no use then.
    pub fn hand_over(&mut self, token: EventToken, registry: &Registry) -> io::Result<()> {
        registry.reregister(&mut self.stream, Token::from(token), Interest::READABLE | Interest::WRITABLE)
    }
}
