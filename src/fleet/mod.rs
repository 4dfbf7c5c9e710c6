//! The way out as a whole: upstreams, identities and the rules that lead to them; replaced as one at a reload.
//!
//! | file | subject |
//! |---|---|
//! | `identity` | who is proved, and which clients go by it |
//! | `hop` | an upstream as one identity: what a connection to it needs |
//! | `choice` | which upstream of a group a request goes to |
//! | `check` | the handshake that tries an upstream before clients do |
//! | `in_force` | how long a fleet's secrets are kept |

mod check;
mod choice;
mod hop;
mod identity;
mod in_force;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::http::Authority;
use crate::metrics::UpstreamMetrics;
use crate::route::{Decision, Rules};
use crate::upstream::Upstream;

pub use check::check_by_handshake;
pub use choice::{Order, Tried};
pub use hop::{Habits, Hop, OnHop};
pub use identity::{KnownIdentity, Login, LoginError};
pub use in_force::InForce;

/// An upstream as a member of the fleet.
#[derive(Debug)]
pub struct Member {
    /// The upstream itself; outlives the fleet if the next one names it too.
    pub upstream: Arc<Upstream>,
    /// What is counted of it.
    pub metrics: UpstreamMetrics,
    /// Its group.
    pub group: usize,
    /// Its share when tunnels are balanced.
    pub weight: u32,
    /// The identity of clients that have none of their own.
    pub identity: Option<usize>,
}

/// Upstreams, identities and rules.
#[derive(Debug)]
pub struct Fleet {
    /// In the order in which they are tried.
    pub members: Vec<Member>,
    /// By name, unique.
    pub identities: Vec<Arc<KnownIdentity>>,
    /// Of every member every identity, member by member.
    pub hops: Vec<Arc<Hop>>,
    /// Which upstream of a group comes first.
    pub order: Order,
    /// Where requests go.
    pub rules: Rules,
    /// The identity of each listener's clients, where it has one.
    pub by_listener: Vec<Option<usize>>,
    /// The ports that the gateway itself listens on, the administration's among them.
    pub own_ports: Vec<u16>,
}

impl Fleet {
    /// Decides where a request goes.
    pub fn decide(&self, destination: &Authority<'_>) -> Decision {
        self.rules.decide(destination)
    }

    /// The identity that a client is to go by, if something about it says so: its login, the listener it came in by, its address, in
    /// this order.
    ///
    /// # Errors
    /// [`LoginError`] when it shows a login that is none.
    pub fn identity_of(
        &self,
        listener: usize,
        client: IpAddr,
        login: Option<Login<'_>>,
    ) -> Result<Option<usize>, LoginError> {
        if let Some(login) = login
            && self.takes_logins()
        {
            let known = self.identities.iter().position(|identity| identity.is_shown_by(&login));
            return known.map(Some).ok_or(LoginError);
        }
        let by_listener = self.by_listener.get(listener).copied().flatten();
        let client = client.to_canonical();
        Ok(by_listener.or_else(|| self.identities.iter().position(|identity| identity.is_for(client))))
    }

    /// Whether a connection from `local` to `peer` has come out at the gateway itself: a connection to an address of the own
    /// machine comes from that address, or goes to one of the many of loopback (127.0.0.0/8), which need not be where it
    /// comes from.
    pub fn is_gateway(&self, peer: SocketAddr, local: SocketAddr) -> bool {
        let is_own_address = peer.ip() == local.ip() || peer.ip().to_canonical().is_loopback();
        is_own_address && self.own_ports.contains(&peer.port())
    }

    /// Whether clients may log on to the gateway.
    pub fn takes_logins(&self) -> bool {
        self.identities.iter().any(|identity| identity.login.is_some())
    }

    /// The identity for a client on an upstream: the client's own, the upstream's, or the first that is for everybody.
    pub fn hop(&self, member: usize, own: Option<usize>) -> Option<&Arc<Hop>> {
        let of_upstream = || self.members.get(member)?.identity;
        let for_all = || self.identities.iter().position(|identity| identity.is_for_everybody());
        let identity = own.or_else(of_upstream).or_else(for_all)?;
        self.hops.get(member * self.identities.len() + identity)
    }
}

#[cfg(test)]
mod tests;
