//! An egress gateway that proves an NTLM identity to an upstream HTTP proxy.
#![forbid(unsafe_code)]

pub mod event;
pub mod fault;
pub mod http;
pub mod limits;
pub mod ntlm;
pub mod relay;
