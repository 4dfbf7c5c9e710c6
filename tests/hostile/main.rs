//! Clients that harm. In a binary of its own: Cargo runs nothing beside it, and it measures what other clients notice.

#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod bounds;
mod clients;
mod fairness;
mod idle;
mod memory;
