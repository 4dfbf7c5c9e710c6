#![no_main]
//! See `properties::ap_rep`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::ap_rep::check(input));
