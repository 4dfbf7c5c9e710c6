//! Who is proved to the upstreams, and which clients go by it.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::ntlm::NtHash;
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
    /// Clients that log on like this go by it.
    pub login: Option<(String, NtHash)>,
}

/// What a client shows of itself in its Proxy-Authorization field (Basic, RFC 7617).
#[derive(Clone, Copy)]
pub struct Login<'a> {
    /// The name.
    pub user: &'a str,
    /// Its password.
    pub password: &'a str,
}

/// A client showed a login that nobody has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginError;

impl KnownIdentity {
    pub(super) fn is_shown_by(&self, login: &Login<'_>) -> bool {
        // Digests are compared, so that the time it takes tells nothing of the password.
        self.login.as_ref().is_some_and(|(user, password)| {
            let fits = NtHash::from_password(login.password) == *password;
            *user == login.user && fits
        })
    }

    pub(super) fn is_for(&self, client: IpAddr) -> bool {
        self.clients.iter().any(|network| network.contains(&client))
    }

    /// Nothing singles its clients out.
    pub(super) fn is_for_everybody(&self) -> bool {
        self.clients.is_empty() && !self.has_listener && self.login.is_none()
    }
}
