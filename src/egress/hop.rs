//! An upstream as one identity: what a connection to it needs.

use std::ops::Deref;
use std::sync::Arc;

use super::{Habits, KnownIdentity, Unasked};
use crate::auth::Credentials;
use crate::metrics::{HopMetrics, UpstreamMetrics};
use crate::upstream::Upstream;

/// An upstream as one identity.
#[derive(Debug)]
pub struct Hop {
    /// Its place among the egress's hops.
    pub number: usize,
    /// Where.
    pub upstream: Arc<Upstream>,
    /// Who.
    pub identity: Arc<KnownIdentity>,
    /// What is proved.
    pub credentials: Arc<Credentials>,
    /// What is counted of both together.
    pub metrics: HopMetrics,
    /// What is counted of the upstream.
    pub upstream_metrics: UpstreamMetrics,
    /// Connections that a shard challenges ahead at most.
    pub warm_cap: usize,
    /// `host:port` that those may name, where the configuration has one for checks.
    pub check_target: Option<Box<str>>,
    /// Authenticated connections that a shard keeps at most.
    pub keep_cap: usize,
    /// What was learnt of it.
    pub habits: Habits,
    /// What it serves without authentication.
    pub unasked: Unasked,
}

/// A client on a hop, counted among the upstream's until this is dropped.
#[derive(Debug)]
pub struct OnHop(Arc<Hop>);

impl OnHop {
    /// A client goes there.
    pub fn new(hop: &Arc<Hop>) -> OnHop {
        hop.upstream.enter();
        hop.upstream_metrics.tunnels.inc();
        OnHop(Arc::clone(hop))
    }

    /// The hop itself.
    pub fn hop(&self) -> &Arc<Hop> {
        &self.0
    }
}

impl Deref for OnHop {
    type Target = Hop;

    fn deref(&self) -> &Hop {
        &self.0
    }
}

impl Drop for OnHop {
    fn drop(&mut self) {
        self.0.upstream.leave();
        self.0.upstream_metrics.tunnels.dec();
    }
}
