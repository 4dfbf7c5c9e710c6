//! Separates data from framing in a chunked body (RFC 9112 §7.1).
//!
//! ```text
//!   Size ─(blank, ';')─▶ Extension ─(CR)─▶ SizeLf
//!     └───────────(CR)──────────────────────▲│
//!                                            ├(size > 0)─▶ Data ─▶ DataCr ─▶ DataLf ─▶ Size
//!                                            └(size = 0)─▶ TrailerStart ─(CR)─▶ FinalLf ─▶ Done
//!   TrailerStart ─▶ TrailerName ─(':')─▶ TrailerValue ─(CR)─▶ TrailerLf ─▶ TrailerStart
//! ```

use super::start_line::{is_blank, is_token_char};

/// The longest chunk-size line, in bytes, including extensions.
pub const CHUNK_LINE_LIMIT_BYTES: usize = 4096;

/// The longest trailer section, in bytes.
pub const TRAILER_LIMIT_BYTES: usize = 16 * 1024;

/// The most hexadecimal digits in a chunk size, including leading zeros.
const SIZE_DIGITS_MAX: usize = 16;

/// The largest chunk, in bytes. A larger number is negative to a parser that uses signed integers.
const SIZE_MAX: u64 = u64::MAX >> 1;

/// Why a chunked body is invalid. The error contains no bytes from the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// No hexadecimal digit where a size must be, or something other than an extension after the size.
    #[error("a chunk size is not a hexadecimal number")]
    InvalidSize,
    /// More than 16 digits, or at least 2^63.
    #[error("a chunk size has more than {SIZE_DIGITS_MAX} digits or does not fit into 63 bits")]
    SizeOverflow,
    /// A control character in an extension.
    #[error("a chunk extension has a control character")]
    InvalidExtension,
    /// Longer than [`CHUNK_LINE_LIMIT_BYTES`].
    #[error("a chunk size line is longer than {CHUNK_LINE_LIMIT_BYTES} bytes")]
    LineTooLong,
    /// The data of a chunk is longer than its size.
    #[error("the data of a chunk is not followed by CRLF")]
    MissingChunkEnd,
    /// A CR without LF, or a LF without CR.
    #[error("a CR or LF that is not part of a CRLF")]
    BareLineEnd,
    /// Not `name: value`.
    #[error("a trailer line is not a name, a colon and a value")]
    InvalidTrailer,
    /// Longer than [`TRAILER_LIMIT_BYTES`].
    #[error("the trailer section is longer than {TRAILER_LIMIT_BYTES} bytes")]
    TrailerTooLarge,
}

/// The next part of a chunked body: framing, then data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// How many bytes of framing there are at the start of the input: sizes, extensions, trailers and line endings.
    pub overhead: usize,
    /// How many bytes of data follow them.
    pub data: usize,
    /// Whether the body ends after this segment.
    pub done: bool,
}

impl Segment {
    /// The length of the segment in bytes.
    pub fn len(&self) -> usize {
        self.overhead + self.data
    }

    /// Whether no input was consumed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The role of the bytes of a [`Run`] in a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkPart {
    /// The digits of a size, the CRLF after a size or after data, and the CRLF that ends the body.
    Framing,
    /// Chunk extensions, and blanks after a size.
    Extension,
    /// The data of a chunk.
    Data,
    /// The name of a trailer field. Its last run ends with the colon.
    TrailerName,
    /// The value of a trailer field, including its CRLF.
    TrailerValue,
}

/// Bytes at the start of the input that have the same role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Their role.
    pub part: ChunkPart,
    /// How many there are, at least 1.
    pub len: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size {
        value: u64,
        digits: usize,
    },
    /// After the size. Before the first semicolon, only blanks are allowed.
    Extension {
        value: u64,
        semicolon: bool,
    },
    SizeLf {
        value: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    FinalLf,
    Done,
}

/// Decodes a chunked body incrementally. It keeps none of the bytes.
///
/// Invalid sizes, bare CR or LF and overlong lines are rejected. Chunk extensions are skipped. Blanks after a size are
/// accepted, because old servers pad sizes with them.
#[derive(Debug, Clone)]
pub struct ChunkedDecoder {
    state: State,
    /// The length so far of the current size line, or of the trailer section.
    line_bytes: usize,
}

impl Default for ChunkedDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl ChunkedDecoder {
    /// A decoder at the start of a body.
    pub fn new() -> Self {
        Self { state: State::Size { value: 0, digits: 0 }, line_bytes: 0 }
    }

