#![no_main]
//! See `properties::request_head`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::request_head::check(input));
