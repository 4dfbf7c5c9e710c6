//! A listening socket: the kernel's, or in tests that of a simulated network.

use std::io;
use std::net::SocketAddr;

use mio::net::TcpListener;
use mio::{Registry, Token};
use rustix::event::epoll::{self, EventData, EventFlags};

use super::Stream;
#[cfg(test)]
use crate::sim::network as simulated;

/// A listening socket.
///
/// Unlike connections, it is level-triggered: the poll reports it as long as a connection is pending. So to accept one,
/// nobody has to ask for another only to learn that there is none.
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

    /// Has the poll report pending connections. It stops when this is dropped.
    ///
    /// # Errors
    /// The system's error.
    pub fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        match self {
            // Not mio's registration, which is edge-triggered.
            Listener::Tcp(listener) => Ok(epoll::add(registry, listener, data(token), EventFlags::IN)?),
            #[cfg(test)]
            Listener::Simulated(listener) => listener.register(token),
        }
    }

    /// Has the poll report pending connections, or not: while none is accepted, it would report them all the time.
    ///
    /// # Errors
    /// The system's error.
    pub fn set_reported(&self, registry: &Registry, token: Token, is_reported: bool) -> io::Result<()> {
        let flags = if is_reported { EventFlags::IN } else { EventFlags::empty() };
        match self {
            Listener::Tcp(listener) => Ok(epoll::modify(registry, listener, data(token), flags)?),
            #[cfg(test)]
            Listener::Simulated(listener) => listener.set_reported(is_reported),
        }
    }
}

/// What mio takes for `token` when the event comes.
fn data(token: Token) -> EventData {
    EventData::new_u64(token.0 as u64)
}
