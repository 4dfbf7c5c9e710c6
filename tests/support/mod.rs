//! What the tests on real software share: servers that end with the test, clients with a bounded time, and the
//! gateway under test.
//!
//! Nothing here has a fixed port or a fixed directory, and every process started is bounded twice: by a guard that
//! ends it when the test ends, panics included, and by `timeout` should the test process itself be killed.
#![allow(dead_code, reason = "each test binary uses its own part of the support code")]

pub mod bytes;
pub mod cgi;
pub mod cgroup;
pub mod client;
pub mod command;
pub mod cutter;
pub mod fake_clock;
pub mod gateway;
pub mod in_process;
pub mod listener;
pub mod metrics;
pub mod mount;
pub mod name_server;
pub mod origin;
pub mod plain;
pub mod process;
pub mod scratch;
pub mod squid;
pub mod tap;
pub mod toolbox;
#[macro_use]
pub mod tools;
pub mod upstream;
pub mod vitals;
pub mod web;
pub mod wire;

/// The user and the secret that every real or stub verifier here accepts.
pub const USER: &str = r"CORP\alice";
/// The secret of [`USER`].
pub const PASSWORD: &str = "SecREt01";
