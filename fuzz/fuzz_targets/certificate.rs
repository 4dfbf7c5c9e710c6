#![no_main]
//! See `properties::certificate`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::certificate::check(input));
