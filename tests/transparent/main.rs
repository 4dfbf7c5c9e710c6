//! Clients that know of no proxy, in network namespaces that the test makes: a pod, a gateway and a corporate network.

#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod clients;
mod hostile;
mod network;
mod policy;
mod sidecar;
