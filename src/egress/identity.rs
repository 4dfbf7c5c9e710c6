//! The accounts that authenticate to upstreams, and which clients use them.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::upstream::Guard;

/// An identity: an account, its guard, and the clients that use it.
#[derive(Debug)]
pub struct KnownIdentity {
    /// The name in logs and metrics.
    pub name: Arc<str>,
    /// Keeps the account from being locked; one for all upstreams and shards.
    pub guard: Arc<Guard>,
    /// Clients from these networks use it.
    pub clients: Vec<IpNet>,
    /// It has a listener of its own, whose clients use it.
    pub has_listener: bool,
    /// It has a login, and clients that log on with it use it.
    pub has_login: bool,
}

impl KnownIdentity {
    /// Whether it is configured for the networks of this client.
    pub(super) fn is_for(&self, client: IpAddr) -> bool {
        self.clients.iter().any(|network| network.contains(&client))
    }

    /// Whether any client may use it: it has no networks, no listener and no login.
    pub(super) fn is_for_everybody(&self) -> bool {
        self.clients.is_empty() && !self.has_listener && !self.has_login
    }
}
