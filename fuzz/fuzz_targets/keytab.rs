#![no_main]
//! See `properties::keytab`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::keytab::check(input));
