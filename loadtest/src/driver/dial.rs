//! Opens TCP connections.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use mio::net::TcpStream;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, ipproto, socket_with, sockopt};

/// Distributes connections among proxies and source addresses in turn.
pub struct Dialler {
    proxies: Vec<SocketAddr>,
    sources: u8,
}

impl Dialler {
    /// Uses `sources` addresses from 127.0.0.2 on; 0 leaves source addresses to the system.
    pub fn new(proxies: &[SocketAddr], sources: u8) -> Dialler {
        Dialler { proxies: proxies.to_vec(), sources: sources.min(250) }
    }

    /// Starts connection `number`.
    pub fn dial(&self, number: u64) -> io::Result<TcpStream> {
        let count = self.proxies.len().max(1) as u64;
        let place = usize::try_from(number % count).unwrap_or(0);
        let proxy = *self.proxies.get(place).ok_or_else(|| io::Error::other("no proxy"))?;
        if self.sources == 0 || !proxy.is_ipv4() {
            return TcpStream::connect(proxy);
        }
        let turn = u8::try_from(number / count % u64::from(self.sources)).unwrap_or(0);
        let source = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 2 + turn), 0);
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, Some(ipproto::TCP))?;
        // Allows reuse of the ports of connections that have just ended.
        sockopt::set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &source)?;
        match connect(&socket, &proxy) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(TcpStream::from_std(std::net::TcpStream::from(socket)))
    }
}

/// Closes a connection with RST instead of FIN.
pub fn reset(stream: TcpStream) {
    // If the option cannot be set, the connection ends with FIN, which is acceptable.
    let _ = sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
    drop(stream);
}
