//! DER (X.690), as far as Kerberos and its GSS-API tokens use it: tags of one byte, definite lengths.

use zeroize::Zeroizing;

use super::error::DecodeError;
use super::time::Timestamp;

pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(super) const GENERALIZED_TIME: u8 = 0x18;
pub(super) const GENERAL_STRING: u8 = 0x1b;
pub(super) const SEQUENCE: u8 = 0x30;

/// The tag of `[number]`, constructed; `number` is below 31.
pub(super) const fn context(number: u8) -> u8 {
    0xa0 | number
}

/// The tag of `[APPLICATION number]`, constructed; `number` is below 31.
pub(super) const fn application(number: u8) -> u8 {
    0x60 | number
}

/// Reads elements one after the other. What follows the fields that a caller knows is left unread, as ASN.1's
/// extensibility demands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

/// An element with and without its tag and length.
struct Element<'a> {
    encoding: &'a [u8],
    content: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// What has not been read.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The content of the next element if it has this tag; `None` if it has another or there is none.
    pub(super) fn optional(&mut self, tag: u8) -> Result<Option<&'a [u8]>, DecodeError> {
        Ok(self.whole(tag)?.map(|element| element.content))
    }

    /// The next element, which must have this tag, with tag and length.
    pub(super) fn encoding(&mut self, tag: u8) -> Result<&'a [u8], DecodeError> {
        self.whole(tag)?.map(|element| element.encoding).ok_or(DecodeError::Missing { tag })
    }

    /// The content of the next element, which must have this tag.
    pub(super) fn element(&mut self, tag: u8) -> Result<&'a [u8], DecodeError> {
        self.optional(tag)?.ok_or(DecodeError::Missing { tag })
    }

    /// As [`Reader::element`], to be read further.
    pub(super) fn enter(&mut self, tag: u8) -> Result<Reader<'a>, DecodeError> {
        self.element(tag).map(Reader::new)
    }

    /// As [`Reader::optional`], to be read further.
    pub(super) fn enter_optional(&mut self, tag: u8) -> Result<Option<Reader<'a>>, DecodeError> {
        Ok(self.optional(tag)?.map(Reader::new))
    }

    /// The next element with this tag.
    fn whole(&mut self, tag: u8) -> Result<Option<Element<'a>>, DecodeError> {
        let before = self.rest;
        let Some((&found, rest)) = before.split_first() else { return Ok(None) };
        if found != tag {
            return Ok(None);
        }
        let (length, rest) = length(rest)?;
        let (content, rest) = rest.split_at_checked(length).ok_or(DecodeError::Length)?;
        self.rest = rest;
        Ok(Some(Element { encoding: &before[..before.len() - rest.len()], content }))
    }

    /// `[number] INTEGER`.
    pub(super) fn integer(&mut self, number: u8) -> Result<i64, DecodeError> {
        self.optional_integer(number)?.ok_or(DecodeError::Missing { tag: context(number) })
    }

    /// `[number] INTEGER OPTIONAL`.
    pub(super) fn optional_integer(&mut self, number: u8) -> Result<Option<i64>, DecodeError> {
        let Some(mut field) = self.enter_optional(context(number))? else { return Ok(None) };
        integer(field.element(INTEGER)?).map(Some)
    }

    /// `[number] OCTET STRING`.
    pub(super) fn octets(&mut self, number: u8) -> Result<&'a [u8], DecodeError> {
        self.enter(context(number))?.element(OCTET_STRING)
    }

    /// `[number] KerberosString`. UTF-8 is accepted, as every KDC sends it.
    pub(super) fn string(&mut self, number: u8) -> Result<&'a str, DecodeError> {
        text(self.enter(context(number))?.element(GENERAL_STRING)?)
    }

    /// `[number] KerberosTime`.
    pub(super) fn time(&mut self, number: u8) -> Result<Timestamp, DecodeError> {
        self.optional_time(number)?.ok_or(DecodeError::Missing { tag: context(number) })
    }

    /// `[number] KerberosTime OPTIONAL`.
    pub(super) fn optional_time(&mut self, number: u8) -> Result<Option<Timestamp>, DecodeError> {
        let Some(mut field) = self.enter_optional(context(number))? else { return Ok(None) };
        Timestamp::parse(field.element(GENERALIZED_TIME)?).map(Some).ok_or(DecodeError::Time)
    }

    /// `[number] KerberosFlags`: the first 32 bits, the first one the highest.
    pub(super) fn flags(&mut self, number: u8) -> Result<u32, DecodeError> {
        let [_, bits @ ..] = self.enter(context(number))?.element(BIT_STRING)? else { return Err(DecodeError::Length) };
        let byte = |place: usize| bits.get(place).copied().unwrap_or_default();
        Ok(u32::from_be_bytes([byte(0), byte(1), byte(2), byte(3)]))
    }

    /// Skips `[number]` if it is there.
    pub(super) fn skip(&mut self, number: u8) -> Result<(), DecodeError> {
        self.optional(context(number)).map(|_| ())
    }
}

