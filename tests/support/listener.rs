//! A TCP server whose behaviour the test provides, and addresses that do not accept connections.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::client::PATIENCE;

/// A listening socket that passes each connection to the test's code; closed when dropped.
pub struct Listener {
    address: SocketAddr,
    closing: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Listener {
    /// Listens on a loopback port. `part` serves each connection on a separate thread; its reads and writes are bounded
    /// by [`PATIENCE`].
    pub fn start(part: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind a loopback port");
        let address = listener.local_addr().expect("address of a bound socket");
        let closing = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&closing);
        let part = Arc::new(part);
        let acceptor = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if seen.load(Ordering::Acquire) {
                    return;
                }
                let (Ok(stream), part) = (stream, Arc::clone(&part)) else { continue };
                std::thread::spawn(move || {
                    if bound(&stream).is_ok() {
                        part(stream);
                    }
                });
            }
        });
        Self { address, closing, acceptor: Some(acceptor) }
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// An address that refuses every connection while this value exists: the port is bound, but nothing listens on it. No
/// other socket gets it by chance; a server of the test that is told to listen on it can, and it refuses again when
/// that server has ended.
pub struct Refusing {
    _socket: OwnedFd,
    /// The address.
    pub address: SocketAddr,
}

impl Refusing {
    /// Binds a loopback port.
    pub fn new() -> Self {
        let socket = bound_socket();
        let address = rustix::net::getsockname(&socket).expect("the address of a bound socket");
        Self { _socket: socket, address: SocketAddr::try_from(address).expect("an address of IPv4") }
    }
}

/// An address that ignores connection attempts: its accept queue is full, and the kernel drops further ones.
pub struct BlackHole {
    _queued: Vec<TcpStream>,
    _listener: TcpListener,
    /// The address.
    pub address: SocketAddr,
}

impl BlackHole {
    /// Listens on a loopback port and fills its accept queue.
    pub fn new() -> Self {
        let socket = bound_socket();
        rustix::net::listen(&socket, 0).expect("a listening socket");
        let listener = TcpListener::from(socket);
        let address = listener.local_addr().expect("the address of a bound socket");
        let fill = || TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok();
        let queued: Vec<TcpStream> = std::iter::from_fn(fill).take(16).collect();
        assert!(queued.len() < 16, "the accept queue never fills up");
        Self { _queued: queued, _listener: listener, address }
    }
}

fn bound_socket() -> OwnedFd {
    use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    // As the standard library's listeners do, so that one of them can share the port.
    sockopt::set_socket_reuseaddr(&socket, true).expect("the option");
    bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a port of loopback");
    socket
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Release);
        // Wakes the acceptor, which then sees that it must end.
        if TcpStream::connect_timeout(&self.address, Duration::from_secs(1)).is_ok()
            && let Some(acceptor) = self.acceptor.take()
        {
            let _ = acceptor.join();
        }
    }
}

fn bound(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)
}
