//! An egress gateway that proves an NTLM identity to an upstream HTTP proxy, so that workloads need not.
//!
//! ```text
//!   accept → read request head → route → dial upstream → NTLM handshake → answer the client → relay → close
//!   shard    http                route   tunnel          handshake        tunnel              relay   tunnel
//! ```
//!
//! The dependency rule: `cli → supervisor → gateway → shard → tunnel → {handshake, relay, upstream, event}`;
//! `handshake → {ntlm, http}`. `ntlm` and `http` know nothing of the rest, of sockets, clocks or mio.
#![forbid(unsafe_code)]

pub mod admin;
pub mod cli;
pub mod config;
pub mod event;
pub mod fault;
pub mod fleet;
pub mod forward;
pub mod gateway;
pub mod handshake;
pub mod http;
pub mod inspect;
pub mod limits;
pub mod logging;
pub mod metrics;
pub mod notify;
pub mod ntlm;
pub mod relay;
pub mod route;
pub mod shard;
#[cfg(test)]
mod sim;
pub mod stub;
pub mod supervisor;
pub mod tunnel;
pub mod upstream;
pub mod watch;