    /// Whether the body has ended, including its trailer section.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Consumes the next segment at the start of `input`. Call again with the bytes after it. An empty segment means
    /// that `input` is empty, or that the body is done and `input` is leftover.
    ///
    /// # Errors
    /// [`ChunkError`]; neither the decoder nor the connection can be used any further.
    pub fn decode(&mut self, input: &[u8]) -> Result<Segment, ChunkError> {
        let mut overhead = 0;
        for &byte in input {
            if matches!(self.state, State::Data { .. } | State::Done) {
                break;
            }
            self.state = self.step(byte)?;
            overhead += 1;
        }
        let available = input.len() - overhead;
        let data = usize::try_from(self.data_left()).map_or(available, |left| left.min(available));
        self.skip_data(data as u64);
        Ok(Segment { overhead, data, done: self.is_done() })
    }

    /// Like [`ChunkedDecoder::decode`], but distinguishes the kinds of framing: consumes the bytes at the start of
    /// `input` that have the same role. Returns `None` where `decode` returns an empty segment. One part of the body
    /// may come in several runs.
    ///
    /// # Errors
    /// [`ChunkError`]; neither the decoder nor the connection can be used any further.
    pub fn run(&mut self, input: &[u8]) -> Result<Option<Run>, ChunkError> {
        let Some(part) = input.first().and_then(|&byte| self.part(byte)) else {
            return Ok(None);
        };
        if part == ChunkPart::Data {
            let len = usize::try_from(self.data_left()).map_or(input.len(), |left| left.min(input.len()));
            self.skip_data(len as u64);
            return Ok(Some(Run { part, len }));
        }
        let mut len = 0;
        for &byte in input {
            if self.part(byte) != Some(part) {
                break;
            }
            self.state = self.step(byte)?;
            len += 1;
        }
        Ok(Some(Run { part, len }))
    }

    /// How many bytes of data come next; 0 if framing comes next.
    pub fn data_left(&self) -> u64 {
        match self.state {
            State::Data { left } => left,
            _ => 0,
        }
    }

    /// Skips `count` bytes of data that did not go through the decoder, at most [`ChunkedDecoder::data_left`].
    pub fn skip_data(&mut self, count: u64) {
        if let State::Data { left } = self.state {
            debug_assert!(count <= left, "skipped beyond the end of a chunk");
            let left = left.saturating_sub(count);
            self.state = if left == 0 { State::DataCr } else { State::Data { left } };
        }
    }

    /// The role of `byte` as the next byte, provided that it is valid. `None` if the body is done.
    fn part(&self, byte: u8) -> Option<ChunkPart> {
        let framing_if = |is_framing, otherwise| if is_framing { ChunkPart::Framing } else { otherwise };
        Some(match self.state {
            State::Size { .. } => framing_if(byte.is_ascii_hexdigit() || byte == b'\r', ChunkPart::Extension),
            State::Extension { .. } => framing_if(byte == b'\r', ChunkPart::Extension),
            State::SizeLf { .. } | State::DataCr | State::DataLf | State::FinalLf => ChunkPart::Framing,
            State::Data { .. } => ChunkPart::Data,
            State::TrailerStart => framing_if(byte == b'\r', ChunkPart::TrailerName),
            State::TrailerName => ChunkPart::TrailerName,
            State::TrailerValue | State::TrailerLf => ChunkPart::TrailerValue,
            State::Done => return None,
        })
    }

    /// The state after one byte of framing.
    fn step(&mut self, byte: u8) -> Result<State, ChunkError> {
        match self.state {
            State::Size { .. } | State::Extension { .. } | State::SizeLf { .. } => self.step_size_line(byte),
            State::DataCr if byte == b'\r' => Ok(State::DataLf),
            State::DataLf if byte == b'\n' => {
                self.line_bytes = 0;
                Ok(State::Size { value: 0, digits: 0 })
            }
            State::DataCr | State::DataLf => Err(ChunkError::MissingChunkEnd),
            _ => self.step_trailer(byte),
        }
    }

    fn step_size_line(&mut self, byte: u8) -> Result<State, ChunkError> {
        self.line_bytes += 1;
        if self.line_bytes > CHUNK_LINE_LIMIT_BYTES {
            return Err(ChunkError::LineTooLong);
        }
        match (self.state, byte) {
            (State::Size { value, digits }, _) => step_size(value, digits, byte),
            (State::Extension { value, .. }, b'\r') => Ok(State::SizeLf { value }),
            (State::Extension { .. }, b'\n') => Err(ChunkError::BareLineEnd),
            (State::Extension { value, semicolon }, _) => match byte {
                b';' => Ok(State::Extension { value, semicolon: true }),
                _ if is_blank(byte) => Ok(State::Extension { value, semicolon }),
                _ if byte.is_ascii_control() => Err(ChunkError::InvalidExtension),
                _ if semicolon => Ok(State::Extension { value, semicolon }),
                _ => Err(ChunkError::InvalidSize),
            },
            (State::SizeLf { value: 0 }, b'\n') => {
                self.line_bytes = 0;
                Ok(State::TrailerStart)
            }
            (State::SizeLf { value }, b'\n') => Ok(State::Data { left: value }),
            _ => Err(ChunkError::BareLineEnd),
        }
    }

