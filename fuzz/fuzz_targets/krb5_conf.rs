#![no_main]
//! See `properties::krb5_conf`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::krb5_conf::check(input));
