//! Who is proved to the upstreams, and which clients go by it.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::upstream::Guard;

/// An identity with what watches over it.
#[derive(Debug)]
pub struct KnownIdentity {
    /// What logs and metrics call it.
    pub name: Arc<str>,
    /// What keeps its account from being locked; one for all upstreams and shards.
    pub guard: Arc<Guard>,
    /// Clients from these networks go by it.
    pub clients: Vec<IpNet>,
    /// It has a listener of its own.
    pub has_listener: bool,
    /// Clients that log on go by it.
    pub has_login: bool,
}

impl KnownIdentity {
    pub(super) fn is_for(&self, client: IpAddr) -> bool {
        self.clients.iter().any(|network| network.contains(&client))
    }

    /// Nothing singles its clients out.
    pub(super) fn is_for_everybody(&self) -> bool {
        self.clients.is_empty() && !self.has_listener && !self.has_login
    }
}
