//! TCP: socket options, and what is asked of a socket.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags, recv, send, sockopt};
use socket2::SockRef;

/// TCP keep-alive: how a peer that has vanished without closing is detected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Silence before the first probe, in whole seconds.
    pub idle: Duration,
    /// Between two probes, in whole seconds.
    pub probe: Duration,
    /// Unanswered probes after which the connection is given up.
    pub probes: u32,
}

/// Limits the kernel's buffers to about `bytes` in each direction (SO_SNDBUF, SO_RCVBUF; the kernel adds as much again
/// for its own overhead); 0 leaves them to the system. Connections inherit this from the socket that accepts them.
pub fn bound_buffers(socket: impl AsFd, bytes: usize) {
    if bytes > 0 {
        // This fails only for a closed socket: the kernel clamps any size to its own bounds.
        let _ = sockopt::set_socket_send_buffer_size(&socket, bytes);
        let _ = sockopt::set_socket_recv_buffer_size(&socket, bytes);
    }
}

/// Probes the peer of an idle connection, so that a vanished peer is detected and firewalls on the path do not forget
/// the connection. Connections inherit this from the socket that accepts them.
pub fn keep_alive(socket: impl AsFd, keep_alive: Option<KeepAlive>) {
    let Some(KeepAlive { idle, probe, probes }) = keep_alive else { return };
    // This fails only for a closed socket: the configuration allows no value that the kernel rejects.
    let _ = sockopt::set_socket_keepalive(&socket, true);
    let _ = sockopt::set_tcp_keepidle(&socket, idle);
    let _ = sockopt::set_tcp_keepintvl(&socket, probe);
    let _ = sockopt::set_tcp_keepcnt(&socket, probes);
}

/// Begins to connect. Small writes are not delayed (TCP_NODELAY).
pub(super) fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::from(mio::net::TcpStream::connect(address)?);
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Reads once. The standard library's read goes through the C library's `recv`, which is a cancellation point: to enter
/// and to leave one takes longer than everything else that a small read does in user space.
#[inline]
pub(super) fn read(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let (count, _) = recv(stream, buffer, RecvFlags::empty())?;
    Ok(count)
}

/// Writes once; a connection that has ended is an error and no signal. See [`read`].
#[inline]
pub(super) fn write(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    Ok(send(stream, bytes, SendFlags::NOSIGNAL)?)
}

/// Whether the connection is open and has nothing to read, not even its end. Asks the socket.
pub(super) fn is_silent(stream: &TcpStream) -> bool {
    stream.peek(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// The addresses of the peer and of this end.
pub(super) fn ends(stream: &TcpStream) -> Option<(SocketAddr, SocketAddr)> {
    Some((stream.peer_addr().ok()?, stream.local_addr().ok()?))
}

/// Makes the close a reset (SO_LINGER with a time-out of zero).
pub(super) fn reset_on_close(stream: &TcpStream) {
    // This fails only for a closed socket.
    let _ = sockopt::set_socket_linger(stream, Some(Duration::ZERO));
}

/// Acknowledges at once what has been read (TCP_QUICKACK).
pub(super) fn acknowledge(stream: &TcpStream) {
    // If this fails, the acknowledgement is merely sent later.
    let _ = sockopt::set_tcp_quickack(stream, true);
}

/// Lets a listening socket take connections to other machines' addresses, which TPROXY hands to it (IP_TRANSPARENT). To
/// be called before it is bound. The option is one of IP and holds for IPv6 sockets as well.
///
/// # Errors
/// Without CAP_NET_ADMIN and CAP_NET_RAW.
pub fn accept_foreign_addresses(socket: impl AsFd) -> io::Result<()> {
    SockRef::from(&socket).set_ip_transparent_v4(true).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => io::Error::new(
            error.kind(),
            "a listener for TPROXY needs the capability CAP_NET_RAW or CAP_NET_ADMIN (IP_TRANSPARENT)",
        ),
        _ => error,
    })
}

/// Where the client of an accepted connection was going. After REDIRECT the kernel knows (SO_ORIGINAL_DST); TPROXY and
/// connections that were not redirected leave it as the local address.
pub(super) fn original_destination(stream: &TcpStream) -> io::Result<SocketAddr> {
    let local = stream.local_addr()?;
    let original = match local {
        SocketAddr::V4(_) => sockopt::ip_original_dst(stream).map(SocketAddr::V4),
        SocketAddr::V6(_) => sockopt::ipv6_original_dst(stream).map(SocketAddr::V6),
    };
    // Fails where the kernel does not track the connection: then nothing can have changed its destination.
    Ok(original.unwrap_or(local))
}
