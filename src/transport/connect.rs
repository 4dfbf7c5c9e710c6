//! How connections to upstreams and origins are made.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;

use mio::{Interest, Registry, Token};

#[cfg(test)]
use super::framed::Framed;
use super::{Endpoint, KeepAlive, Readiness, Stream, bound_buffers, keep_alive, tcp};
#[cfg(test)]
use crate::sim::network as simulated;
use crate::tls::TlsSettings;

/// What carries the bytes to an upstream or an origin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// TCP and nothing above it.
    #[default]
    Tcp,
    /// TLS over TCP.
    Tls(Arc<TlsSettings>),
    /// A transport for tests.
    #[cfg(test)]
    Framed,
}

/// Options of a connection's socket, whatever its transport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketOptions {
    /// See [`bound_buffers`].
    pub buffer_bytes: usize,
    /// See [`keep_alive`].
    pub keep_alive: Option<KeepAlive>,
}

impl SocketOptions {
    pub(super) fn apply(&self, socket: impl AsFd + Copy) {
        bound_buffers(socket, self.buffer_bytes);
        keep_alive(socket, self.keep_alive);
    }
}

impl Transport {
    /// Begins to connect, and registers the connection for reading and writing, once and for all. How connecting ended
    /// is known from [`Endpoint::connect_outcome`].
    ///
    /// # Errors
    /// What the system reports at once.
    pub fn connect(
        &self,
        address: SocketAddr,
        token: impl Into<Token>,
        options: &SocketOptions,
        registry: &Registry,
    ) -> io::Result<Endpoint> {
        let mut endpoint = self.open(address)?;
        endpoint.stream.set_options(options);
        registry.register(&mut endpoint.stream, token.into(), Interest::READABLE | Interest::WRITABLE)?;
        Ok(endpoint)
    }

    /// Begins to connect.
    pub(super) fn open(&self, address: SocketAddr) -> io::Result<Endpoint> {
        #[cfg(test)]
        if let Some(outcome) = simulated::connect(address) {
            return outcome.map(|socket| Endpoint { stream: Stream::Simulated(socket), ready: Readiness::NOTHING });
        }
        self.over(tcp::connect(address)?)
    }

    /// A connection over a socket that is connecting.
    fn over(&self, socket: TcpStream) -> io::Result<Endpoint> {
        let stream = match self {
            Transport::Tcp => Stream::Tcp(socket),
            Transport::Tls(_) => return Err(io::ErrorKind::Unsupported.into()),
            #[cfg(test)]
            Transport::Framed => Stream::Framed(Framed::new(socket)),
        };
        Ok(Endpoint { stream, ready: Readiness::NOTHING })
    }

    /// Completes a connection over a socket that is connected, of which the other end is completed at the same time.
    #[cfg(test)]
    pub fn complete(&self, socket: TcpStream) -> super::BlockingStream {
        socket.set_nonblocking(true).unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
        super::BlockingStream::complete(self.over(socket).unwrap(), until).unwrap()
    }
}
