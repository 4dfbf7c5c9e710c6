//! Shared support for tests with real software: servers that end with the test, clients with time limits, and the
//! gateway under test.
//!
//! Nothing uses a fixed port or a fixed directory. Every process is bounded twice: a guard ends it with the test, even
//! after a panic, and `timeout` ends it if the test process itself is killed.
#![allow(dead_code, reason = "each test binary uses a different part of the support code")]

pub mod bytes;
pub mod certificates;
pub mod cgi;
pub mod cgroup;
pub mod client;
pub mod command;
pub mod cutter;
pub mod domain;
pub mod fake_clock;
pub mod gateway;
pub mod git;
pub mod in_process;
pub mod kdc;
pub mod kubernetes;
pub mod listener;
pub mod metrics;
pub mod mount;
pub mod name_server;
pub mod namespaces;
pub mod origin;
pub mod plain;
pub mod process;
pub mod scratch;
pub mod socks;
pub mod squid;
pub mod tap;
pub mod toolbox;
#[macro_use]
pub mod tools;
pub mod upstream;
pub mod vitals;
pub mod web;
pub mod wheel;
pub mod wire;

/// The user that Squid and the gateways under test are configured with.
pub const USER: &str = r"CORP\alice";
/// The password of [`USER`].
pub const PASSWORD: &str = "SecREt01";
