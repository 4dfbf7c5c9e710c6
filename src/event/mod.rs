//! Primitives of the event loop that know nothing of sessions.

mod buffer;
mod connect;
mod head_reader;
mod mailbox;
mod pipe;
mod readiness;
mod slots;
mod stream;
mod timers;
mod token;
mod wait_list;

pub use buffer::take_front;
pub use connect::SocketOptions;
pub use head_reader::{Got, HeadReader};
pub use mailbox::{Mailbox, Sender, mailbox};
pub use pipe::Pipe;
pub use readiness::{Endpoint, Readiness, Signs};
pub use slots::{Slots, Vacancy};
pub use stream::{KeepAlive, Listener, Stream, bound_buffers, keep_alive};
pub use timers::{Deadline, TICK_MS, Timers};
pub use token::{DIALS, EventToken, Key, Lane, Owner};
pub use wait_list::{Seat, WaitList};
