#![no_main]
//! See `properties::neg_token_resp`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::neg_token_resp::check(input));
