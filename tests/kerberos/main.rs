//! Kerberos against MIT's KDC and library and against a domain controller of Samba, which share nothing with our code.

#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod active_directory;
mod choice;
mod commands;
mod exchanges;
mod names;
mod proxy;
mod stub;