    fn step_trailer(&mut self, byte: u8) -> Result<State, ChunkError> {
        self.line_bytes += 1;
        if self.line_bytes > TRAILER_LIMIT_BYTES {
            return Err(ChunkError::TrailerTooLarge);
        }
        match (self.state, byte) {
            (State::TrailerStart, b'\r') => Ok(State::FinalLf),
            (State::FinalLf, b'\n') => Ok(State::Done),
            (State::TrailerLf, b'\n') => Ok(State::TrailerStart),
            (State::FinalLf | State::TrailerLf, _) => Err(ChunkError::BareLineEnd),
            (State::TrailerValue, b'\r') => Ok(State::TrailerLf),
            (State::TrailerName, b':') => Ok(State::TrailerValue),
            (_, b'\r' | b'\n') => Err(ChunkError::BareLineEnd),
            (State::TrailerStart | State::TrailerName, _) if is_token_char(byte) => Ok(State::TrailerName),
            (State::TrailerValue, _) if byte == b'\t' || !byte.is_ascii_control() => Ok(State::TrailerValue),
            _ => Err(ChunkError::InvalidTrailer),
        }
    }
}

fn step_size(value: u64, digits: usize, byte: u8) -> Result<State, ChunkError> {
    if let Some(digit) = char::from(byte).to_digit(16) {
        if digits == SIZE_DIGITS_MAX {
            return Err(ChunkError::SizeOverflow);
        }
        let value = value << 4 | u64::from(digit);
        if value > SIZE_MAX {
            return Err(ChunkError::SizeOverflow);
        }
        return Ok(State::Size { value, digits: digits + 1 });
    }
    match byte {
        _ if digits == 0 => Err(ChunkError::InvalidSize),
        b'\r' => Ok(State::SizeLf { value }),
        b'\n' => Err(ChunkError::BareLineEnd),
        b';' => Ok(State::Extension { value, semicolon: true }),
        _ if is_blank(byte) => Ok(State::Extension { value, semicolon: false }),
        _ => Err(ChunkError::InvalidSize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"4;name=\"a;b\"\r\nWiki\r\n05  \r\npedia\r\nA\r\n0123456789\r\n0\r\nExpires: x\r\nT:\r\n\r\n";

    /// Feeds `body` in pieces of `step` bytes. Returns the data, how many bytes were consumed, and whether it is done.
    fn decode(body: &[u8], step: usize) -> Result<(Vec<u8>, usize, bool), ChunkError> {
        let mut decoder = ChunkedDecoder::new();
        let (mut content, mut consumed) = (Vec::new(), 0);
        for piece in body.chunks(step) {
            let mut rest = piece;
            loop {
                let segment = decoder.decode(rest)?;
                content.extend_from_slice(&rest[segment.overhead..segment.len()]);
                consumed += segment.len();
                rest = &rest[segment.len()..];
                if segment.is_empty() {
                    break;
                }
            }
        }
        Ok((content, consumed, decoder.is_done()))
    }

    #[test]
    fn data_is_separated_from_framing_however_the_body_is_split() {
        let body = [BODY, b"leftover"].concat();
        for step in 1..=body.len() {
            let (content, consumed, done) = decode(&body, step).unwrap();
            assert_eq!(content, b"Wikipedia0123456789", "in steps of {step}");
            assert_eq!((consumed, done), (BODY.len(), true));
        }
    }

    /// Feeds `body` in pieces of `step` bytes. Returns its parts, with adjacent runs of the same role joined.
    fn runs(body: &[u8], step: usize) -> Vec<(ChunkPart, Vec<u8>)> {
        let mut decoder = ChunkedDecoder::new();
        let mut parts: Vec<(ChunkPart, Vec<u8>)> = Vec::new();
        for mut piece in body.chunks(step) {
            while let Some(Run { part, len }) = decoder.run(piece).unwrap() {
                let (bytes, rest) = piece.split_at(len);
                match parts.last_mut() {
                    Some((last, text)) if *last == part => text.extend_from_slice(bytes),
                    _ => parts.push((part, bytes.to_vec())),
                }
                piece = rest;
            }
        }
        parts
    }

    #[test]
    fn every_byte_has_the_same_role_however_the_body_is_split() {
        use ChunkPart::*;
        let body = [BODY, b"leftover"].concat();
        let expected: [(ChunkPart, &[u8]); 15] = [
            (Framing, b"4"),
            (Extension, b";name=\"a;b\""),
            (Framing, b"\r\n"),
            (Data, b"Wiki"),
            (Framing, b"\r\n05"),
            (Extension, b"  "),
            (Framing, b"\r\n"),
            (Data, b"pedia"),
            (Framing, b"\r\nA\r\n"),
            (Data, b"0123456789"),
            (Framing, b"\r\n0\r\n"),
            (TrailerName, b"Expires:"),
            (TrailerValue, b" x\r\n"),
            (TrailerName, b"T:"),
            (TrailerValue, b"\r\n"),
        ];
        for step in 1..=body.len() {
            let mut parts = runs(&body, step);
            assert_eq!(parts.pop(), Some((Framing, b"\r\n".to_vec())));
            let parts: Vec<_> = parts.iter().map(|(part, bytes)| (*part, &bytes[..])).collect();
            assert_eq!(parts, expected, "in steps of {step}");
        }
    }

    #[test]
    fn data_can_bypass_the_decoder() {
        let mut decoder = ChunkedDecoder::new();
        assert_eq!(decoder.data_left(), 0);
        assert_eq!(decoder.run(b"A\r\n").unwrap(), Some(Run { part: ChunkPart::Framing, len: 3 }));
        assert_eq!(decoder.data_left(), 10);
        decoder.skip_data(4);
        assert_eq!(decoder.data_left(), 6);
        decoder.skip_data(6);
        assert_eq!(decoder.data_left(), 0);
        let segment = decoder.decode(b"\r\n0\r\n\r\n").unwrap();
        assert_eq!((segment.overhead, segment.done), (7, true));
    }

    #[test]
    fn a_truncated_body_is_never_done() {
        for len in 0..BODY.len() {
            let (_, consumed, done) = decode(&BODY[..len], 7).unwrap();
            assert_eq!((consumed, done), (len, false), "cut at {len}");
        }
    }

    #[test]
    fn invalid_chunks_are_rejected() {
        use ChunkError::*;
        for (body, error) in [
            (&b"\r\n"[..], InvalidSize),
            (b"x\r\n", InvalidSize),
            (b"-1\r\n", InvalidSize),
            (b"+1\r\n", InvalidSize),
            (b"0x1\r\n", InvalidSize),
            (b" 1\r\n", InvalidSize),
            (b";a\r\n", InvalidSize),
            (b"1 2\r\n", InvalidSize),
            (b"1_0\r\n", InvalidSize),
            (b"00000000000000001\r\n", SizeOverflow),
            (b"10000000000000000\r\n", SizeOverflow),
            (b"8000000000000000\r\n", SizeOverflow),
            (b"ffffffffffffffff\r\n", SizeOverflow),
            (b"1\na", BareLineEnd),
            (b"1\ra", BareLineEnd),
            (b"1;a\nb", BareLineEnd),
            (b"1;a\rb", BareLineEnd),
            (b"1;a\0\r\n", InvalidExtension),
            (b"1\r\nab", MissingChunkEnd),
            (b"1\r\na\n", MissingChunkEnd),
            (b"1\r\na\rb", MissingChunkEnd),
            (b"0\r\n\n", BareLineEnd),
            (b"0\r\n\rx", BareLineEnd),
            (b"0\r\n x: y\r\n", InvalidTrailer),
            (b"0\r\n: y\r\n", InvalidTrailer),
            (b"0\r\nx : y\r\n", InvalidTrailer),
            (b"0\r\nx\r\n", BareLineEnd),
            (b"0\r\nx: y\n", BareLineEnd),
            (b"0\r\nx: \0\r\n", InvalidTrailer),
        ] {
            assert_eq!(decode(body, 1), Err(error), "{body:?}");
            assert_eq!(decode(body, 64), Err(error), "{body:?}");
        }
    }

    #[test]
    fn the_largest_chunk_size_is_accepted() {
        let (content, ..) = decode(b"7fffFFFFffffFFFF\r\nabc", 64).unwrap();
        assert_eq!(content, b"abc");
    }

    #[test]
    fn extensions_and_trailers_are_limited_in_length() {
        let long = vec![b'a'; TRAILER_LIMIT_BYTES];
        let body = [b"1;", &long[..]].concat();
        assert_eq!(decode(&body, 64), Err(ChunkError::LineTooLong));
        let body = [b"0\r\na:", &long[..]].concat();
        assert_eq!(decode(&body, 64), Err(ChunkError::TrailerTooLarge));
        // The limit is for each line, not for all lines of a body together.
        let body = [&b"1;ext\r\na\r\n".repeat(2000)[..], b"0\r\n\r\n"].concat();
        assert!(decode(&body, 64).unwrap().2);
    }
}
