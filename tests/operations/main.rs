//! What surrounds a running gateway: deployment files, Prometheus and rolling restarts.

#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod chart;
mod deploy;
mod packages;
mod prometheus;
mod rolling;
mod shells;
