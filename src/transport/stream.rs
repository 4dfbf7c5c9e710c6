//! A connection: one arm for each transport, and in tests that of a simulated network.
//!
//! Most connections are TCP; that of an upstream may be TLS.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

#[cfg(test)]
use super::framed::Framed;
use super::tls::Tls;
use super::{SocketOptions, tcp};
#[cfg(test)]
use crate::sim::network as simulated;

/// A non-blocking connection; closed when this is dropped.
///
/// What an arm must keep to, beyond what its methods say, for readiness to stay true:
///
/// - A read that returns fewer bytes than it was asked for has emptied the socket. If something was read from the
///   socket and not handed out, be it the peer's end or an error, [`Stream::has_buffered`] says so.
/// - A write that takes fewer bytes than it was given has filled the socket. So has one that takes bytes for which the
///   socket has no room yet; [`Stream::has_unsent`] tells.
/// - What the transport itself still has to send (the rest of a record, the notice that a direction has ended) is sent
///   by [`Stream::go_on`].
/// - Buffers exist only while bytes are in them: an idle connection has none.
/// - An arm is small: a session holds two connections, and ten thousand sessions are idle.
#[derive(Debug)]
pub enum Stream {
    /// A TCP socket of the kernel. It is the standard library's because mio's is larger in debug builds, and tests
    /// check the size of a session.
    Tcp(TcpStream),
    /// TLS over TCP. Boxed, because it is large and most sessions have none.
    Tls(Box<Tls>),
    /// A transport for tests.
    #[cfg(test)]
    Framed(Framed),
    /// A connection of a simulated network.
    #[cfg(test)]
    Simulated(simulated::Socket),
}

impl From<mio::net::TcpStream> for Stream {
    fn from(stream: mio::net::TcpStream) -> Stream {
        Stream::Tcp(stream.into())
    }
}

impl Stream {
    /// Whether a pipe may carry its bytes: they pass through the socket as they are, and reading and writing its
    /// descriptor is reading and writing the connection.
    pub fn can_splice(&self) -> bool {
        match self {
            Stream::Tcp(_) => true,
            Stream::Tls(tls) => tls.can_splice(),
            #[cfg(test)]
            Stream::Framed(_) => false,
            #[cfg(test)]
            Stream::Simulated(_) => true,
        }
    }

    /// Whether a pipe may carry its bytes from now on; to be asked when there are many. A transport that encrypts may
    /// hand its keys over to the kernel then.
    #[inline]
    pub fn prepare_splice(&mut self) -> bool {
        match self {
            Stream::Tcp(_) => true,
            Stream::Tls(tls) => tls.prepare_splice(),
            #[cfg(test)]
            _ => self.can_splice(),
        }
    }

    /// Whether a splice may find what only a read can handle: a message of the transport itself, which is EINVAL to a
    /// splice, or the end of the connection, which may be an error.
    pub fn needs_reads(&self) -> bool {
        matches!(self, Stream::Tls(_))
    }

    /// Takes note of bytes that were spliced to it.
    #[inline]
    pub(super) fn spliced(&self, bytes: usize) {
        if let Stream::Tls(tls) = self {
            tls.count_spliced(bytes);
        }
    }

    /// Whether a read will bring something although the socket is empty: it was read from the socket and not handed out
    /// yet, so no edge will come for it.
    pub fn has_buffered(&self) -> bool {
        match self {
            Stream::Tcp(_) => false,
            Stream::Tls(tls) => tls.has_buffered(),
            #[cfg(test)]
            Stream::Framed(framed) => framed.has_buffered(),
            #[cfg(test)]
            Stream::Simulated(_) => false,
        }
    }

    /// What the last read, which has brought `count` bytes, counts in the budget of a turn.
    #[inline]
    pub(super) fn read_cost(&self, count: usize) -> usize {
        match self {
            Stream::Tls(tls) => tls.read_cost(count),
            _ => count,
        }
    }

    /// The value that ties a logon to this connection: the MD5 hash of its channel bindings, which NTLM carries in
    /// MsvAvChannelBindings (MS-NLMP §2.2.2.1) and Kerberos in the authenticator's checksum (RFC 4121 §4.1.1). `None`
    /// for a transport that has none.
    pub fn channel_bindings(&self) -> Option<[u8; 16]> {
        match self {
            Stream::Tcp(_) => None,
            Stream::Tls(tls) => tls.channel_bindings(),
            #[cfg(test)]
            Stream::Framed(_) => Some(Framed::CHANNEL_BINDINGS),
            #[cfg(test)]
            Stream::Simulated(_) => None,
        }
    }

    /// Whether the transport's own handshake was shortened by what an earlier connection has left; `None` for a
    /// transport that has no handshake.
    pub fn is_resumed(&self) -> Option<bool> {
        match self {
            Stream::Tls(tls) => Some(tls.is_resumed()),
            _ => None,
        }
    }

