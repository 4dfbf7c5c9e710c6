//! What is known of the upstreams beyond one connection: their names, their addresses, their health, whether they take our
//! identity.
//!
//! [`Upstream`] is one of them: its addresses, its health, its load. Shared by all shards; lives as long as the configuration names it.

mod checker;
mod guard;
mod health;
mod helper_pressure;
mod host_port;
mod origin_resolver;
mod own;
mod resolver;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

pub use checker::{Checker, Question};
pub use guard::{
    Account, Accounts, Answer, Asking, Confirmation, Entry, Guard, GuardChange, GuardPolicy, GuardState, KnownGood,
    Permission, Refusal, Scout, Ticket,
};
pub use health::{CheckFailure, Health, HealthChange};
pub use helper_pressure::{HelperPressure, Waiting};
pub use host_port::{HostPort, HostPortError};
pub use origin_resolver::{Asked, Asker, OriginResolver};
pub use own::OwnAddresses;
pub use resolver::{Resolution, Resolver};

/// One upstream.
#[derive(Debug)]
pub struct Upstream {
    name: Arc<str>,
    hosts: Vec<HostPort>,
    /// What each host resolves to.
    found: RwLock<Vec<Option<Resolution>>>,
    /// The address that was reached last, by its place among all.
    preferred: AtomicUsize,
    open: AtomicUsize,
    /// Whether clients are sent to it.
    pub health: Health,
    /// What clients experience of its challenges.
    pub helper_pressure: Arc<HelperPressure>,
}

impl Upstream {
    /// An upstream of which those addresses are known that are written out. See [`Health::new`] for `on_health`.
    pub fn new(
        name: &str,
        hosts: Vec<HostPort>,
        on_health: impl Fn(&HealthChange) + Send + Sync + 'static,
    ) -> Arc<Upstream> {
        Arc::new(Upstream {
            name: name.into(),
            found: RwLock::new(hosts.iter().map(written_out).collect()),
            hosts,
            preferred: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            health: Health::new(on_health),
            helper_pressure: Arc::default(),
        })
    }

    /// What logs and metrics call it.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its hosts as configured.
    pub fn hosts(&self) -> &[HostPort] {
        &self.hosts
    }

    /// Takes note of what one of its hosts resolves to; returns how many addresses there are now.
    pub fn resolved(&self, host: usize, resolution: Resolution) -> usize {
        let mut found = self.found.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = found.get_mut(host) {
            *slot = Some(resolution);
        }
        self.preferred.store(0, Ordering::Relaxed);
        found.iter().flatten().map(|resolution| addresses_of(resolution).len()).sum()
    }

    /// What is known of one of its hosts, by its name alone: the addresses, with whatever port it has there. Empty when it is none of them
    /// or was never found.
    pub fn addresses_of_host(&self, name: &str) -> Vec<SocketAddr> {
        let found = self.found.read().unwrap_or_else(PoisonError::into_inner);
        let of_name = self.hosts.iter().zip(found.iter()).filter(|(host, _)| host.host() == name);
        let mut known = of_name.filter_map(|(_, found)| found.as_ref()).map(addresses_of);
        known.find(|addresses| !addresses.is_empty()).unwrap_or_default().to_vec()
    }

    /// What is known of its addresses: `None` until the resolver has spoken of every host or found an address of one.
    pub fn resolution(&self) -> Option<Resolution> {
        let found = self.found.read().unwrap_or_else(PoisonError::into_inner);
        if let [only] = found.as_slice() {
            return only.clone();
        }
        let all: Vec<SocketAddr> = found.iter().flatten().flat_map(addresses_of).copied().collect();
        if !all.is_empty() {
            return Some(Resolution::Addresses(all.into()));
        }
        let mut failures = found.iter().map(|resolution| match resolution {
            Some(Resolution::Failed(why)) => Some(why.clone()),
            _ => None,
        });
        let first = failures.next().flatten()?;
        failures.all(|failure| failure.is_some()).then_some(Resolution::Failed(first))
    }

    /// Where among its addresses to begin: at the one that was reached last.
    pub fn preferred(&self) -> usize {
        self.preferred.load(Ordering::Relaxed)
    }

    /// Takes note of the address that was reached, by its place.
    pub fn reached(&self, address: usize) {
        if self.preferred() != address {
            self.preferred.store(address, Ordering::Relaxed);
        }
    }

    /// Clients that are on it or on their way to it.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// A client is on its way.
    pub fn enter(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// A client that had entered is gone.
    pub fn leave(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

fn written_out(host: &HostPort) -> Option<Resolution> {
    let address = host.host().parse().ok()?;
    Some(Resolution::Addresses([SocketAddr::new(address, host.port())].into()))
}

fn addresses_of(resolution: &Resolution) -> &[SocketAddr] {
    match resolution {
        Resolution::Addresses(addresses) => addresses,
        Resolution::Failed(_) => &[],
    }
}

/// Why something failed, without the upstream's name in front, for lines that have that already: an upstream is often named
/// by its address, and so is the reason.
pub fn without_name<'w>(name: &str, why: &'w str) -> &'w str {
    why.strip_prefix(name).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Resolution {
        Resolution::Addresses(texts.iter().map(|text| text.parse().unwrap()).collect())
    }

    #[test]
    fn the_addresses_of_all_hosts_are_tried_in_their_order() {
        let hosts = vec!["a.example:1".parse().unwrap(), "b.example:2".parse().unwrap()];
        let upstream = Upstream::new("both", hosts, |_| {});
        assert_eq!(upstream.resolution(), None);
        upstream.resolved(0, Resolution::Failed("no such name".into()));
        assert_eq!(upstream.resolution(), None, "the other may still be found");
        upstream.resolved(1, addresses(&["10.0.0.2:2"]));
        assert_eq!(upstream.resolution(), Some(addresses(&["10.0.0.2:2"])));
        assert_eq!(upstream.resolved(0, addresses(&["10.0.0.1:1"])), 2);
        assert_eq!(upstream.resolution(), Some(addresses(&["10.0.0.1:1", "10.0.0.2:2"])));
    }

    #[test]
    fn a_host_is_known_by_its_name_whatever_its_port() {
        let hosts = ["a.example:1", "b.example:2", "b.example:3"].map(|host| host.parse().unwrap());
        let upstream = Upstream::new("both", hosts.into(), |_| {});
        upstream.resolved(0, Resolution::Failed("no such name".into()));
        upstream.resolved(2, addresses(&["10.0.0.2:3"]));
        assert_eq!(upstream.addresses_of_host("b.example"), ["10.0.0.2:3".parse().unwrap()]);
        assert!(
            upstream.addresses_of_host("a.example").is_empty() && upstream.addresses_of_host("c.example").is_empty()
        );
    }

    #[test]
    fn what_is_written_out_is_known_from_the_start() {
        let upstream = Upstream::new("both", vec!["10.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap()], |_| {});
        assert_eq!(upstream.resolution(), Some(addresses(&["10.0.0.1:1", "[::1]:2"])));
    }

    #[test]
    fn when_no_host_resolves_the_first_failure_is_told() {
        let hosts = vec!["a.example:1".parse().unwrap(), "b.example:2".parse().unwrap()];
        let upstream = Upstream::new("both", hosts, |_| {});
        upstream.resolved(1, Resolution::Failed("second".into()));
        upstream.resolved(0, Resolution::Failed("first".into()));
        assert_eq!(upstream.resolution(), Some(Resolution::Failed("first".into())));
    }
}
