//! Kerberos against MIT's KDC and library, which share nothing with our code.

#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod choice;
mod commands;
mod exchanges;
mod proxy;
