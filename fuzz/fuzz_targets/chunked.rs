#![no_main]
//! See `properties::chunked`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::chunked::check(input));
