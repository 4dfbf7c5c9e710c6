//! Upstream connections without a client: kept alive between requests, pre-challenged, and waiting for a verdict.
//!
//! The pools know nothing of sessions. What they need of their shard is lent to them for each call ([`Loan`]); a
//! session that takes a connection out gives the events of that connection a token of its own, unless they still have
//! one of it.

mod challenge_request;
mod keep_alive;
mod pre_challenged;
mod sizing;
mod verdict_wait;

use std::sync::Arc;

use mio::Registry;

use crate::auth::NonceSource;
use crate::egress::{CurrentEgress, Hop};
use crate::event::{Key, Owner, Timers};
use crate::timeouts::TimeoutsMs;
use crate::transport::{Readiness, SocketOptions};

pub use keep_alive::{KeepAlivePool, Taken};
pub use pre_challenged::{Challenged, PreChallengedPool};
pub use verdict_wait::{Orphan, VerdictWaitPool};

/// The pools of one shard.
#[derive(Default)]
pub struct Pools {
    /// Authenticated connections between two requests.
    pub keep_alive: KeepAlivePool,
    /// Connections that have their challenge before a client needs it.
    pub pre_challenged: PreChallengedPool,
    /// Connections that wait for the verdict on a logon attempt.
    pub verdict_wait: VerdictWaitPool,
}

/// What a shard lends to its pools.
pub struct Loan<'a> {
    /// Where sockets are registered.
    pub registry: &'a Registry,
    /// The deadlines of all connections of the shard.
    pub timers: &'a mut Timers,
    /// Room for one read.
    pub scratch: &'a mut [u8],
    /// Where the nonces of logon attempts come from.
    pub nonces: &'a mut NonceSource,
    /// The hops in force.
    pub egress: &'a CurrentEgress,
    /// The time-outs in force.
    pub timeouts: &'a TimeoutsMs,
    /// The longest head.
    pub head_limit_bytes: usize,
    /// The most field lines in a head.
    pub field_limit: usize,
    /// Options of the sockets to upstreams.
    pub socket_options: SocketOptions,
    /// The gateway is draining: no connection is kept for another request.
    pub draining: bool,
    /// The time of this turn, in ms of the process's clock.
    pub now_ms: u64,
}

impl Loan<'_> {
    /// Whether a hop belongs to the egress in force. A reload renumbers the hops: the same number may be another
    /// upstream's or another identity's.
    fn is_in_force(&self, hop: &Arc<Hop>) -> bool {
        self.egress.hops.get(hop.number).is_some_and(|other| Arc::ptr_eq(other, hop))
    }
}

impl Pools {
    /// Handles an event of a pool's connection; `false` when the connection has left the pool already.
    pub fn on_event(&mut self, key: Key, ready: Readiness, loan: &mut Loan<'_>) -> bool {
        match key.owner() {
            Owner::KeepAlive => self.keep_alive.on_event(key, ready),
            Owner::PreChallenged => self.pre_challenged.on_event(key, ready, loan),
            Owner::VerdictWait => self.verdict_wait.on_event(key, ready, loan),
            Owner::Session => false,
        }
    }

    /// Handles the timer entry of a pool's connection.
    pub fn deadline_due(&mut self, key: Key, loan: &mut Loan<'_>) {
        match key.owner() {
            Owner::KeepAlive => self.keep_alive.deadline_due(key, loan),
            Owner::PreChallenged => self.pre_challenged.deadline_due(key, loan),
            Owner::VerdictWait => self.verdict_wait.deadline_due(key, loan),
            Owner::Session => {}
        }
    }

    /// Closes all connections that clients could still use: a new configuration has other credentials, or the gateway
    /// is draining.
    pub fn close_usable(&mut self) {
        self.pre_challenged.clear();
        self.keep_alive.clear();
    }

    /// Closes all connections, because the gateway stops.
    pub fn close_all(&mut self) {
        self.close_usable();
        self.verdict_wait.clear();
    }
}
