//! One thread: a poll, its listeners, a slab of tunnels.

mod admission;
mod listener;
mod message;
mod queue;
mod run;

pub use admission::{Entry, Gate, GateRules, GiveWay};
pub use listener::{Listeners, bind};
pub use message::{Described, Message};
pub use run::{Shard, ShardOptions};
