//! How far names, targets and values go, looked at in words of eight bytes.

use super::start_line::is_token_char;

/// The lowest bit of each byte of a word.
const ONES: u64 = u64::MAX / 255;

/// The highest bit of each byte of a word.
const TOPS: u64 = ONES << 7;

/// Has the highest bit of each byte that is less than `bound`, which is at most 0x80. In bytes above such a byte, the
/// bit may be wrong.
fn below(word: u64, bound: u8) -> u64 {
    word.wrapping_sub(ONES * u64::from(bound)) & !word & TOPS
}

/// Has the highest bit of each byte that equals `byte`. In bytes above such a byte, the bit may be wrong.
fn equal(word: u64, byte: u8) -> u64 {
    let difference = word ^ (ONES * u64::from(byte));
    difference.wrapping_sub(ONES) & !difference & TOPS
}

/// Has the highest bit of each byte that is neither a letter nor `-`.
fn rare_in_names(word: u64) -> u64 {
    // Without their highest bits, no byte overflows into the next one.
    let lower = (word | (ONES * 0x20)) & !TOPS;
    let letters = (lower + ONES * u64::from(0x80 - b'a')) & !(lower + ONES * u64::from(0x80 - b'z' - 1));
    let difference = (word & !TOPS) ^ (ONES * u64::from(b'-'));
    let dashes = !(difference + ONES * 0x7f);
    !(letters | dashes) & TOPS | word & TOPS
}

/// The length up to the first byte that `mark` marks, as the functions above do, or that `ends` says.
#[inline(always)]
fn length_to(bytes: &[u8], mark: impl Fn(u64) -> u64, ends: impl Fn(u8) -> bool) -> usize {
    let (words, rest) = bytes.as_chunks();
    for (place, word) in words.iter().enumerate() {
        let marked = mark(u64::from_le_bytes(*word));
        if marked != 0 {
            return place * 8 + (marked.trailing_zeros() / 8) as usize;
        }
    }
    words.len() * 8 + rest.iter().take_while(|byte| !ends(**byte)).count()
}

/// The length of the token at the start of `bytes`, such as a field name.
pub(super) fn token_length(bytes: &[u8]) -> usize {
    let mut length = length_to(bytes, rare_in_names, |byte| !is_token_char(byte));
    while bytes.get(length).is_some_and(|byte| is_token_char(*byte)) {
        length += 1;
    }
    length
}

/// The length of the request target at the start of `bytes`: visible ASCII without a fragment.
pub(super) fn target_length(bytes: &[u8]) -> usize {
    let marks = |word| below(word, b'!') | equal(word, b'#') | equal(word, 0x7f) | word & TOPS;
    length_to(bytes, marks, |byte| !is_target_char(byte))
}

/// Whether a target may contain this byte.
#[inline]
pub(super) fn is_target_char(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'#'
}

/// The length up to the first byte that neither a field value nor a reason phrase can contain, or of all bytes.
pub(super) fn value_length(bytes: &[u8]) -> usize {
    let ends = |byte: u8| byte.is_ascii_control() && byte != b'\t';
    let length = length_to(bytes, |word| below(word, b' ') | equal(word, 0x7f), ends);
    match bytes.get(length) {
        Some(b'\t') => length + bytes[length..].iter().take_while(|byte| !ends(**byte)).count(),
        _ => length,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares a function with one that looks at each byte, for each byte at each place.
    fn compare(length: impl Fn(&[u8]) -> usize, is_inside: impl Fn(u8) -> bool, inside: &[u8]) {
        for (place, byte, before) in (0..20)
            .flat_map(|place| (0..=u8::MAX).map(move |byte| (place, byte)))
            .flat_map(|(place, byte)| inside.iter().map(move |before| (place, byte, *before)))
        {
            for (after, fill) in [(0, 0), (3, b'\0'), (11, b'a'), (20, before), (20, 0xff)] {
                let bytes = [&vec![before; place][..], &[byte], &vec![fill; after][..]].concat();
                let expected = bytes.iter().take_while(|byte| is_inside(**byte)).count();
                assert_eq!(length(&bytes), expected, "{}", bytes.escape_ascii());
            }
        }
    }

    #[test]
    fn tokens_end_at_the_first_byte_that_is_not_of_a_token() {
        compare(token_length, is_token_char, b"aZ-09_.~");
    }

    #[test]
    fn targets_end_at_the_first_byte_that_is_not_of_a_target() {
        compare(target_length, is_target_char, b"/a~!\"$%");
    }

    #[test]
    fn values_end_at_the_first_control_character_but_tabs() {
        compare(value_length, |byte| !byte.is_ascii_control() || byte == b'\t', b"a \t~\x80\xff");
    }
}
