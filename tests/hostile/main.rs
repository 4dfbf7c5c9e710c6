//! Hostile clients. A test binary of its own, because Cargo runs nothing beside it while it measures the effect on
//! other clients.

#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod bounds;
mod clients;
mod fairness;
mod idle;
mod memory;
mod protocols;
