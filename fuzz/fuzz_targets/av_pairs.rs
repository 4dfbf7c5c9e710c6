#![no_main]
//! See `properties::av_pairs`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::av_pairs::check(input));