/// The text of a KerberosString.
pub(super) fn text(bytes: &[u8]) -> Result<&str, DecodeError> {
    str::from_utf8(bytes).map_err(|_| DecodeError::Text)
}

fn length(bytes: &[u8]) -> Result<(usize, &[u8]), DecodeError> {
    let (&first, rest) = bytes.split_first().ok_or(DecodeError::Length)?;
    if first < 0x80 {
        return Ok((usize::from(first), rest));
    }
    let count = usize::from(first - 0x80);
    // Zero is the indefinite form, which DER does not have. No message has 16 MiB.
    if !(1..=4).contains(&count) {
        return Err(DecodeError::Length);
    }
    let (digits, rest) = rest.split_at_checked(count).ok_or(DecodeError::Length)?;
    Ok((digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest))
}

/// The value of an INTEGER.
pub(super) fn integer(content: &[u8]) -> Result<i64, DecodeError> {
    let (&first, _) = content.split_first().ok_or(DecodeError::Integer)?;
    if content.len() > 8 {
        return Err(DecodeError::Integer);
    }
    let sign = if first >= 0x80 { -1 } else { 0 };
    Ok(content.iter().fold(sign, |value, byte| value << 8 | i64::from(*byte)))
}

/// Writes elements. What it has written is overwritten when it is dropped, because authenticators contain keys.
pub(super) struct Writer {
    out: Zeroizing<Vec<u8>>,
}

impl Writer {
    /// A writer for about `capacity` bytes. A secret result must have at most `capacity` bytes, because a buffer that
    /// grows leaves a copy behind.
    pub(super) fn with_capacity(capacity: usize) -> Writer {
        Writer { out: Zeroizing::new(Vec::with_capacity(capacity)) }
    }

    pub(super) fn into_secret(self) -> Zeroizing<Vec<u8>> {
        self.out
    }

    pub(super) fn into_bytes(mut self) -> Vec<u8> {
        std::mem::take(&mut *self.out)
    }

    /// An element whose content `write` writes.
    pub(super) fn element(&mut self, tag: u8, write: impl FnOnce(&mut Writer)) {
        let start = self.out.len();
        // Most elements are short, so there is room for a length of one byte.
        self.out.extend([tag, 0]);
        write(self);
        let end = self.out.len();
        let (header, used) = header(tag, end - start - 2);
        if used > 2 {
            self.out.resize(end + used - 2, 0);
            self.out.copy_within(start + 2..end, start + used);
        }
        self.out[start..start + used].copy_from_slice(&header[..used]);
    }

    /// An element with this content.
    pub(super) fn bytes(&mut self, tag: u8, content: &[u8]) {
        let (header, used) = header(tag, content.len());
        self.out.extend_from_slice(&header[..used]);
        self.out.extend_from_slice(content);
    }

    /// What is already encoded.
    pub(super) fn raw(&mut self, encoded: &[u8]) {
        self.out.extend_from_slice(encoded);
    }

    pub(super) fn plain_integer(&mut self, value: i64) {
        // The bits after the sign that are the same as the sign say nothing, as far as they fill bytes.
        let redundant_bits = (value ^ (value >> 63)).leading_zeros() - 1;
        let skipped = (redundant_bits / 8).min(7) as usize;
        self.bytes(INTEGER, &value.to_be_bytes()[skipped..]);
    }

