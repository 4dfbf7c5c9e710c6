//! Listening sockets: one for each shard and address, all bound before any thread starts.

use std::io;
use std::net::SocketAddr;

use mio::net::TcpListener;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind as bind_socket, listen, socket_with, sockopt};

use crate::limits;
use crate::transport::{self, KeepAlive, Listener, bound_buffers};

/// The listeners of one shard.
pub type Listeners = Vec<Listener>;

/// An address to listen on.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The address.
    pub address: SocketAddr,
    /// TPROXY hands it connections to other addresses.
    pub takes_foreign: bool,
}

/// Binds `places` for `shards` shards and returns the addresses that were bound: port 0 becomes one free port, the
/// same for all shards. Accepted connections inherit `socket_buffer_bytes` ([`bound_buffers`]) and `keep_alive`.
///
/// With SO_REUSEPORT a second gateway of the same user would silently share the port. So each address is first bound
/// without it, which fails while another process listens there.
///
/// # Errors
/// The address that could not be bound, with the system's error.
pub fn bind(
    places: &[Place],
    shards: usize,
    socket_buffer_bytes: usize,
    keep_alive: Option<KeepAlive>,
) -> Result<(Vec<Listeners>, Vec<SocketAddr>), (SocketAddr, io::Error)> {
    let mut all: Vec<Listeners> = (0..shards).map(|_| Vec::new()).collect();
    let mut bound = Vec::new();
    for place in places {
        let with_address = |error: io::Error| (place.address, error);
        let address = exclusive_probe(place.address).map_err(with_address)?;
        for listeners in &mut all {
            let place = Place { address, ..*place };
            listeners.push(open(place, socket_buffer_bytes, keep_alive).map_err(with_address)?);
        }
        bound.push(address);
    }
    Ok((all, bound))
}

/// Binds an address and closes it again; returns the address that was bound.
fn exclusive_probe(address: SocketAddr) -> io::Result<SocketAddr> {
    let socket = socket(address)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind_socket(&socket, &address)?;
    listen(&socket, 1)?;
    let bound = rustix::net::getsockname(&socket)?;
    SocketAddr::try_from(bound).map_err(|_| io::Error::other("the system bound an address of another family"))
}

fn open(place: Place, socket_buffer_bytes: usize, keep_alive: Option<KeepAlive>) -> io::Result<Listener> {
    let socket = socket(place.address)?;
    if place.takes_foreign {
        transport::accept_foreign_addresses(&socket)?;
    }
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    // Accepted connections inherit these from the listener, which saves two system calls for each.
    sockopt::set_tcp_nodelay(&socket, true)?;
    transport::keep_alive(&socket, keep_alive);
    bound_buffers(&socket, socket_buffer_bytes);
    bind_socket(&socket, &place.address)?;
    listen(&socket, limits::LISTEN_BACKLOG)?;
    Ok(Listener::Tcp(TcpListener::from_std(std::net::TcpListener::from(socket))))
}

fn socket(address: SocketAddr) -> io::Result<std::os::fd::OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    if address.is_ipv6() {
        // `[::]` and `0.0.0.0` must not collide, and `allow_clients` must see an IPv4 client as one.
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_port_is_an_error_even_though_shards_share_ports() {
        let place = |address| Place { address, takes_foreign: false };
        let (held, bound) = bind(&[place("127.0.0.1:0".parse().unwrap())], 2, 0, None).unwrap();
        assert_eq!(held.len(), 2);
        let (address, error) = bind(&[place(bound[0])], 2, 0, None).unwrap_err();
        assert_eq!(address, bound[0]);
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
