//! Faults of everything that the gateway stands on: the upstream's connections, names, descriptors, pipes, memory, files, time
//! and its own threads. After each it holds what it held before, and traffic flows.

#[path = "hard_faults/clock.rs"]
mod clock;
#[path = "hard_faults/cuts.rs"]
mod cuts;
#[path = "hard_faults/machine.rs"]
mod machine;
#[path = "hard_faults/memory.rs"]
mod memory;
#[path = "hard_faults/names.rs"]
mod names;
#[path = "hard_faults/panic.rs"]
mod panic;
mod support;

use ntlm_gateway::stub::{StubOptions, StubServer};
use support::in_process::ACCOUNT;

fn stub() -> StubServer {
    let (domain, user, password) = ACCOUNT;
    StubServer::start(StubOptions::default().account(domain, user, password)).expect("a stub")
}
