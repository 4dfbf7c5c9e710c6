//! `ntlm-gateway`
fn main() {}
