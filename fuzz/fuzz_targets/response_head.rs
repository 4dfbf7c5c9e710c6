#![no_main]
//! See `properties::response_head`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::response_head::check(input));
