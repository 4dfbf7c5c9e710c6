//! Primitives of the event loop that know nothing of tunnels.

mod mailbox;
mod pipe;
mod readiness;
mod stream;
mod timers;
mod token;

pub use mailbox::{Mailbox, Sender, mailbox};
pub use pipe::Pipe;
pub use readiness::{Endpoint, Readiness, Signs};
pub use stream::{KeepAlive, Listener, Stream, bound_buffers, keep_alive};
pub use timers::{Deadline, TICK_MS, Timers};
pub use token::{DIALS, EventToken, Key, Lane};