    /// `[number] INTEGER`.
    pub(super) fn integer(&mut self, number: u8, value: impl Into<i64>) {
        let value = value.into();
        self.element(context(number), |out| out.plain_integer(value));
    }

    /// `[number] OCTET STRING`.
    pub(super) fn octets(&mut self, number: u8, content: &[u8]) {
        self.element(context(number), |out| out.bytes(OCTET_STRING, content));
    }

    /// `[number] KerberosString`.
    pub(super) fn string(&mut self, number: u8, text: &str) {
        self.element(context(number), |out| out.bytes(GENERAL_STRING, text.as_bytes()));
    }

    /// `[number] KerberosTime`.
    pub(super) fn time(&mut self, number: u8, time: Timestamp) {
        self.element(context(number), |out| out.bytes(GENERALIZED_TIME, &time.to_text()));
    }

    /// `[number] KerberosFlags`: 32 bits, the first one the highest.
    pub(super) fn flags(&mut self, number: u8, flags: u32) {
        let [a, b, c, d] = flags.to_be_bytes();
        self.element(context(number), |out| out.bytes(BIT_STRING, &[0, a, b, c, d]));
    }
}

/// Tag and length, and how many bytes of the array they are.
fn header(tag: u8, length: usize) -> ([u8; 6], usize) {
    let [.., a, b, c, d] = (length as u64).to_be_bytes();
    match (a, b, c, d) {
        (0, 0, 0, 0..0x80) => ([tag, d, 0, 0, 0, 0], 2),
        (0, 0, 0, _) => ([tag, 0x81, d, 0, 0, 0], 3),
        (0, 0, _, _) => ([tag, 0x82, c, d, 0, 0], 4),
        (0, _, _, _) => ([tag, 0x83, b, c, d, 0], 5),
        _ => ([tag, 0x84, a, b, c, d], 6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_written_in_their_shortest_form_and_read_back() {
        for (value, encoded) in [
            (0, &[2, 1, 0][..]),
            (127, &[2, 1, 0x7f]),
            (128, &[2, 2, 0, 0x80]),
            (-128, &[2, 1, 0x80]),
            (-138, &[2, 2, 0xff, 0x76]),
            (0x7fff_ffff, &[2, 4, 0x7f, 0xff, 0xff, 0xff]),
            (0xffff_ffff, &[2, 5, 0, 0xff, 0xff, 0xff, 0xff]),
            (i64::MIN, &[2, 8, 0x80, 0, 0, 0, 0, 0, 0, 0]),
        ] {
            let mut writer = Writer::with_capacity(16);
            writer.plain_integer(value);
            let written = writer.into_bytes();
            assert_eq!(written, encoded, "{value}");
            assert_eq!(integer(Reader::new(&written).element(INTEGER).unwrap()), Ok(value));
        }
        assert_eq!(integer(&[0; 9]), Err(DecodeError::Integer));
        assert_eq!(integer(&[]), Err(DecodeError::Integer));
    }

    #[test]
    fn elements_of_any_length_are_read_back() {
        for length in [0, 1, 0x7f, 0x80, 0xff, 0x100, 0xffff, 0x1_0000] {
            let content = vec![7; length];
            let mut writer = Writer::with_capacity(0);
            writer.element(SEQUENCE, |out| out.bytes(OCTET_STRING, &content));
            let written = writer.into_bytes();
            let mut reader = Reader::new(&written);
            assert_eq!(reader.enter(SEQUENCE).unwrap().element(OCTET_STRING), Ok(&content[..]), "{length}");
            assert!(reader.is_empty());
        }
    }

    #[test]
    fn lengths_beyond_the_input_and_indefinite_lengths_are_rejected() {
        for bytes in [&[0x30][..], &[0x30, 1], &[0x30, 0x80, 0, 0], &[0x30, 0x85, 0, 0, 0, 0, 0], &[0x30, 0x82, 0]] {
            assert_eq!(Reader::new(bytes).element(SEQUENCE), Err(DecodeError::Length), "{bytes:?}");
        }
        assert_eq!(Reader::new(&[]).element(SEQUENCE), Err(DecodeError::Missing { tag: SEQUENCE }));
        assert_eq!(Reader::new(&[0x30, 0xff, 0xff]).optional(INTEGER), Ok(None));
    }
}
