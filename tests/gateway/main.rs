//! The gateway between clients and upstreams: tunnels, authentication, failover, identities, routes, the process.

#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod byte_stream;
mod challenge;
mod command_line;
mod failover;
mod forwards;
mod guard;
mod guard_command;
mod identities;
mod import;
mod kubernetes_store;
mod lifecycle;
mod loops;
mod one_destination;
mod pre_challenged;
mod probe;
mod process;
mod proxy_protocol;
mod real_clients;
mod real_squid;
mod rig;
mod rotation;
mod routes;
mod secrets;
mod service;
mod shards;
mod silent_peers;
mod socks;
mod socks_clients;
mod squid_restart;
mod upstreams;
mod watching;
