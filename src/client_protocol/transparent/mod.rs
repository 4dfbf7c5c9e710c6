//! Clients that know of no proxy: their connections are redirected to the gateway, which finds out where to from what
//! they say to their origin.
//!
//! | the client begins with | its destination | it is told of a failure by |
//! |---|---|---|
//! | a ClientHello with a server name | that name | an alert |
//! | a ClientHello without | the address that it connected to | an alert |
//! | an HTTP/1 request | the host of each request | a response |
//! | anything else, or nothing for `timeouts.sniff` | the address that it connected to | a reset |
//!
//! The port is always the one that it connected to.

mod answer;
mod client_hello;
mod hello_records;
mod read;
mod sniff;

pub use answer::answer_tls;
pub use client_hello::{HelloError, ServerName};
pub use hello_records::HelloReader;
pub use read::RequestReader;

#[cfg(test)]
mod client_hello_tests;
#[cfg(test)]
mod tests;
