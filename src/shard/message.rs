//! What other threads tell a shard.

use std::sync::mpsc;

use crate::event::Key;
use crate::tunnel::Settings;
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
    Settings(Box<Settings>),
    /// Answer with the shard's number: the loop turns.
    Ping(mpsc::Sender<usize>),
    /// Take no new connections; those that wait in the kernel are still accepted. End when no tunnel is left.
    Drain,
    /// Close what is left and end.
    Stop,
}
