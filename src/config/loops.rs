//! Upstreams that are the gateway itself: every request would come back, until all tunnels are taken.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc;
use std::thread;

use super::UpstreamConfig;
use super::error::{ConfigError, Problem};
use super::parse::Reader;
use super::settings::Origin;
use crate::limits;
use crate::upstream::{HostPort, OwnAddresses};

impl Reader<'_> {
    /// Notes each upstream that leads to one of `own`, the addresses that the gateway listens on. Names are looked up only where the port
    /// is one of them; what does not resolve in time is left to the running gateway, which looks again.
    pub(super) fn refuse_loops(&mut self, own: Vec<SocketAddr>, upstreams: &[UpstreamConfig]) {
        let own = OwnAddresses::new(own);
        for (place, upstream) in upstreams.iter().enumerate() {
            for host in &upstream.addresses {
                if let Some(address) = own_address(host, &own) {
                    let (key, origin) = self.place_of_upstream(place);
                    let problem = Problem::OwnAddress { upstream: host.clone(), address };
                    self.note(ConfigError { origin, key: key.into(), problem });
                }
            }
        }
    }

    fn place_of_upstream(&self, place: usize) -> (&'static str, Origin) {
        match self.settings.entries("upstreams").get(place) {
            Some(entry) => {
                let given = entry.settings.given("upstreams.address");
                ("upstreams.address", given.map_or_else(|| entry.origin.clone(), |setting| setting.origin.clone()))
            }
            None => {
                ("upstream", self.settings.given("upstream").map_or(Origin::Default, |setting| setting.origin.clone()))
            }
        }
    }
}

/// Which of its addresses is one of the gateway's own, if one is.
fn own_address(host: &HostPort, own: &OwnAddresses) -> Option<SocketAddr> {
    if !own.has_port(host.port()) {
        return None;
    }
    if let Ok(address) = host.host().parse() {
        return Some(SocketAddr::new(address, host.port())).filter(|address| own.include(*address));
    }
    look_up(host).into_iter().find(|address| own.include(*address))
}

/// Nothing when it takes too long: a name server that is down must not keep the gateway from starting.
fn look_up(host: &HostPort) -> Vec<SocketAddr> {
    let (found, result) = mpsc::channel();
    let host = host.clone();
    let look_up = move || {
        let addresses = (host.host(), host.port()).to_socket_addrs();
        // Nobody waits any more when it took too long.
        let _ = found.send(addresses.map(Iterator::collect).unwrap_or_default());
    };
    match thread::Builder::new().name("own-names".into()).spawn(look_up) {
        Ok(_) => result.recv_timeout(limits::OWN_NAME_TIMEOUT).unwrap_or_default(),
        Err(_) => Vec::new(),
    }
}
