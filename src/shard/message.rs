//! What other threads tell a shard.

use std::sync::mpsc;

use super::admission::GiveWay;
use crate::event::Key;
use crate::session::{SessionSettings, SessionSnapshot};
use crate::upstream::Resolution;

/// One message.
#[derive(Debug)]
pub enum Message {
    /// An upstream's name resolves anew: who waits for its addresses may go on.
    Resolved,
    /// The name of a tunnel's origin was looked up.
    Found(Key, Resolution),
    /// The credential guard changed: who waits for it may ask again.
    GuardChanged,
    /// New tunnels go by this configuration.
    Settings(Box<SessionSettings>),
    /// Another shard has let somebody in: the oldest idle connection makes room.
    GiveWay(GiveWay),
    /// Memory runs short, and it is not the sender that has unfinished heads.
    FreeMemory,
    /// Answer with the shard's number: the loop turns.
    Ping(mpsc::Sender<usize>),
    /// Answer with what the tunnels are doing.
    Describe(mpsc::Sender<Described>),
    /// Take no new connections; those that wait in the kernel are still accepted. End when no tunnel is left.
    Drain,
    /// Close what is left and end.
    Stop,
}

/// A shard's tunnels at one moment.
#[derive(Debug)]
pub struct Described {
    /// At most [`crate::limits::LISTED_TUNNELS`] of them.
    pub tunnels: Vec<SessionSnapshot>,
    /// How many more there are.
    pub left_out: usize,
}
