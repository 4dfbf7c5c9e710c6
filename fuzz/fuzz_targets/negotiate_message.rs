#![no_main]
//! See `properties::negotiate_message`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::negotiate_message::check(input));
