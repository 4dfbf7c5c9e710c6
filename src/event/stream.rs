//! Connections and listeners as the loop sees them: the kernel's, or in tests a simulated network's.
//!
//! Outside of tests each of these has one variant, and matching on it compiles to nothing.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use mio::event::Source;
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use rustix::net::sockopt;

#[cfg(test)]
use crate::sim::network as simulated;

/// A connection; closed when this is dropped.
#[derive(Debug)]
pub enum Stream {
    /// One of the kernel's.
    Tcp(TcpStream),
    /// One of a simulated network.
    #[cfg(test)]
    Simulated(simulated::Socket),
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Stream {
        Stream::Tcp(stream)
    }
}

/// As [`Stream::bound_buffers`]; what a listening socket has is inherited by those that it accepts.
pub fn bound_buffers(socket: impl AsFd, bytes: usize) {
    if bytes > 0 {
        // Only a socket that is gone can refuse: the kernel takes any size and cuts it to its own bounds.
        let _ = sockopt::set_socket_send_buffer_size(&socket, bytes);
        let _ = sockopt::set_socket_recv_buffer_size(&socket, bytes);
    }
}

/// TCP keep-alive: how a peer that is gone without a word is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Rest before the first probe, in whole seconds.
    pub idle: Duration,
    /// Between two probes, in whole seconds.
    pub probe: Duration,
    /// Probes without an answer after which the connection is given up.
    pub probes: u32,
}

/// As [`Stream::keep_alive`]; what a listening socket has is inherited by those that it accepts.
pub fn keep_alive(socket: impl AsFd, keep_alive: Option<KeepAlive>) {
    let Some(KeepAlive { idle, probe, probes }) = keep_alive else { return };
    // Only a socket that is gone can refuse: the values are within what the kernel takes.
    let _ = sockopt::set_socket_keepalive(&socket, true);
    let _ = sockopt::set_tcp_keepidle(&socket, idle);
    let _ = sockopt::set_tcp_keepintvl(&socket, probe);
    let _ = sockopt::set_tcp_keepcnt(&socket, probes);
}

impl Stream {
    /// Begins to connect. Small pieces will not be held back (TCP_NODELAY).
    ///
    /// # Errors
    /// What the system says at once; what it says later is told by [`Stream::take_error`].
    pub fn connect(address: SocketAddr) -> io::Result<Stream> {
        #[cfg(test)]
        if let Some(outcome) = simulated::connect(address) {
            return outcome.map(Stream::Simulated);
        }
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        // The request follows at once: its segment carries the handshake's last ACK, which saves a packet a tunnel. A kernel
        // that declines sends that ACK by itself.
        let _ = sockopt::set_tcp_quickack(&stream, false);
        Ok(Stream::Tcp(stream))
    }

    /// Holds back at most about `bytes` each way (SO_SNDBUF, SO_RCVBUF, of which the kernel takes twice as much for what it keeps beside
    /// them); 0 leaves it to the system.
    pub fn bound_buffers(&self, bytes: usize) {
        match self {
            Stream::Tcp(stream) => bound_buffers(stream, bytes),
            #[cfg(test)]
            Stream::Simulated(_) => {}
        }
    }

    /// Probes the peer while nothing moves, so that one that is gone without a word is noticed, and so that firewalls between do not forget
    /// the connection.
    pub fn keep_alive(&self, settings: Option<KeepAlive>) {
        match self {
            Stream::Tcp(stream) => keep_alive(stream, settings),
            #[cfg(test)]
            Stream::Simulated(_) => {}
        }
    }

