//! Upstreams, identities and routing rules as one immutable whole, which a reload replaces.
//!
//! | file | subject |
//! |---|---|
//! | `identity` | the accounts that authenticate to upstreams, and which clients use them |
//! | `hop` | an upstream as one identity: all that a connection to it needs |
//! | `habits` | what an upstream's behaviour has shown |
//! | `reported` | which mechanism was last reported |
//! | `choice` | the choice of an upstream within a group |
//! | `unchallenged` | what an upstream serves without authentication |
//! | `logon_verdict` | what an answer says about the AUTHENTICATE_MESSAGE before it |
//! | `check` | the handshakes with which an upstream is checked |
//! | `current` | the egress that new requests use, and its secrets |
//! | `logins` | clients that log on to the gateway |

mod check;
mod choice;
mod current;
mod habits;
mod hop;
mod identity;
mod logins;
pub mod logon_verdict;
mod reported;
mod unchallenged;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::metrics::UpstreamMetrics;
use crate::route::{RouteSource, Rules};
use crate::upstream::{OwnAddresses, Upstream};

pub use check::{check_by_handshake, probe};
pub use choice::{Tried, UpstreamOrder};
pub use current::{ClientError, CurrentEgress};
pub use habits::{AuthDemand, Habits};
pub use hop::{Hop, HopLease};
pub use identity::KnownIdentity;
pub use logins::{Guesses, LoginError, Logins};
pub use reported::ReportedChoice;
pub use unchallenged::Unchallenged;

/// An upstream as part of an egress.
#[derive(Debug)]
pub struct Member {
    /// The upstream itself. It outlives the egress if the next one contains it, too.
    pub upstream: Arc<Upstream>,
    /// Its metrics.
    pub metrics: UpstreamMetrics,
    /// Its group, by index.
    pub group: usize,
    /// Its share of the tunnels with [`UpstreamOrder::Balance`], relative to the others' weights; at least 1.
    pub weight: u32,
    /// The identity, by index, for clients that have none of their own.
    pub identity: Option<usize>,
}

/// The identity that a listener belongs to. A reload can change the identities, but cannot close listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerUse {
    /// To none: its clients are identified otherwise.
    Common,
    /// To the identity with this index.
    Own(usize),
    /// To an identity that no longer has it. Its clients are rejected; they must not get another identity.
    Withdrawn,
}

/// Upstreams, identities and routes.
#[derive(Debug)]
pub struct Egress {
    /// The upstreams, in the order in which they are tried.
    pub members: Vec<Member>,
    /// The identities; their names are unique.
    pub identities: Vec<Arc<KnownIdentity>>,
    /// One for each member and identity: all identities of the first member, then those of the second, and so on. Then
    /// those with a previous secret, to which the others refer.
    pub hops: Vec<Arc<Hop>>,
    /// The order in which the upstreams of a group are tried.
    pub order: UpstreamOrder,
    /// Who decides where requests go.
    pub routes: Arc<dyn RouteSource>,
    /// The configured rules. They say which addresses of metadata services may be reached,
    /// whichever source names a route.
    pub rules: Arc<Rules>,
    /// The identity of each listener.
    pub listeners: Vec<ListenerUse>,
    /// The addresses on which the gateway listens, including the administration address.
    pub own: OwnAddresses,
}

impl Egress {
    /// The first identity whose networks contain a client's address.
    fn identity_of_address(&self, client: IpAddr) -> Option<usize> {
        let client = client.to_canonical();
        self.identities.iter().position(|identity| identity.is_for(client))
    }

    /// The place of an upstream among the members. A reload may change it.
    pub fn place_of(&self, upstream: &Arc<Upstream>) -> Option<usize> {
        self.members.iter().position(|member| Arc::ptr_eq(&member.upstream, upstream))
    }

    /// Whether a connection from `local` to `peer` leads to the gateway itself. A connection to an address of the same
    /// machine has that address at both ends, or leads to one of the loopback addresses (127.0.0.0/8), where the two
    /// may differ.
    pub fn is_gateway(&self, peer: SocketAddr, local: SocketAddr) -> bool {
        let is_own_address = peer.ip() == local.ip() || peer.ip().to_canonical().is_loopback();
        is_own_address && self.own.has_port(peer.port())
    }

    /// Whether clients may log on to the gateway, because an identity has a login.
    pub fn takes_logins(&self) -> bool {
        self.identities.iter().any(|identity| identity.has_login)
    }

    /// The hop for a client on a member (by index): with the client's own identity, else the upstream's, else the first
    /// that any client may use. `None` if there is no such identity or member.
    pub fn hop(&self, member: usize, own: Option<usize>) -> Option<&Arc<Hop>> {
        let of_upstream = || self.members.get(member)?.identity;
        let for_all = || self.identities.iter().position(|identity| identity.is_for_everybody());
        let identity = own.or_else(of_upstream).or_else(for_all)?;
        self.hops.get(member * self.identities.len() + identity)
    }
}

#[cfg(test)]
mod tests;
