//! What other threads tell a shard.

use crate::tunnel::Settings;
use crate::upstream::Resolution;

/// One message.
#[derive(Debug)]
pub enum Message {
    /// The upstream's name resolves anew.
    Resolved(Resolution),
    /// The credential guard changed: who waits for it may ask again.
    GuardChanged,
    /// New tunnels go by this configuration.
    Settings(Box<Settings>),
    /// Take no new connections; those that wait in the kernel are still accepted. End when no tunnel is left.
    Drain,
    /// Close what is left and end.
    Stop,
}
