//! Primitives of the event loop that know nothing of tunnels.

mod mailbox;
mod readiness;
mod timers;
mod token;

pub use mailbox::{Mailbox, Sender, mailbox};
pub use readiness::{Endpoint, Readiness};
pub use timers::{Deadline, TICK_MS, Timers};
pub use token::{DIALS, EventToken, Key, Lane};
