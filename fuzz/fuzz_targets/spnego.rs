#![no_main]
//! See `properties::spnego`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::spnego::check(input));
