//! Tests of the store: its rules explored exhaustively, whole fleets in virtual time, the thread, and
//! commands.

mod direct;
mod fleet;
mod model;
mod record;
mod thread;

use crate::upstream::GuardPolicy;

fn policy(attempts: usize) -> GuardPolicy {
    GuardPolicy { attempts, ..GuardPolicy::default() }
}
