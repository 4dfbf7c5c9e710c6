//! Tests of the store: its rules explored exhaustively, whole fleets in virtual time, and the thread.

mod fleet;
mod model;
mod record;
mod thread;

use crate::upstream::GuardPolicy;

fn policy(attempts: usize) -> GuardPolicy {
    GuardPolicy { attempts, ..GuardPolicy::default() }
}
