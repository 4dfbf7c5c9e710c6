#![no_main]
//! See `properties::challenges`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::challenges::check(input));
