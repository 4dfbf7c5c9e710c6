//! Faults: how each is reported (`answers`), and faults of everything below the gateway: the upstream's connections,
//! names, descriptors, pipes, memory, files, time and the gateway's own threads. After each fault no resources are
//! leaked, and traffic flows.

#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod answers;
mod clock;
mod cuts;
mod machine;
mod memory;
mod names;
mod panic;

use ntlm_gateway::stub::{StubOptions, StubServer};
use support::in_process::ACCOUNT;

fn stub() -> StubServer {
    let (domain, user, password) = ACCOUNT;
    StubServer::start(StubOptions::default().account(domain, user, password)).expect("a stub")
}