    /// The memory of its buffers in user space, in bytes.
    pub fn held_bytes(&self) -> usize {
        match self {
            Stream::Tcp(_) => 0,
            Stream::Tls(tls) => tls.held_bytes(),
            #[cfg(test)]
            Stream::Framed(framed) => framed.held_bytes(),
            #[cfg(test)]
            Stream::Simulated(_) => 0,
        }
    }

    /// Whether bytes that a write has taken wait in user space for room in the socket.
    #[inline]
    pub fn has_unsent(&self) -> bool {
        match self {
            Stream::Tls(tls) => tls.has_unsent(),
            #[cfg(test)]
            Stream::Framed(framed) => framed.has_unsent(),
            _ => false,
        }
    }

    /// Sends what the transport itself still owes the socket; `false` while the socket does not take all of it. To be
    /// called after each event; an error shows in the next read or write.
    #[inline]
    pub(super) fn go_on(&mut self) -> bool {
        match self {
            Stream::Tls(tls) => tls.go_on(),
            #[cfg(test)]
            Stream::Framed(framed) => framed.go_on(),
            _ => true,
        }
    }

    /// Advances the transport's own handshake on a socket that has just become connected, readable or writable; `false`
    /// while the peer's part of it is missing.
    pub(super) fn shake_hands(&mut self) -> io::Result<bool> {
        match self {
            Stream::Tcp(_) => Ok(true),
            Stream::Tls(tls) => tls.shake_hands(),
            #[cfg(test)]
            Stream::Framed(framed) => framed.shake_hands(),
            #[cfg(test)]
            Stream::Simulated(_) => Ok(true),
        }
    }

    /// Whether the peer has sent something that a read would bring, or has ended. The transport's own messages are
    /// taken out of the socket and do not count. `readable` is what events have reported of the socket.
    pub(super) fn has_input(&mut self, readable: bool) -> bool {
        match self {
            Stream::Tcp(_) => readable,
            Stream::Tls(tls) => tls.has_input(),
            #[cfg(test)]
            Stream::Framed(framed) => framed.has_input(),
            #[cfg(test)]
            Stream::Simulated(_) => readable,
        }
    }

    /// Whether the connection is open and has nothing to read now, not even its end. Asks the socket, because an event
    /// may be pending.
    pub(super) fn is_silent(&mut self) -> bool {
        match self {
            Stream::Tcp(stream) => tcp::is_silent(stream),
            Stream::Tls(tls) => !tls.has_input(),
            #[cfg(test)]
            Stream::Framed(framed) => !framed.has_input(),
            #[cfg(test)]
            Stream::Simulated(socket) => socket.is_silent(),
        }
    }

    /// Sets the options of its socket.
    pub(super) fn set_options(&self, options: &SocketOptions) {
        match self {
            Stream::Tcp(stream) => options.apply(stream),
            Stream::Tls(tls) => tls.carrier().set_options(options),
            #[cfg(test)]
            Stream::Framed(framed) => options.apply(framed.socket()),
            #[cfg(test)]
            Stream::Simulated(_) => {}
        }
    }

    /// Sets the options that only a lasting connection needs.
    pub(super) fn set_lasting_options(&self, options: &SocketOptions) {
        match self {
            Stream::Tcp(stream) => options.apply_to_lasting(stream),
            Stream::Tls(tls) => tls.carrier().set_lasting_options(options),
            #[cfg(test)]
            Stream::Framed(framed) => options.apply_to_lasting(framed.socket()),
            #[cfg(test)]
            Stream::Simulated(_) => {}
        }
    }

