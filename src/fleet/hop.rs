//! An upstream as one identity: what a connection to it needs.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::KnownIdentity;
use crate::handshake::Credentials;
use crate::limits;
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
    /// How often it has asked for authentication again on one, since it last did not.
    forgot: AtomicU32,
    /// It has asked for authentication when a CONNECT came on one.
    no_connect: AtomicBool,
}

impl Hop {
    /// The upstream has asked for authentication again on an authenticated connection. Once may be a destination's policy,
    /// or a connection's old age.
    pub fn forgets(&self) {
        self.habits.forgot.fetch_add(1, Ordering::Relaxed);
    }

    /// The upstream has served a request on an authenticated connection.
    pub fn remembers(&self) {
        if self.habits.forgot.load(Ordering::Relaxed) != 0 && !self.is_forgetful() {
            self.habits.forgot.store(0, Ordering::Relaxed);
        }
    }

    /// Whether a connection's authentication is good for one request only: so it seems after [`limits::FORGETS`] times in a
    /// row.
    pub fn is_forgetful(&self) -> bool {
        self.habits.forgot.load(Ordering::Relaxed) >= limits::FORGETS
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
