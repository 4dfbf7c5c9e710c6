#![no_main]
//! See `properties::config`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::config::check(input));
