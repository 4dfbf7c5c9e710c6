//! One thread: a poll, its listeners, a slab of tunnels.

mod accept;
mod listener;
mod message;
mod run;

pub use accept::{Gate, GateRules};
pub use listener::{Listeners, bind};
pub use message::{Described, Message};
pub use run::{Shard, ShardOptions};
