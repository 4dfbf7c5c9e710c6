//! Upstreams and targets that are the gateway itself: every request would come back, until the limit of tunnels is
//! reached.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc;
use std::thread;

use super::UpstreamConfig;
use super::error::{ConfigError, Problem};
use super::listeners::TableListener;
use super::parse::Reader;
use super::settings::Source;
use crate::limits;
use crate::upstream::{HostPort, OwnAddresses};

impl Reader<'_> {
    /// Adds an error for each upstream, and for each target of a listener, that leads to one of `own`, the addresses
    /// that the gateway listens on. Only names with one of its ports are resolved. If that takes too long, the running
    /// gateway will notice an upstream.
    pub(super) fn reject_loops(
        &mut self,
        own: Vec<SocketAddr>,
        upstreams: &[UpstreamConfig],
        listeners: &[TableListener],
    ) {
        let own = OwnAddresses::new(own);
        for target in listeners.iter().filter_map(|listener| listener.target.as_ref()) {
            if let Some(address) = own_address(&target.value, &own) {
                let problem = Problem::OwnTarget { target: target.value.clone(), address };
                self.note(ConfigError { source: target.source.clone(), key: "listeners.target".into(), problem });
            }
        }
        for (place, upstream) in upstreams.iter().enumerate() {
            for host in &upstream.addresses {
                if let Some(address) = own_address(host, &own) {
                    let (key, source) = self.place_of_upstream(place);
                    let problem = Problem::OwnAddress { upstream: host.clone(), address };
                    self.note(ConfigError { source, key: key.into(), problem });
                }
            }
        }
    }

    fn place_of_upstream(&self, place: usize) -> (&'static str, Source) {
        match self.settings.entries("upstreams").get(place) {
            Some(entry) => {
                let given = entry.settings.given("upstreams.address");
                ("upstreams.address", given.map_or_else(|| entry.source.clone(), |setting| setting.source.clone()))
            }
            None => {
                ("upstream", self.settings.given("upstream").map_or(Source::Default, |setting| setting.source.clone()))
            }
        }
    }
}

/// The address of a host that is one of the gateway's own, if any.
fn own_address(host: &HostPort, own: &OwnAddresses) -> Option<SocketAddr> {
    if !own.has_port(host.port()) {
        return None;
    }
    if let Ok(address) = host.host().parse() {
        return Some(SocketAddr::new(address, host.port())).filter(|address| own.contains(*address));
    }
    look_up(host).into_iter().find(|address| own.contains(*address))
}

/// Resolves a name. The result is empty on a time-out: a failed name server must not prevent the gateway from starting.
fn look_up(host: &HostPort) -> Vec<SocketAddr> {
    let (found, result) = mpsc::channel();
    let host = host.clone();
    let look_up = move || {
        let addresses = (host.host(), host.port()).to_socket_addrs();
        // This fails if the receiver has timed out.
        let _ = found.send(addresses.map(Iterator::collect).unwrap_or_default());
    };
    match thread::Builder::new().name("own-names".into()).spawn(look_up) {
        Ok(_) => result.recv_timeout(limits::OWN_NAME_TIMEOUT).unwrap_or_default(),
        Err(_) => Vec::new(),
    }
}
