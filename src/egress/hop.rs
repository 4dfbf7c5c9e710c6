//! An upstream as one identity: all that a connection to it needs.

use std::ops::Deref;
use std::sync::Arc;

use super::{Habits, KnownIdentity, Unchallenged};
use crate::auth::Credentials;
use crate::metrics::{HopMetrics, UpstreamMetrics};
use crate::upstream::Upstream;

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
    /// The metrics of upstream and identity together.
    pub metrics: HopMetrics,
    /// The metrics of the upstream.
    pub upstream_metrics: UpstreamMetrics,
    /// Most pre-challenged connections of a shard.
    pub warm_cap: usize,
    /// `host:port` that pre-challenged connections may ask for: the configured destination of checks.
    pub check_target: Option<Box<str>>,
    /// Most idle authenticated connections of a shard.
    pub keep_cap: usize,
    /// What its behaviour has shown.
    pub habits: Habits,
    /// What it serves without authentication.
    pub unchallenged: Unchallenged,
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
