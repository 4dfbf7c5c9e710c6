#![no_main]
//! See `properties::authenticate_message`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::authenticate_message::check(input));
