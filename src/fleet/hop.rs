//! An upstream as one identity: what a connection to it needs.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::KnownIdentity;
use crate::handshake::Credentials;
use crate::metrics::{HopMetrics, UpstreamMetrics};
use crate::upstream::Upstream;

/// An upstream as one identity.
#[derive(Debug)]
pub struct Hop {
    /// Its place among the fleet's hops.
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
    /// Authenticated connections that a shard keeps at most.
    pub keep_cap: usize,
    /// What was learnt of its authentication.
    pub habits: Habits,
}

/// What an upstream does with a connection that it has authenticated; learnt from what it did.
#[derive(Debug, Default)]
pub struct Habits {
    /// It has asked for authentication again on one.
    forgetful: AtomicBool,
    /// It has asked for authentication when a CONNECT came on one.
    no_connect: AtomicBool,
}

impl Hop {
    /// The upstream has asked for authentication again on an authenticated connection.
    pub fn forgets(&self) {
        self.habits.forgetful.store(true, Ordering::Relaxed);
    }

    /// Whether a connection's authentication is good for one request only.
    pub fn is_forgetful(&self) -> bool {
        self.habits.forgetful.load(Ordering::Relaxed)
    }

    /// The upstream wants CONNECT to be authenticated, whatever went before.
    pub fn refuses_connect_on_kept(&self) {
        self.habits.no_connect.store(true, Ordering::Relaxed);
    }

    /// Whether a CONNECT may be tried on an authenticated connection.
    pub fn takes_connect_on_kept(&self) -> bool {
        !self.habits.no_connect.load(Ordering::Relaxed)
    }
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
