//! An egress gateway that proves an NTLM identity to an upstream HTTP proxy, so that workloads need not.
//!
//! ```text
//!   accept → read request head → route → dial upstream → NTLM auth → answer the client → relay → close
//!   shard    http                route   session          auth        session              relay   session
//! ```
//!
//! The dependency rule: `cli → supervisor → gateway → shard → session → {auth, relay, upstream, event}`;
//! `auth → {ntlm, http}`. `ntlm` and `http` know nothing of the rest, of sockets, clocks or mio.
#![forbid(unsafe_code)]

pub mod admin;
pub mod auth;
pub mod cli;
pub mod config;
pub mod egress;
pub mod event;
pub mod fault;
pub mod forward;
pub mod gateway;
pub mod http;
pub mod inspect;
pub mod limits;
pub mod logging;
pub mod metrics;
pub mod notify;
pub mod ntlm;
pub mod relay;
pub mod route;
pub mod session;
pub mod shard;
#[cfg(test)]
mod sim;
pub mod stub;
pub mod supervisor;
pub mod upstream;
pub mod watch;
