//! Upstream connections without a client: pre-challenged, kept alive between requests, and waiting for a verdict.

pub mod keep_alive;
pub mod pre_challenged;
pub mod unattended;

mod challenge_request;
