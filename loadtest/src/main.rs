//! The load-test harness of `ntlm-gateway`.
fn main() {}
