//! The way out as a whole: upstreams, identities and the rules that lead to them; replaced as one at a reload.
//!
//! | file | subject |
//! |---|---|
//! | `identity` | who is proved, and which clients go by it |
//! | `hop` | an upstream as one identity: what a connection to it needs |
//! | `habits` | what was learnt of an upstream from what it did |
//! | `choice` | which upstream of a group a request goes to |
//! | `unasked` | what an upstream serves without asking for authentication |
//! | `verdict` | what an answer says about the AUTHENTICATE_MESSAGE before it |
//! | `check` | the handshake that tries an upstream before clients do |
//! | `current` | the egress that new requests set out with, and its secrets |
//! | `logins` | clients that log on to the gateway |

mod check;
mod choice;
mod current;
mod habits;
mod hop;
mod identity;
mod logins;
mod unasked;
pub mod verdict;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::http::Authority;
use crate::metrics::UpstreamMetrics;
use crate::route::{Decision, Rules};
use crate::upstream::Upstream;

pub use check::{check_by_handshake, probe};
pub use choice::{Order, Tried};
pub use current::{ClientError, CurrentEgress};
pub use habits::{Asks, Habits};
pub use hop::{Hop, OnHop};
pub use identity::KnownIdentity;
pub use logins::{Guesses, LoginError, Logins, Shown};
pub use unasked::Unasked;

/// An upstream as a member of the egress.
#[derive(Debug)]
pub struct Member {
    /// The upstream itself; outlives the egress if the next one names it too.
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

/// Whose clients come in by a listener. A reload changes the identities and cannot close the listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerUse {
    /// Anybody's.
    Common,
    /// Those of the identity at this place.
    Own(usize),
    /// Those of an identity that it was taken away from: they must not become anybody's.
    Withdrawn,
}

/// Upstreams, identities and rules.
#[derive(Debug)]
pub struct Egress {
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
    /// Whose clients come in by each listener.
    pub listeners: Vec<ListenerUse>,
    /// The ports that the gateway itself listens on, the administration's among them.
    pub own_ports: Vec<u16>,
}

impl Egress {
    /// Decides where a request goes.
    pub fn decide(&self, destination: &Authority<'_>) -> Decision {
        self.rules.decide(destination)
    }

    /// The first identity that is for clients of an address.
    fn identity_of_address(&self, client: IpAddr) -> Option<usize> {
        let client = client.to_canonical();
        self.identities.iter().position(|identity| identity.is_for(client))
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
        self.identities.iter().any(|identity| identity.has_login)
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
