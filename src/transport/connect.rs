//! How connections to upstreams and origins are made.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;

use mio::{Interest, Registry, Token};

#[cfg(test)]
use super::framed::Framed;
use super::tls::Tls;
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
    /// Sets what a connection needs from the beginning.
    pub(super) fn apply(&self, socket: impl AsFd) {
        bound_buffers(socket, self.buffer_bytes);
    }

    /// Sets what only a connection that lasts needs.
    pub(super) fn apply_to_lasting(&self, socket: impl AsFd) {
        keep_alive(socket, self.keep_alive);
    }
}

impl Transport {
    /// The settings of TLS, if it is used.
    #[must_use]
    pub fn tls(&self) -> Option<&TlsSettings> {
        match self {
            Transport::Tls(settings) => Some(settings),
            _ => None,
        }
    }

    /// Begins to connect, and registers the connection for reading and writing, once and for all. How connecting ended
    /// is known from [`Endpoint::connect_outcome`]. Once the connection has lasted for a while, its owner calls
    /// [`Endpoint::lasts`].
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
            let carrier = Stream::Simulated(outcome?);
            let stream = match self {
                Transport::Tls(settings) => Stream::Tls(Box::new(Tls::connecting(carrier, settings)?)),
                _ => carrier,
            };
            return Ok(Endpoint { stream, ready: Readiness::NOTHING });
        }
        self.over(tcp::connect(address)?)
    }

    /// A connection over a socket that is connecting.
    fn over(&self, socket: TcpStream) -> io::Result<Endpoint> {
        let stream = match self {
            Transport::Tcp => Stream::Tcp(socket),
            Transport::Tls(settings) => Stream::Tls(Box::new(Tls::connecting(Stream::Tcp(socket), settings)?)),
            #[cfg(test)]
            Transport::Framed => Stream::Framed(Framed::new(socket)),
        };
        Ok(Endpoint { stream, ready: Readiness::NOTHING })
    }

    /// Completes this end of a connection over a socket that is connected, while another thread completes the other.
    #[cfg(test)]
    pub fn complete(&self, socket: TcpStream) -> super::BlockingStream {
        complete(socket, |socket| self.over(socket))
    }

    /// Completes the upstream's end of a connection over a socket that is connected, while another thread completes the
    /// other.
    #[cfg(test)]
    pub fn complete_far(&self, socket: TcpStream) -> super::BlockingStream {
        complete(socket, |socket| match self {
            Transport::Tls(settings) if settings.wants_kernel() => {
                Endpoint::accept_tls(socket, super::tls::testing::kernel_pair(&Default::default()).1)
            }
            Transport::Tls(_) => Endpoint::accept_tls(socket, super::tls::testing::server_config()),
            _ => self.over(socket),
        })
    }

    /// TLS with a server whose certificate was made for the tests.
    #[cfg(test)]
    pub fn tls_for_tests() -> Transport {
        Transport::Tls(super::tls::testing::client_settings())
    }

    /// The same, with bulk data left to the kernel where it can do that.
    #[cfg(test)]
    pub fn kernel_tls_for_tests() -> Transport {
        Transport::Tls(super::tls::testing::kernel_pair(&Default::default()).0)
    }
}

#[cfg(test)]
fn complete(socket: TcpStream, over: impl FnOnce(TcpStream) -> io::Result<Endpoint>) -> super::BlockingStream {
    socket.set_nonblocking(true).unwrap();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    super::BlockingStream::complete(over(socket).unwrap(), until).unwrap()
}
