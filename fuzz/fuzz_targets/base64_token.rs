#![no_main]
//! See `properties::base64_token`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::base64_token::check(input));
