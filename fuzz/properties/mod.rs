//! What must hold of everything that reads a peer's bytes, whatever they are.
//!
//! A module an entry point. Its `check` asserts the property for one input, and says how the input is read; its `seeds`
//! are inputs that go deep. The fuzz targets call `check` with what libFuzzer makes up; the gateway's test `corpus` calls it with
//! the seeds and with every file under `fuzz/corpus`, so that what was found once stays found without a fuzzer.

pub mod authenticate_message;
pub mod av_pairs;
pub mod base64_token;
pub mod challenge_message;
pub mod challenges;
pub mod chunked;
pub mod config;
pub mod forward;
pub mod forward_heads;
pub mod handshake;
pub mod messages;
pub mod negotiate_message;
pub mod parties;
pub mod pieces;
pub mod request_head;
pub mod response_head;
pub mod spnego;
#[path = "../../src/http/trace.rs"]
mod trace;

/// A property with its name and its seeds.
pub struct Target {
    /// The fuzz target's name, and that of its folder in the corpus.
    pub name: &'static str,
    /// Panics where the property does not hold.
    pub check: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

macro_rules! targets {
    ($($name:ident)*) => {
        /// Every property.
        pub const TARGETS: &[Target] =
            &[$(Target { name: stringify!($name), check: $name::check, seeds: $name::seeds }),*];
    };
}

targets! {
    authenticate_message av_pairs base64_token challenge_message challenges chunked config forward handshake
    negotiate_message request_head response_head spnego
}
