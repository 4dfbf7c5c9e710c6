//! Clients that know of no proxy: their connections are redirected to the gateway, which finds out where to from what
//! they say to their origin.

mod client_hello;
mod hello_records;

pub use client_hello::{HelloError, ServerName};
pub use hello_records::HelloReader;

#[cfg(test)]
mod client_hello_tests;
