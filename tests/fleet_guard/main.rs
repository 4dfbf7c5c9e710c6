//! One budget of failed logons for gateways that share a store, whatever happens to them and to the store.

#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod crowd;
mod domain;
mod file_store;
mod fleet;
mod killed;
mod rotation;
mod shared_budget;
mod store_faults;
