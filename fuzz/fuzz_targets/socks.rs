#![no_main]
//! See `properties::socks`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::socks::check(input));