    /// The error that the socket has met since this was last asked (SO_ERROR).
    ///
    /// # Errors
    /// When the system cannot say.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        match self {
            Stream::Tcp(stream) => stream.take_error(),
            Stream::Tls(tls) => tls.carrier().take_error(),
            #[cfg(test)]
            Stream::Framed(framed) => framed.socket().take_error(),
            #[cfg(test)]
            Stream::Simulated(socket) => Ok(socket.take_error()),
        }
    }

    /// Whether the peer has accepted the connection, even if the event for it is still pending.
    pub fn is_connected(&self) -> bool {
        match self {
            Stream::Tcp(stream) => stream.peer_addr().is_ok(),
            Stream::Tls(tls) => tls.carrier().is_connected(),
            #[cfg(test)]
            Stream::Framed(framed) => framed.socket().peer_addr().is_ok(),
            #[cfg(test)]
            Stream::Simulated(socket) => socket.is_connected(),
        }
    }

    /// The addresses of the peer and of this end, in this order; `None` for a connection that has ended.
    pub fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        match self {
            Stream::Tcp(stream) => tcp::ends(stream),
            Stream::Tls(tls) => tls.carrier().ends(),
            #[cfg(test)]
            Stream::Framed(framed) => tcp::ends(framed.socket()),
            #[cfg(test)]
            Stream::Simulated(_) => None,
        }
    }

    /// Where the client of an accepted connection was going before it was redirected here.
    ///
    /// # Errors
    /// For a connection that has ended.
    pub fn original_destination(&self) -> io::Result<SocketAddr> {
        match self {
            Stream::Tcp(stream) => tcp::original_destination(stream),
            Stream::Tls(tls) => tls.carrier().original_destination(),
            #[cfg(test)]
            Stream::Framed(framed) => tcp::original_destination(framed.socket()),
            #[cfg(test)]
            Stream::Simulated(socket) => socket.original_destination(),
        }
    }

    /// Acknowledges at once what has been read.
    pub fn acknowledge(&self) {
        match self {
            Stream::Tcp(stream) => tcp::acknowledge(stream),
            Stream::Tls(tls) => tls.carrier().acknowledge(),
            #[cfg(test)]
            Stream::Framed(framed) => tcp::acknowledge(framed.socket()),
            #[cfg(test)]
            Stream::Simulated(_) => {}
        }
    }

    /// Ends a direction, or both.
    ///
    /// # Errors
    /// The socket's error; `NotConnected` when the connection has ended already.
    pub fn shutdown(&mut self, how: Shutdown) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.shutdown(how),
            Stream::Tls(tls) => tls.shutdown(how),
            #[cfg(test)]
            Stream::Framed(framed) => framed.shutdown(how),
            #[cfg(test)]
            Stream::Simulated(socket) => socket.shutdown(how),
        }
    }

    /// Whether closing ends this end's direction in any case. Otherwise it has to be shut down before, and closed only
    /// when [`Stream::is_ending`] says that the notice of it is sent.
    pub fn ends_by_closing(&self) -> bool {
        !matches!(self, Stream::Tls(_))
    }

    /// Whether this end's direction was shut down, and the socket has not taken all of what says so.
    pub fn is_ending(&self) -> bool {
        match self {
            Stream::Tls(tls) => tls.is_ending(),
            _ => false,
        }
    }

    /// Makes the close a reset, so that the peer does not take what it received for the whole.
    pub fn reset_on_close(&self) {
        match self {
            Stream::Tcp(stream) => tcp::reset_on_close(stream),
            Stream::Tls(tls) => tls.reset_on_close(),
            #[cfg(test)]
            Stream::Framed(framed) => tcp::reset_on_close(framed.socket()),
            #[cfg(test)]
            Stream::Simulated(socket) => socket.reset_on_close(),
        }
    }

    /// Tells a simulation how the session of this client has ended: its label, whether an established tunnel failed,
    /// the bytes that went up and down, and the hop in its record.
    #[cfg(test)]
    pub fn conclude(&self, label: &'static str, was_established: bool, bytes: [u64; 2], hop: Option<usize>) {
        if let Stream::Simulated(socket) = self {
            socket.conclude(simulated::Conclusion { label, was_established, bytes, hop });
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => tcp::read(stream, buffer),
            Stream::Tls(tls) => tls.read(buffer),
            #[cfg(test)]
            Stream::Framed(framed) => framed.read(buffer),
            #[cfg(test)]
            Stream::Simulated(socket) => socket.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => tcp::write(stream, bytes),
            Stream::Tls(tls) => tls.write(bytes),
            #[cfg(test)]
            Stream::Framed(framed) => framed.write(bytes),
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
            Stream::Tls(tls) => tls.carrier().as_fd(),
            #[cfg(test)]
            Stream::Framed(framed) => framed.socket().as_fd(),
            #[cfg(test)]
            Stream::Simulated(_) => unreachable!("a simulated connection has no descriptor"),
        }
    }
}

impl Source for Stream {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => SourceFd(&stream.as_raw_fd()).register(registry, token, interests),
            Stream::Tls(tls) => tls.carrier_mut().register(registry, token, interests),
            #[cfg(test)]
            Stream::Framed(framed) => SourceFd(&framed.socket().as_raw_fd()).register(registry, token, interests),
            #[cfg(test)]
            Stream::Simulated(socket) => socket.register(token, interests),
        }
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => SourceFd(&stream.as_raw_fd()).reregister(registry, token, interests),
            Stream::Tls(tls) => tls.carrier_mut().reregister(registry, token, interests),
            #[cfg(test)]
            Stream::Framed(framed) => SourceFd(&framed.socket().as_raw_fd()).reregister(registry, token, interests),
            #[cfg(test)]
            Stream::Simulated(socket) => socket.register(token, interests),
        }
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => SourceFd(&stream.as_raw_fd()).deregister(registry),
            Stream::Tls(tls) => tls.carrier_mut().deregister(registry),
            #[cfg(test)]
            Stream::Framed(framed) => SourceFd(&framed.socket().as_raw_fd()).deregister(registry),
            #[cfg(test)]
            Stream::Simulated(_) => unreachable!("connections leave the poll by being closed"),
        }
    }
}
