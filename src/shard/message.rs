//! What other threads tell a shard.

use std::net::SocketAddr;
use std::sync::mpsc;

use super::admission::Eviction;
use crate::event::Key;
use crate::route::RouteAnswer;
use crate::session::{SessionSettings, SessionSnapshot};
use crate::transport::Stream;
use crate::upstream::Resolution;

/// One message.
#[derive(Debug)]
pub enum Message {
    /// The addresses of an upstream's name have changed: sessions that wait for them may go on.
    UpstreamResolved,
    /// The name of a session's origin was looked up.
    OriginResolved(Key, Resolution),
    /// A source of routes has answered a session's question of this number.
    Routed(Key, u32, RouteAnswer),
    /// The credential guard has changed: sessions that wait for it may ask again.
    GuardChanged,
    /// The configuration in force from now on.
    Settings(Box<SessionSettings>),
    /// Another shard has admitted a connection in place of this shard's oldest idle one.
    Evict(Eviction),
    /// A connection that another shard has accepted and that is this shard's from now on.
    HandedOver(Box<Accepted>),
    /// Memory is short, and the sender has no large unfinished heads to close.
    FreeMemory,
    /// Answer with the shard's number, to show that the loop turns.
    Ping(mpsc::Sender<usize>),
    /// Answer with what the sessions are doing.
    Describe(mpsc::Sender<Described>),
    /// Accept what is waiting in the kernel and nothing after it. Stop when no session is left.
    Drain,
    /// Close everything and stop.
    Stop,
}

/// A connection that was accepted and is not registered with any poll yet.
#[derive(Debug)]
pub struct Accepted {
    /// Its socket.
    pub stream: Stream,
    /// Where it comes from.
    pub from: SocketAddr,
    /// The index of the listener, which is the same in all shards.
    pub listener: usize,
}

/// A shard's sessions at one moment.
#[derive(Debug)]
pub struct Described {
    /// At most [`crate::limits::LISTED_TUNNELS`] of them.
    pub tunnels: Vec<SessionSnapshot>,
    /// How many more there are.
    pub left_out: usize,
}
