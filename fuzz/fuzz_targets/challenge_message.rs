#![no_main]
//! See `properties::challenge_message`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::challenge_message::check(input));
