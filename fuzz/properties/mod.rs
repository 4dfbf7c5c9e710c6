//! Properties that must hold for every parser of a peer's bytes, whatever the bytes are.
//!
//! One module per entry point. Its `check` asserts the property for one input and documents the input's format; its
//! `seeds` are inputs that reach deep into the code. The fuzz targets call `check` with libFuzzer's inputs; the
//! gateway's test `corpus` calls it with the seeds and every file under `fuzz/corpus`, so that a regression is found
//! without a fuzzer.

pub mod ap_rep;
pub mod authenticate_message;
pub mod av_pairs;
pub mod base64_token;
pub mod certificate;
pub mod challenge_message;
pub mod challenges;
pub mod chunked;
pub mod client_hello;
pub mod config;
pub mod dns_answer;
pub mod forward;
pub mod forward_heads;
pub mod handshake;
pub mod kdc_reply;
pub mod kdc_request;
pub mod keytab;
pub mod krb5_conf;
pub mod messages;
pub mod neg_token_resp;
pub mod negotiate_message;
pub mod parties;
pub mod pieces;
pub mod proxy_header;
pub mod request_head;
pub mod response_head;
pub mod socks;
pub mod spnego;
#[path = "../../src/http/trace.rs"]
mod trace;
pub mod transparent;

/// A property with its name and seeds.
pub struct Target {
    /// The name of the fuzz target and of its folder in the corpus.
    pub name: &'static str,
    /// Panics if the property does not hold.
    pub check: fn(&[u8]),
    /// Initial inputs.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

macro_rules! targets {
    ($($name:ident)*) => {
        /// All properties.
        pub const TARGETS: &[Target] =
            &[$(Target { name: stringify!($name), check: $name::check, seeds: $name::seeds }),*];
    };
}

targets! {
    ap_rep authenticate_message av_pairs base64_token certificate challenge_message challenges chunked client_hello
    config dns_answer forward handshake kdc_reply kdc_request keytab krb5_conf neg_token_resp negotiate_message
    proxy_header request_head response_head socks spnego transparent
}
