#![no_main]
//! See `properties::forward`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::forward::check(input));
