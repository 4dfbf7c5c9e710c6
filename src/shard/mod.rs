//! One thread: a poll, its listeners, a slab of tunnels.

mod accept;
mod listener;
mod message;
mod queue;
mod run;

pub use accept::{Entry, Gate, GateRules, GiveWay};
pub use listener::{Listeners, bind};
pub use message::{Described, Message};
pub use run::{Shard, ShardOptions};
