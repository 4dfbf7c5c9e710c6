//! Plain HTTP requests, which the gateway reads, authenticates and forwards individually.

#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod challenges;
mod clients;
mod differential;
mod hostile;
mod kept;
mod messages;
mod origin_auth;
mod plain;
mod streams;
