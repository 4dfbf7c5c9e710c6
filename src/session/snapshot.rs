//! What a tunnel is doing, for who asks.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::event::Key;

/// A tunnel at one moment. Nothing of what it carries is in here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionSnapshot {
    /// The shard that has it.
    pub shard: usize,
    /// Its place there; with the shard, no other tunnel of the process has it at the same time.
    pub key: Key,
    /// Who.
    pub client: SocketAddr,
    /// `host:port` as asked for; empty until it is known.
    pub target: Box<str>,
    /// The upstream's name as configured; `-` where there is none.
    pub upstream: Arc<str>,
    /// How far it is: `read_head`, `choose_route`, `direct`, `dial`, `authenticate`, `exchange`, `declined`, `reply`,
    /// `relay`, `closing`.
    pub stage: &'static str,
    /// Since accept, in ms.
    pub age_ms: u64,
    /// Since bytes moved last, in ms; `None` before the relay.
    pub idle_ms: Option<u64>,
    /// Bytes relayed to the upstream.
    pub bytes_up: u64,
    /// Bytes relayed to the client.
    pub bytes_down: u64,
}
