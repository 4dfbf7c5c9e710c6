#![no_main]
//! See `properties::dns_answer`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::dns_answer::check(input));
