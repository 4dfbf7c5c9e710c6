//! The addresses on which the gateway itself listens, in all spellings.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use super::Resolution;

/// The gateway's listening addresses. An upstream with one of them would be the gateway itself.
#[derive(Clone, Debug, Default)]
pub struct OwnAddresses(Arc<[SocketAddr]>);

impl OwnAddresses {
    /// Takes the addresses as they are bound; `0.0.0.0` and `::` are allowed.
    pub fn new(listening: Vec<SocketAddr>) -> OwnAddresses {
        OwnAddresses(listening.into())
    }

    /// Whether one of the addresses has this port; `false` for port 0.
    pub fn has_port(&self, port: u16) -> bool {
        port != 0 && self.0.iter().any(|own| own.port() == port)
    }

    /// Whether a connection to `address` would reach the gateway itself.
    pub fn contains(&self, address: SocketAddr) -> bool {
        if !self.has_port(address.port()) {
            return false;
        }
        let address = SocketAddr::new(destination(address.ip()), address.port());
        self.0.iter().filter(|own| own.port() == address.port()).any(|own| {
            let ip = own.ip().to_canonical();
            ip == address.ip()
                || (ip.is_unspecified() && ip.is_ipv4() == address.is_ipv4() && is_of_this_machine(address))
        })
    }

    /// Removes the gateway's own addresses from a resolution and returns them as the second value. If no other address
    /// is left, the resolution becomes a failure.
    pub fn strip(&self, resolution: Resolution) -> (Resolution, Vec<SocketAddr>) {
        let Resolution::Addresses(addresses) = &resolution else { return (resolution, Vec::new()) };
        let (own, others): (Vec<_>, Vec<_>) = addresses.iter().copied().partition(|address| self.contains(*address));
        match (own.is_empty(), others.is_empty()) {
            (true, _) => (resolution, own),
            (false, true) => (Resolution::Failed("it leads to the gateway itself".into()), own),
            (false, false) => (Resolution::Addresses(others.into()), own),
        }
    }
}

/// The address that a connection reaches: the unspecified address leads to loopback.
fn destination(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    }
}

/// Whether an interface of this machine has the address: the kernel then chooses it as the source address as well. No
/// packet is sent.
fn is_of_this_machine(address: SocketAddr) -> bool {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let source = || -> std::io::Result<IpAddr> {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(address)?;
        Ok(socket.local_addr()?.ip())
    };
    address.ip().is_loopback() || source().is_ok_and(|source| source == address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(listening: &[&str]) -> OwnAddresses {
        OwnAddresses::new(listening.iter().map(|text| text.parse().unwrap()).collect())
    }

    fn include(listening: &[&str], address: &str) -> bool {
        own(listening).contains(address.parse().unwrap())
    }

    #[test]
    fn the_gateway_is_recognised_by_every_address_that_leads_to_it() {
        for address in ["127.0.0.1:3128", "0.0.0.0:3128", "[::ffff:127.0.0.1]:3128"] {
            assert!(include(&["127.0.0.1:3128"], address), "{address}");
            assert!(include(&["0.0.0.0:3128"], address), "{address}");
        }
        assert!(include(&["0.0.0.0:3128"], "127.0.0.9:3128"), "all of 127.0.0.0/8 is this machine");
        assert!(include(&["[::]:3128"], "[::1]:3128") && include(&["[::1]:3128"], "[::]:3128"));
    }

    #[test]
    fn an_interfaces_address_is_the_gateway_if_it_listens_on_all() {
        // This machine's address towards the internet, if it has one.
        let source = || {
            let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
            socket.connect("192.0.2.1:9").ok()?;
            Some(socket.local_addr().ok()?.ip())
        };
        if let Some(ip) = source().filter(|ip| !ip.is_unspecified()) {
            assert!(include(&["0.0.0.0:3128"], &format!("{ip}:3128")));
            assert!(!include(&["127.0.0.1:3128"], &format!("{ip}:3128")) || ip.is_loopback());
        }
    }

    #[test]
    fn other_ports_other_addresses_and_other_machines_are_not_the_gateway() {
        for (listening, address) in [
            ("127.0.0.1:3128", "127.0.0.1:3129"),
            ("127.0.0.1:3128", "127.0.0.2:3128"),
            ("10.255.255.1:3128", "127.0.0.1:3128"),
            ("0.0.0.0:3128", "192.0.2.1:3128"),
            ("0.0.0.0:3128", "[::1]:3128"),
            ("[::]:3128", "127.0.0.1:3128"),
            ("127.0.0.1:0", "127.0.0.1:0"),
        ] {
            assert!(!include(&[listening], address), "{address} behind {listening}");
        }
    }

    #[test]
    fn own_addresses_are_removed_from_a_resolution() {
        let addresses =
            |texts: &[&str]| Resolution::Addresses(texts.iter().map(|text| text.parse().unwrap()).collect());
        let own = own(&["127.0.0.1:3128"]);
        let (rest, left_out) = own.strip(addresses(&["127.0.0.1:3128", "127.0.0.2:3128"]));
        assert_eq!((rest, left_out), (addresses(&["127.0.0.2:3128"]), vec!["127.0.0.1:3128".parse().unwrap()]));
        assert!(matches!(own.strip(addresses(&["127.0.0.1:3128"])).0, Resolution::Failed(_)));
        assert_eq!(own.strip(addresses(&["127.0.0.2:1"])).1, []);
    }
}
