#![no_main]
//! See `properties::kdc_request`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::kdc_request::check(input));
