//! A text that several gateways share, so that they spend one budget of logon attempts together.

pub mod cell;
pub mod kubernetes;
