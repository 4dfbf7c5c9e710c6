//! An upstream as one identity: what a connection to it needs.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

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
    /// How many requests in a row it has granted without asking for authentication.
    unasked: AtomicU32,
    /// The age at which a challenge was too old for it, in ms; 0 while none was.
    spoils_ms: AtomicU64,
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

    /// The upstream has asked for authentication, or has granted a request without.
    pub fn asked_for_authentication(&self, asked: bool) {
        match asked {
            true if self.habits.unasked.load(Ordering::Relaxed) != 0 => self.habits.unasked.store(0, Ordering::Relaxed),
            true => {}
            false => drop(self.habits.unasked.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// Whether the upstream seems to ask nobody for authentication: then nobody has to wait until it has accepted somebody.
    pub fn grants_unasked(&self) -> bool {
        self.habits.unasked.load(Ordering::Relaxed) >= limits::UNASKED
    }

    /// A challenge of this age was too old.
    pub fn challenge_spoiled(&self, age_ms: u64) {
        let known_ms = self.habits.spoils_ms.load(Ordering::Relaxed);
        if known_ms == 0 || age_ms < known_ms {
            self.habits.spoils_ms.store(age_ms.max(1), Ordering::Relaxed);
        }
    }

    /// The longest that a challenge may wait for its client, in ms, where `most_ms` is configured: half of what was once too much.
    pub fn challenge_age_ms(&self, most_ms: u64) -> u64 {
        match self.habits.spoils_ms.load(Ordering::Relaxed) {
            0 => most_ms,
            spoils_ms => most_ms.min(spoils_ms / 2),
        }
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
