//! What a tunnel is doing, for who asks.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{Context, Session, Stage};
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
    /// How far it is: `read_head`, `direct`, `dial`, `authenticate`, `exchange`, `declined`, `reply`, `relay`, `closing`.
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

impl Session {
    /// What it is doing now.
    pub fn describe(&self, shard: usize, key: Key, context: &Context) -> SessionSnapshot {
        let record = &self.client.record;
        let (bytes_up, bytes_down, active_ms) = match &self.stage {
            Stage::Relay(stage) => {
                let (up, down) = stage.bytes();
                (up, down, Some(stage.active_ms()))
            }
            _ => (0, 0, None),
        };
        SessionSnapshot {
            shard,
            key,
            client: record.client,
            target: record.target.clone(),
            upstream: record.on_hop.as_ref().map_or_else(|| "-".into(), |hop| Arc::clone(hop.upstream.name())),
            stage: self.stage.label(),
            age_ms: context.now_us.saturating_sub(record.accepted_us) / 1000,
            idle_ms: active_ms.map(|active_ms| context.now_ms().saturating_sub(active_ms)),
            bytes_up,
            bytes_down,
        }
    }
}

impl Stage {
    fn label(&self) -> &'static str {
        match self {
            Stage::ReadRequest(_) => "read_head",
            Stage::Direct(_) => "direct",
            Stage::Exchange(_) => "exchange",
            Stage::Dial(_) => "dial",
            Stage::Authenticate(_) => "authenticate",
            Stage::Declined(_) => "declined",
            Stage::Reply(_) => "reply",
            Stage::Relay(_) => "relay",
            // Between two steps no tunnel is asked.
            Stage::Linger(_) | Stage::Stepping => "closing",
        }
    }
}
