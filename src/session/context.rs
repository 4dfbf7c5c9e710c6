//! What a shard lends to the session that it steps.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use mio::Registry;

use crate::auth::NonceSource;
use crate::client_protocol::Service;
use crate::egress::CurrentEgress;
use crate::event::{Key, SpareBuffers, Timers, WaitList};
use crate::forward::ForwardOptions;
use crate::http::PROXY_NAME;
use crate::limits;
use crate::metrics::{Metrics, ShardCounts};
use crate::pool::{Loan, Pools};
use crate::relay::{BulkPace, PipePool, Resources};
use crate::route::RouteTicket;
use crate::timeouts::TimeoutsMs;
use crate::transport::{KeepAlive, SocketOptions};
use crate::upstream::{HostPort, LookupClient, LookupReply};

/// The part of the configuration that sessions use. Replaced as a whole; a session uses what is present when it needs
/// it.
#[derive(Clone, Debug)]
pub struct SessionSettings {
    /// Upstreams, identities and routes.
    pub egress: CurrentEgress,
    /// What each listener serves, by its number; those that are missing serve the default.
    pub services: Arc<[Service]>,
    /// From which networks each listener takes PROXY headers, by its number; none where it is missing.
    pub trusted_proxies: Arc<[Vec<IpNet>]>,
    /// How long things may take.
    pub timeouts: TimeoutsMs,
    /// The memory that all requests and answers in progress may hold, in bytes; 0 for no limit.
    pub memory_limit_bytes: usize,
    /// The longest head in bytes.
    pub head_limit_bytes: usize,
    /// The most field lines of a head.
    pub field_limit: usize,
    /// What an upstream's socket may buffer in each direction, in bytes; 0 leaves it to the system.
    pub socket_buffer_bytes: usize,
    /// How idle connections to upstreams and origins are probed.
    pub keep_alive: Option<KeepAlive>,
    /// The gateway's name in Via fields; `None` adds none.
    pub via: Option<Arc<str>>,
}

impl SessionSettings {
    /// Options of the sockets to upstreams and origins.
    pub fn socket_options(&self) -> SocketOptions {
        SocketOptions { buffer_bytes: self.socket_buffer_bytes, keep_alive: self.keep_alive }
    }

    /// Whether a connection that a listener accepted from this address must begin with a PROXY header.
    pub fn awaits_proxy_header(&self, listener: usize, from: IpAddr) -> bool {
        let networks = self.trusted_proxies.get(listener);
        networks.is_some_and(|networks| networks.iter().any(|network| network.contains(&from.to_canonical())))
    }

    /// How requests and answers are passed on.
    pub fn forward_options(&self) -> ForwardOptions<'_> {
        ForwardOptions { via: self.via.as_deref() }
    }
}

/// Everything that the sessions of one shard share.
pub struct Context {
    /// Where sockets are registered.
    pub registry: Registry,
    /// The deadlines of all sessions.
    pub timers: Timers,
    /// Room for one read of the session that is being stepped.
    pub scratch: Box<[u8]>,
    /// Buffers for what is sent at once most of the time.
    pub spare_buffers: SpareBuffers,
    /// Pipes to splice bulk data.
    pub pipes: PipePool,
    /// Upstream connections without a client.
    pub pools: Pools,
    /// The gateway is draining: no connection is kept for another request.
    pub draining: bool,
    /// Random numbers and the time for AUTHENTICATE_MESSAGEs.
    pub nonces: NonceSource,
    /// All counters.
    pub metrics: Arc<Metrics>,
    /// Those that only this shard counts.
    pub counts: Arc<ShardCounts>,
    /// The present configuration.
    pub settings: SessionSettings,
    /// Asks for an origin's addresses on behalf of a session.
    pub look_up: Box<dyn Fn(HostPort, Key, LookupClient) -> LookupReply + Send>,
    /// A ticket for a session's question of this number to a source of routes.
    pub route_ticket: Box<dyn Fn(Key, u32) -> RouteTicket + Send>,
    /// Sessions that wait for an upstream's addresses.
    pub address_waiters: WaitList,
    /// Sessions that wait for the guard to change.
    pub guard_waiters: WaitList,
    /// The time of this turn.
    pub now: TurnTime,
    /// How much bulk transfers may move, and when.
    pub bulk_pace: BulkPace,
}

/// The time of a turn, on the process's clock.
#[derive(Clone, Copy, Debug)]
pub struct TurnTime {
    us: u64,
    /// Kept beside `us`, because it is read many times a turn.
    ms: u64,
}

impl TurnTime {
    /// So many µs since the clock began.
    #[inline]
    pub fn from_us(us: u64) -> TurnTime {
        TurnTime { us, ms: us / 1000 }
    }
}

impl Context {
    /// The time of this turn in milliseconds.
    pub fn now_ms(&self) -> u64 {
        self.now.ms
    }

    /// The time of this turn in microseconds.
    pub fn now_us(&self) -> u64 {
        self.now.us
    }

    /// Requests and answers in progress hold as much memory as they may, over all shards: no new request is begun.
    pub fn is_out_of_memory(&self) -> bool {
        self.holds_at_least(self.settings.memory_limit_bytes)
    }

    /// They hold so much that unfinished heads have to be closed.
    pub fn is_short_of_memory(&self) -> bool {
        self.holds_at_least(self.settings.memory_limit_bytes / 8 * 7)
    }

    fn holds_at_least(&self, bytes: usize) -> bool {
        bytes > 0 && usize::try_from(self.metrics.buffered_bytes.get()).is_ok_and(|held| held >= bytes)
    }

    /// Room for one read of a head.
    pub fn head_scratch(&mut self) -> &mut [u8] {
        let most = self.scratch.len().min(limits::HEAD_READ_BYTES);
        &mut self.scratch[..most]
    }

    /// The pools, and what they need for a call.
    pub fn pools(&mut self) -> (&mut Pools, Loan<'_>) {
        let loan = Loan {
            registry: &self.registry,
            timers: &mut self.timers,
            scratch: &mut self.scratch,
            nonces: &mut self.nonces,
            egress: &self.settings.egress,
            timeouts: &self.settings.timeouts,
            head_limit_bytes: self.settings.head_limit_bytes,
            field_limit: self.settings.field_limit,
            socket_options: self.settings.socket_options(),
            draining: self.draining,
            now_ms: self.now.ms,
        };
        (&mut self.pools, loan)
    }

    /// What the relay needs.
    pub fn relay_resources(&mut self) -> Resources<'_> {
        Resources { scratch: &mut self.scratch, pipes: &mut self.pipes }
    }
}

/// A name for Via that no other process has (RFC 9110 §7.6.3), so that gateways in a row do not mistake each other for
/// themselves.
///
/// # Errors
/// When the system has no random numbers.
pub fn pseudonym() -> io::Result<Arc<str>> {
    let mut random = [0; 4];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    Ok(format!("{PROXY_NAME}-{:08x}", u32::from_be_bytes(random)).into())
}
