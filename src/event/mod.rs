//! Primitives of the event loop that know nothing of sessions.

mod alarm;
mod buffer;
mod clock;
mod head_reader;
mod mailbox;
mod poll_events;
mod slots;
mod timers;
mod token;
mod wait_list;

pub use alarm::Alarm;
pub use buffer::{SpareBuffers, take_front};
pub use clock::Clock;
pub use head_reader::{HeadReader, ReadOutcome};
pub use mailbox::{Mailbox, Sender, mailbox};
pub use poll_events::PollEvents;
pub use slots::{Slots, Vacancy};
pub use timers::{Deadline, TICK_MS, Timers};
pub use token::{DIALS, EventToken, Key, Lane, Owner};
pub use wait_list::{Seat, WaitList};
