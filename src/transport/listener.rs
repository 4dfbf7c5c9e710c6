//! A listening socket: the kernel's, or in tests that of a simulated network.

use std::io;
use std::net::SocketAddr;

use mio::event::Source;
use mio::net::TcpListener;
use mio::{Interest, Registry, Token};

use super::Stream;
#[cfg(test)]
use crate::sim::network as simulated;

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    /// A socket of the kernel.
    Tcp(TcpListener),
    /// The socket of a simulated network.
    #[cfg(test)]
    Simulated(simulated::Listener),
}

impl Listener {
    /// Accepts the next connection; returns it with the address that it comes from.
    ///
    /// # Errors
    /// The system's error; `WouldBlock` when no connection is pending.
    pub fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        match self {
            Listener::Tcp(listener) => listener.accept().map(|(stream, from)| (stream.into(), from)),
            #[cfg(test)]
            Listener::Simulated(listener) => listener.accept().map(|(socket, from)| (Stream::Simulated(socket), from)),
        }
    }
}

impl Source for Listener {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        match self {
            Listener::Tcp(listener) => listener.register(registry, token, interests),
            #[cfg(test)]
            Listener::Simulated(listener) => listener.register(token),
        }
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        match self {
            Listener::Tcp(listener) => listener.reregister(registry, token, interests),
            #[cfg(test)]
            Listener::Simulated(listener) => listener.register(token),
        }
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        match self {
            Listener::Tcp(listener) => listener.deregister(registry),
            #[cfg(test)]
            Listener::Simulated(_) => unreachable!("listeners leave the poll by being closed"),
        }
    }
}
