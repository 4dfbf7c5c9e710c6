//! TLS to upstreams against programs that share no code with it: openssl, curl, pyspnego and Python's ssl.

#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod bindings;
mod certificates;
mod peers;
mod probe;
mod proxy;
mod reload;
mod renegotiation;
mod streams;
