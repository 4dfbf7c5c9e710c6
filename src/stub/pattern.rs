//! The bytes that sources send and clients check, and the checksum that sinks compute.

use std::sync::OnceLock;

/// Period of the pattern in bytes. It is 8 times a prime: if a buffer with the size of a power of two is lost or
/// duplicated, the pattern is shifted, so the error is detected.
pub const PATTERN_PERIOD_BYTES: usize = PERIOD_WORDS * 8;

const PERIOD_WORDS: usize = 8191;

/// Periods in the block that sources send from: about 512 KiB, the most that one write gets.
const BLOCK_PERIODS: usize = 8;

/// 2^64 divided by the golden ratio, made odd: spreads a counter over all bits.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The byte at `offset` of the pattern, which is endless.
#[must_use]
pub fn pattern_at(offset: u64) -> u8 {
    pattern_block(offset).first().copied().unwrap_or_default()
}

/// Fills `buffer` with the pattern from `offset` on.
pub fn fill_pattern(buffer: &mut [u8], mut offset: u64) {
    let mut rest = buffer;
    while !rest.is_empty() {
        let block = pattern_block(offset);
        let length = block.len().min(rest.len());
        let (now, later) = rest.split_at_mut(length);
        now.copy_from_slice(&block[..length]);
        offset += length as u64;
        rest = later;
    }
}

/// The offset at which `bytes`, received at `offset` of the pattern, first differ from it; `None` if they do not.
#[must_use]
pub fn pattern_mismatch(bytes: &[u8], mut offset: u64) -> Option<u64> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let block = pattern_block(offset);
        let (now, later) = rest.split_at(block.len().min(rest.len()));
        if now != &block[..now.len()] {
            let place = now.iter().zip(block).position(|(got, expected)| got != expected);
            return Some(offset + place.unwrap_or_default() as u64);
        }
        offset += now.len() as u64;
        rest = later;
    }
    None
}

/// The pattern from `offset` on, at least seven periods of it, from a block that is generated once.
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "a remainder of the period fits")]
pub fn pattern_block(offset: u64) -> &'static [u8] {
    &whole_block()[(offset % PATTERN_PERIOD_BYTES as u64) as usize..]
}

/// A whole number of periods, to be sent repeatedly.
pub(super) fn whole_block() -> &'static [u8] {
    static BLOCK: OnceLock<Vec<u8>> = OnceLock::new();
    BLOCK.get_or_init(|| {
        let words = (1..=PERIOD_WORDS as u64).map(|number| number.wrapping_mul(SPREAD));
        let period: Vec<u8> = words.flat_map(|word| (word ^ word >> 29).to_le_bytes()).collect();
        period.repeat(BLOCK_PERIODS)
    })
}

/// A cheap checksum that does not depend on how the bytes are split into pieces. Not cryptographic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checksum {
    state: u64,
    count: u64,
    /// The bytes after the last whole word, little-endian; their number is `count % 8`.
    partial: u64,
}

impl Checksum {
    /// Adds the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !self.count.is_multiple_of(8) {
            let Some((first, rest)) = bytes.split_first() else { return };
            self.push(*first);
            bytes = rest;
        }
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.mix(u64::from_le_bytes(*word));
        }
        self.count += (words.len() * 8) as u64;
        for byte in rest {
            self.push(*byte);
        }
    }

    /// How many bytes were added.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The checksum of all bytes added, and of their number.
    #[must_use]
    pub fn value(&self) -> u64 {
        let mut end = *self;
        end.mix(self.partial);
        end.mix(self.count);
        end.state ^ end.state >> 32
    }

    fn push(&mut self, byte: u8) {
        self.partial |= u64::from(byte) << (self.count % 8 * 8);
        self.count += 1;
        if self.count.is_multiple_of(8) {
            self.mix(self.partial);
            self.partial = 0;
        }
    }

    fn mix(&mut self, word: u64) {
        self.state = (self.state.rotate_left(5) ^ word).wrapping_mul(SPREAD);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_buffer_of_any_power_of_two_is_detected() {
        for shift in 0..40 {
            let mut expected = [0; 64];
            let mut got = [0; 64];
            fill_pattern(&mut expected, 1_000);
            fill_pattern(&mut got, 1_000 + (1 << shift));
            assert_ne!(expected, got, "2^{shift} bytes lost");
        }
    }

    #[test]
    fn all_functions_agree_on_the_pattern() {
        let mut bytes = vec![0; 600_000];
        fill_pattern(&mut bytes, 77);
        for offset in [0, 1, 65_527, 65_528, 524_223, 524_224, 599_999] {
            assert_eq!(bytes[offset], pattern_at(77 + offset as u64));
        }
        assert_eq!(pattern_mismatch(&bytes, 77), None);
        bytes[530_001] ^= 1;
        assert_eq!(pattern_mismatch(&bytes, 77), Some(77 + 530_001));
    }

    #[test]
    fn a_checksum_depends_on_every_byte_but_not_on_the_pieces() {
        let mut bytes = vec![0; 1_001];
        fill_pattern(&mut bytes, 5);
        let sum = |bytes: &[u8], piece: usize| {
            let mut sum = Checksum::default();
            bytes.chunks(piece).for_each(|piece| sum.update(piece));
            assert_eq!(sum.count(), bytes.len() as u64);
            sum.value()
        };
        let whole = sum(&bytes, bytes.len());
        for piece in 1..40 {
            assert_eq!(sum(&bytes, piece), whole, "pieces of {piece}");
        }
        assert_ne!(sum(&bytes[..1_000], 9), whole);
        bytes.swap(500, 501);
        assert_ne!(sum(&bytes, 9), whole);
        assert_ne!(sum(&[0], 1), sum(&[0, 0], 1));
    }
}
