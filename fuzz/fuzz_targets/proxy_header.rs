#![no_main]
//! See `properties::proxy_header`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::proxy_header::check(input));