    /// The error that the connection met since it was asked last (SO_ERROR).
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        match self {
            Stream::Tcp(stream) => stream.take_error(),
            #[cfg(test)]
            Stream::Simulated(socket) => Ok(socket.take_error()),
        }
    }

    /// Whether the peer has taken the connection, though its event may not have been heard yet.
    pub fn is_connected(&self) -> bool {
        match self {
            Stream::Tcp(stream) => stream.peer_addr().is_ok(),
            #[cfg(test)]
            Stream::Simulated(socket) => socket.is_connected(),
        }
    }

    /// The addresses of the peer and of this end, in this order; `None` for a connection that is gone.
    pub fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        match self {
            Stream::Tcp(stream) => Some((stream.peer_addr().ok()?, stream.local_addr().ok()?)),
            #[cfg(test)]
            Stream::Simulated(_) => None,
        }
    }

    /// Whether the connection stands and has nothing to read now, not even its end.
    pub fn is_silent(&self) -> bool {
        match self {
            Stream::Tcp(stream) => stream.peek(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock),
            #[cfg(test)]
            Stream::Simulated(socket) => socket.is_silent(),
        }
    }

    /// Acknowledges at once what has been read (TCP_QUICKACK).
    pub fn acknowledge(&self) {
        match self {
            // Without it the acknowledgement goes all the same, only later.
            Stream::Tcp(stream) => drop(sockopt::set_tcp_quickack(stream, true)),
            #[cfg(test)]
            Stream::Simulated(_) => {}
        }
    }

    /// Ends a direction, or both.
    ///
    /// # Errors
    /// What the socket says; `NotConnected` when the connection is gone already.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.shutdown(how),
            #[cfg(test)]
            Stream::Simulated(socket) => socket.shutdown(how),
        }
    }

    /// The close will be a reset (SO_LINGER of no time), so that the peer does not take what it got for the whole.
    pub fn reset_on_close(&self) {
        match self {
            // It fails only for what is no open socket.
            Stream::Tcp(stream) => drop(sockopt::set_socket_linger(stream, Some(Duration::ZERO))),
            #[cfg(test)]
            Stream::Simulated(socket) => socket.reset_on_close(),
        }
    }

    /// Tells a simulation how the tunnel of this client has ended: its label, whether that was a fault of a standing tunnel, and the
    /// bytes that went up and down.
    #[cfg(test)]
    pub fn conclude(&self, label: &'static str, stood: bool, bytes: [u64; 2]) {
        if let Stream::Simulated(socket) = self {
            socket.conclude(simulated::Conclusion { label, was_established: stood, bytes });
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buffer),
            #[cfg(test)]
            Stream::Simulated(socket) => socket.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
            #[cfg(test)]
            Stream::Simulated(socket) => socket.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(stream) => stream.as_fd(),
            #[cfg(test)]
            Stream::Simulated(_) => unreachable!("a simulated connection has no descriptor"),
        }
    }
}

impl Source for Stream {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.register(registry, token, interests),
            #[cfg(test)]
            Stream::Simulated(socket) => socket.register(token),
        }
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.reregister(registry, token, interests),
            #[cfg(test)]
            Stream::Simulated(socket) => socket.register(token),
        }
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.deregister(registry),
            #[cfg(test)]
            Stream::Simulated(_) => unreachable!("connections leave the poll by being closed"),
        }
    }
}

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    /// One of the kernel's.
    Tcp(TcpListener),
    /// That of a simulated network.
    #[cfg(test)]
    Simulated(simulated::Listener),
}

impl Listener {
    /// Takes in the next connection, and tells where it comes from.
    ///
    /// # Errors
    /// What the system says; `WouldBlock` when nobody waits.
    pub fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        match self {
            Listener::Tcp(listener) => listener.accept().map(|(stream, from)| (Stream::Tcp(stream), from)),
            #[cfg(test)]
            Listener::Simulated(door) => door.accept().map(|(socket, from)| (Stream::Simulated(socket), from)),
        }
    }
}

impl Source for Listener {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        match self {
            Listener::Tcp(listener) => listener.register(registry, token, interests),
            #[cfg(test)]
            Listener::Simulated(door) => door.register(token),
        }
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        match self {
            Listener::Tcp(listener) => listener.reregister(registry, token, interests),
            #[cfg(test)]
            Listener::Simulated(door) => door.register(token),
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
