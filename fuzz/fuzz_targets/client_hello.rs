#![no_main]
//! See `properties::client_hello`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::client_hello::check(input));
