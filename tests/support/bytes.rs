//! Pseudo-random bytes from a seed, which reveal lost, duplicated and misplaced bytes.

/// `length` bytes of a xorshift generator seeded with `seed`.
pub fn pseudo_random(seed: u64, length: usize) -> Vec<u8> {
    // Zero is the one state a xorshift never leaves.
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Panics unless the two are equal. The message gives the first difference instead of megabytes.
#[track_caller]
pub fn assert_same(got: &[u8], expected: &[u8], what: &str) {
    let differs = got.iter().zip(expected).position(|(a, b)| a != b);
    assert!(
        differs.is_none() && got.len() == expected.len(),
        "{what}: {} bytes, expected {}; first difference at {differs:?}",
        got.len(),
        expected.len()
    );
}
