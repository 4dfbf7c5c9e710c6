//! What is known of an upstream beyond a single connection: its names and addresses, its health, and whether it accepts
//! our identities (the credential guard). Also the resolver for names of origins.

mod checker;
mod guard;
mod health;
mod helper_pressure;
mod host_port;
mod origin_resolver;
mod own_addresses;
mod resolver;
mod warm_size;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::transport::Transport;
pub use checker::{Checker, Question};
pub use guard::{
    Account, Accounts, Answer, AttemptEnd, AttemptRequest, Confirmation, DialPermission, Guard, GuardChange,
    GuardPolicy, GuardState, GuardStatus, KnownGood, Learned, Order, Refusal, Reservation, Scout, SecretDigest,
    SendPermission, Store, Ticket, Unreserved, Where, keyed_hash,
};
pub use health::{CheckFailure, Health, HealthChange};
pub use helper_pressure::{ChallengeWait, HelperPressure, HelperShare};
pub use host_port::{HostPort, HostPortError};
pub use origin_resolver::{LookupClient, LookupReply, OriginResolver};
pub use own_addresses::OwnAddresses;
pub use resolver::{Resolution, Resolver};
pub use warm_size::WarmSize;

/// One upstream: its addresses, its health and its load. Shared by all shards; it lives as long as the configuration
/// names it, and as long as a tunnel uses it.
#[derive(Debug)]
pub struct Upstream {
    name: Arc<str>,
    hosts: Vec<HostPort>,
    transport: Transport,
    /// What each host resolves to; `None` until the first lookup is over.
    found: RwLock<Vec<Option<Resolution>>>,
    /// The index, among all addresses, of the one that was reached last.
    preferred: AtomicUsize,
    /// Clients that are connected to it or connecting.
    open: AtomicUsize,
    /// Whether clients are sent to it.
    pub health: Health,
    /// How long its clients wait for challenges.
    pub helper_pressure: Arc<HelperPressure>,
}

impl Upstream {
    /// Creates an upstream. Hosts that are IP addresses are resolved from the start. See [`Health::new`] for
    /// `on_health`.
    pub fn new(
        name: &str,
        hosts: Vec<HostPort>,
        transport: Transport,
        on_health: impl Fn(&HealthChange) + Send + Sync + 'static,
    ) -> Arc<Upstream> {
        Arc::new(Upstream {
            name: name.into(),
            found: RwLock::new(hosts.iter().map(literal_address).collect()),
            hosts,
            transport,
            preferred: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            health: Health::new(on_health),
            helper_pressure: Arc::default(),
        })
    }

    /// The name in logs and metrics.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its hosts, as configured.
    pub fn hosts(&self) -> &[HostPort] {
        &self.hosts
    }

    /// What carries the bytes to it.
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Records what a host resolves to, by its index in [`Upstream::hosts`]. Returns how many addresses the upstream
    /// has now.
    pub fn resolved(&self, host: usize, resolution: Resolution) -> usize {
        let mut found = self.found.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = found.get_mut(host) {
            *slot = Some(resolution);
        }
        self.preferred.store(0, Ordering::Relaxed);
        found.iter().flatten().map(|resolution| addresses_of(resolution).len()).sum()
    }

    /// The addresses of the host with this name, each with the host's port. Empty if no host has the name, or if it has
    /// not been resolved.
    pub fn addresses_of_host(&self, name: &str) -> Vec<SocketAddr> {
        let found = self.found.read().unwrap_or_else(PoisonError::into_inner);
        let of_name = self.hosts.iter().zip(found.iter()).filter(|(host, _)| host.host() == name);
        let mut known = of_name.filter_map(|(_, found)| found.as_ref()).map(addresses_of);
        known.find(|addresses| !addresses.is_empty()).unwrap_or_default().to_vec()
    }

    /// The addresses of all hosts, in the order of the hosts. `None` while none is known and a lookup is still under
    /// way.
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

    /// The index of the address to begin with: the one that was reached last.
    pub fn preferred(&self) -> usize {
        self.preferred.load(Ordering::Relaxed)
    }

    /// Records which address was reached, by its index.
    pub fn reached(&self, address: usize) {
        if self.preferred() != address {
            self.preferred.store(address, Ordering::Relaxed);
        }
    }

    /// Clients that are connected to it or connecting.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Counts a client that is going to connect.
    pub fn enter(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts off a client that had entered.
    pub fn leave(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

fn literal_address(host: &HostPort) -> Option<Resolution> {
    let address = host.host().parse().ok()?;
    Some(Resolution::Addresses([SocketAddr::new(address, host.port())].into()))
}

fn addresses_of(resolution: &Resolution) -> &[SocketAddr] {
    match resolution {
        Resolution::Addresses(addresses) => addresses,
        Resolution::Failed(_) => &[],
    }
}

/// The reason `why` without `name: ` in front, for lines that name the upstream already. An upstream is often named by
/// its address, and then the reason begins with the same address.
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
        let upstream = Upstream::new("both", hosts, Transport::Tcp, |_| {});
        assert_eq!(upstream.resolution(), None);
        upstream.resolved(0, Resolution::Failed("no such name".into()));
        assert_eq!(upstream.resolution(), None, "the other may still be found");
        upstream.resolved(1, addresses(&["10.0.0.2:2"]));
        assert_eq!(upstream.resolution(), Some(addresses(&["10.0.0.2:2"])));
        assert_eq!(upstream.resolved(0, addresses(&["10.0.0.1:1"])), 2);
        assert_eq!(upstream.resolution(), Some(addresses(&["10.0.0.1:1", "10.0.0.2:2"])));
    }

    #[test]
    fn a_host_is_found_by_its_name_whatever_its_port() {
        let hosts = ["a.example:1", "b.example:2", "b.example:3"].map(|host| host.parse().unwrap());
        let upstream = Upstream::new("both", hosts.into(), Transport::Tcp, |_| {});
        upstream.resolved(0, Resolution::Failed("no such name".into()));
        upstream.resolved(2, addresses(&["10.0.0.2:3"]));
        assert_eq!(upstream.addresses_of_host("b.example"), ["10.0.0.2:3".parse().unwrap()]);
        assert!(
            upstream.addresses_of_host("a.example").is_empty() && upstream.addresses_of_host("c.example").is_empty()
        );
    }

    #[test]
    fn hosts_that_are_addresses_need_no_look_up() {
        let upstream = Upstream::new(
            "both",
            vec!["10.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap()],
            Transport::Tcp,
            |_| {},
        );
        assert_eq!(upstream.resolution(), Some(addresses(&["10.0.0.1:1", "[::1]:2"])));
    }

    #[test]
    fn when_no_host_resolves_the_first_failure_is_reported() {
        let hosts = vec!["a.example:1".parse().unwrap(), "b.example:2".parse().unwrap()];
        let upstream = Upstream::new("both", hosts, Transport::Tcp, |_| {});
        upstream.resolved(1, Resolution::Failed("second".into()));
        upstream.resolved(0, Resolution::Failed("first".into()));
        assert_eq!(upstream.resolution(), Some(Resolution::Failed("first".into())));
    }
}
