//! An egress gateway that proves an NTLM identity to an upstream HTTP proxy.
#![forbid(unsafe_code)]

pub mod http;
pub mod ntlm;
