#![no_main]
//! See `properties::handshake`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::handshake::check(input));
