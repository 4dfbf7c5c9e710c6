//! An egress gateway that authenticates to an upstream NTLM proxy, so that workloads do not have to.
//!
//! ```text
//!   accept → read request    → choose route → select hop → connect → authenticate → reply → relay | exchange → linger
//!   shard    client_protocol   route          egress       transport auth                   relay   forward
//!            └──────────────────────────────── session: the stages ────────────────────────────────────────────┘
//! ```
//!
//! # Dependency rule
//!
//! A module may use the modules to the right of its arrow, and `limits`, `timeouts` and `calendar`, but no others:
//!
//! ```text
//!   main       → cli
//!   cli        → supervisor, gateway, guard_store, stub, config, logging, auth, upstream, transport, metrics, fault, http, ntlm, kerberos, tickets
//!   supervisor → gateway, watch, notify, config
//!   gateway    → shard, admin, inspect, guard_store, tickets, session, egress, auth, upstream, transport, tls, event, metrics, config, kerberos, logging
//!   inspect    → shard, session
//!   shard      → session, pool, relay, route, upstream, transport, event, metrics, fault
//!   session    → client_protocol, pool, egress, route, forward, auth, relay, upstream, transport, event, metrics, fault, http, logging
//!   pool       → egress, auth, forward, upstream, transport, event, metrics, http
//!   egress     → client_protocol, upstream, transport, auth, route, metrics, fault, http, ntlm
//!   client_protocol → auth, forward, http, fault
//!   metrics    → relay, upstream, fault
//!   guard_store → upstream
//!   relay, event, upstream → transport
//!   transport  → tls
//!   auth       → forward, ntlm, kerberos, http, fault
//!   config     → client_protocol, guard_store, egress, upstream, transport, tls, auth, route, kerberos, tickets, ntlm
//!   logging    → config
//!   stub       → transport, event, ntlm, kerberos, http
//!   tickets    → auth, kerberos, fault
//!   fault      → http, tls
//!   forward, route, admin → http
//! ```
//!
//! `ntlm`, `kerberos`, `http` and `forward` are pure: bytes in, bytes out, without sockets, clocks or mio.
//! `tests/project/architecture.rs` enforces the rule.
#![forbid(unsafe_code)]

pub mod admin;
pub mod auth;
pub mod calendar;
pub mod cli;
pub mod client_protocol;
pub mod config;
pub mod egress;
pub mod event;
pub mod fault;
pub mod forward;
pub mod gateway;
pub mod guard_store;
pub mod http;
pub mod inspect;
pub mod kerberos;
pub mod limits;
pub mod logging;
pub mod metrics;
pub mod notify;
pub mod ntlm;
pub mod pool;
pub mod relay;
pub mod route;
pub mod session;
pub mod shard;
#[cfg(test)]
mod sim;
pub mod stub;
pub mod supervisor;
pub mod tickets;
pub mod timeouts;
pub mod tls;
pub mod transport;
pub mod upstream;
pub mod watch;
