#![no_main]
//! See `properties::transparent`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::transparent::check(input));
