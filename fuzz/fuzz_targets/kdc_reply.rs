#![no_main]
//! See `properties::kdc_reply`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::kdc_reply::check(input));
