//! An upstream as one identity: all that a connection to it needs.

use std::ops::Deref;
use std::sync::Arc;

use super::{Habits, KnownIdentity, ReportedChoice, Unchallenged};
use crate::auth::Credentials;
use crate::metrics::{HopMetrics, UpstreamMetrics};
use crate::upstream::{Upstream, WarmSize};

/// An upstream as one identity: all that a connection to it needs.
#[derive(Debug)]
pub struct Hop {
    /// Its index in [`Egress::hops`](super::Egress::hops).
    pub number: usize,
    /// The upstream to connect to.
    pub upstream: Arc<Upstream>,
    /// The identity to authenticate as.
    pub identity: Arc<KnownIdentity>,
    /// The secret of the identity, and how it is used at this upstream.
    pub credentials: Arc<Credentials>,
    /// The same with the identity's previous secret, if it has one.
    pub previous: Option<Arc<Hop>>,
    /// The metrics of upstream and identity together.
    pub metrics: HopMetrics,
    /// The metrics of the upstream.
    pub upstream_metrics: UpstreamMetrics,
    /// How many connections a shard may keep pre-challenged.
    pub warm: WarmSize,
    /// `host:port` that pre-challenged connections may ask for: the configured destination of checks.
    pub check_target: Option<Box<str>>,
    /// Most idle authenticated connections of a shard.
    pub keep_cap: usize,
    /// What its behaviour has shown.
    pub habits: Habits,
    /// Which mechanism the log has reported last.
    pub reported: ReportedChoice,
    /// What it serves without authentication.
    pub unchallenged: Unchallenged,
}

impl Hop {
    /// The hop with the secret that a client's request has to use now: this one, or the one with the previous secret
    /// while the upstream does not accept the present one.
    pub fn in_use(self: &Arc<Hop>, now_ms: u64) -> &Arc<Hop> {
        let uses_previous = |_: &&Arc<Hop>| {
            self.credentials.begins_with_logon() && self.identity.guard.select_previous(now_ms, self.upstream.name())
        };
        self.previous.as_ref().filter(uses_previous).unwrap_or(self)
    }

    /// Whether the upstream has accepted the identity at some time, with either secret.
    pub fn was_accepted(&self) -> bool {
        self.secrets().any(|hop| hop.identity.guard.was_accepted(hop.upstream.name()))
    }

    /// The upstream accepts no connections now, whichever secret is used.
    pub fn unreachable(&self) {
        self.secrets().for_each(|hop| hop.identity.guard.unreachable(hop.upstream.name()));
    }

    /// Whether another hop is the same upstream as the same identity, with either secret.
    pub fn is_same_way(&self, other: &Hop) -> bool {
        self.secrets().any(|own| other.secrets().any(|other| std::ptr::eq(own, other)))
    }

    fn secrets(&self) -> impl Iterator<Item = &Hop> {
        std::iter::once(self).chain(self.previous.as_deref())
    }
}

/// A client on a hop. It counts towards the upstream's load until this is dropped.
#[derive(Debug)]
pub struct HopLease(Arc<Hop>);

impl HopLease {
    /// Counts a client on the hop.
    pub fn new(hop: &Arc<Hop>) -> HopLease {
        hop.upstream.enter();
        hop.upstream_metrics.tunnels.inc();
        HopLease(Arc::clone(hop))
    }

    /// The hop itself.
    pub fn hop(&self) -> &Arc<Hop> {
        &self.0
    }
}

impl Deref for HopLease {
    type Target = Hop;

    fn deref(&self) -> &Hop {
        &self.0
    }
}

impl Drop for HopLease {
    fn drop(&mut self) {
        self.0.upstream.leave();
        self.0.upstream_metrics.tunnels.dec();
    }
}
