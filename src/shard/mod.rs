//! One thread: a poll, its listeners, its sessions.

mod admission;
mod balance;
mod listener;
mod message;
mod queue;
mod run;
mod run_queue;
mod throttle;

pub use admission::{AdmissionDecision, Eviction, Gate, GateRules};
pub use listener::{Listeners, Place, bind};
pub use message::{Described, Message};
pub use run::{Shard, ShardOptions};
