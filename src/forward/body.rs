//! Converts a body from one framing to another (RFC 9112 §6, §7.1).
//!
//! | received | sent | conversion |
//! |---|---|---|
//! | length | length | none; the bytes are counted |
//! | chunked | chunked | validated; chunk extensions and forbidden trailer fields are removed |
//! | chunked | close-delimited | the data of the chunks is extracted |
//! | close-delimited | close-delimited | none |
//! | close-delimited | chunked | each piece becomes a chunk |
//!
//! The only bytes that are buffered are those of an incomplete trailer field name.

use super::trailers::TrailerFilter;
use crate::http::{BodyFraming, ChunkError, ChunkPart, ChunkedDecoder};
use std::fmt;
use std::io::Write as _;

/// Why a body cannot be forwarded. The recipient has an incomplete body and must be able to detect that, so close its
/// connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The chunked framing is invalid (RFC 9112 §7.1).
    #[error("{0}")]
    BadChunk(#[from] ChunkError),
    /// The connection was closed before the end of the body (RFC 9112 §8).
    #[error("the connection ended before the body did")]
    Truncated,
}

/// What to send for the start of the input: [`Piece::slices`], in order.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Piece<'i> {
    /// Bytes to send before `data`. Usually empty, never long.
    pub lead: Vec<u8>,
    /// Bytes of the input to send unchanged.
    pub data: &'i [u8],
    /// Bytes to send after `data`.
    pub tail: &'static [u8],
    /// How many bytes of the input were consumed: `data` and the bytes around it that are not sent.
    pub used: usize,
    /// Whether the body ends with this piece. The rest of the input does not belong to it.
    pub done: bool,
    /// How many parser steps were taken: one for each byte of chunk framing and one for each run of data. If a peer
    /// sends tiny chunks, this is a multiple of the length of the data.
    pub work: usize,
}

impl<'i> Piece<'i> {
    fn of(data: &'i [u8]) -> Self {
        Self { data, used: data.len(), ..Self::default() }
    }

    /// Whether there is nothing to send and no input was consumed: more input is needed, or the body is done.
    pub fn is_empty(&self) -> bool {
        self.used == 0 && self.len() == 0
    }

    /// How many bytes there are to send.
    pub fn len(&self) -> usize {
        self.lead.len() + self.data.len() + self.tail.len()
    }

    /// The bytes to send, for a vectored write. Slices may be empty.
    pub fn slices(&self) -> [&[u8]; 3] {
        [&self.lead, self.data, self.tail]
    }

    /// Appends the bytes to send to `out`, except the first `sent`.
    pub fn copy_rest(&self, mut sent: usize, out: &mut Vec<u8>) {
        for slice in self.slices() {
            let skipped = sent.min(slice.len());
            sent -= skipped;
            out.extend_from_slice(slice.get(skipped..).unwrap_or_default());
        }
    }
}

/// Prints lengths instead of content.
impl fmt::Debug for Piece<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lens = self.slices().map(<[u8]>::len);
        f.debug_struct("Piece").field("lens", &lens).field("used", &self.used).field("done", &self.done).finish()
    }
}

/// Converts one body from its framing to another; see the table above.
#[derive(Debug)]
pub struct BodyPump {
    conversion: Conversion,
}

#[derive(Debug)]
enum Conversion {
    Length { left: u64 },
    CloseDelimited { ended: bool },
    Chunking { ended: bool },
    Rechunking { decoder: ChunkedDecoder, trailers: TrailerFilter },
    Dechunking { decoder: ChunkedDecoder },
}

impl BodyPump {
    /// For a body that keeps its framing.
    pub fn same(framing: BodyFraming) -> Self {
        Self {
            conversion: match framing {
                BodyFraming::None => Conversion::Length { left: 0 },
                BodyFraming::Length(left) => Conversion::Length { left },
                BodyFraming::CloseDelimited => Conversion::CloseDelimited { ended: false },
                BodyFraming::Chunked => {
                    Conversion::Rechunking { decoder: ChunkedDecoder::new(), trailers: TrailerFilter::default() }
                }
            },
        }
    }

    /// For a close-delimited body that is sent in chunks.
    pub fn chunking() -> Self {
        Self { conversion: Conversion::Chunking { ended: false } }
    }

    /// For a chunked body that is sent close-delimited. Extensions and trailers are dropped.
    pub fn dechunking() -> Self {
        Self { conversion: Conversion::Dechunking { decoder: ChunkedDecoder::new() } }
    }

    /// Whether the body has ended. True from the start if there is no body.
    pub fn is_done(&self) -> bool {
        match &self.conversion {
            Conversion::Length { left } => *left == 0,
            Conversion::CloseDelimited { ended } | Conversion::Chunking { ended } => *ended,
            Conversion::Rechunking { decoder, .. } | Conversion::Dechunking { decoder } => decoder.is_done(),
        }
    }

    /// Consumes the next piece at the start of `input`. Call again with the bytes after [`Piece::used`] until the piece
    /// is empty or done. A body that keeps its framing is a single piece however large the input, unless something in
    /// it is removed.
    ///
    /// # Errors
    /// [`BodyError::BadChunk`]; the pump cannot be used any further, and both connections must be closed.
    pub fn step<'i>(&mut self, input: &'i [u8]) -> Result<Piece<'i>, BodyError> {
        let piece = match &mut self.conversion {
            Conversion::Length { left } => {
                let len = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
                *left -= len as u64;
                Piece::of(input.get(..len).unwrap_or_default())
            }
            Conversion::CloseDelimited { ended: true } | Conversion::Chunking { ended: true } => Piece::default(),
            Conversion::CloseDelimited { ended: false } => Piece::of(input),
            Conversion::Chunking { ended: false } => chunk(input),
            Conversion::Rechunking { decoder, trailers } => step_chunks(decoder, Some(trailers), input)?,
            Conversion::Dechunking { decoder } => step_chunks(decoder, None, input)?,
        };
        Ok(Piece { done: self.is_done(), ..piece })
    }

    /// Handles an orderly end of the connection that the body arrives on, and appends to `out` what remains to be sent.
    /// Do not call it after a reset, which ends no body.
    ///
    /// # Errors
    /// [`BodyError::Truncated`] if the body is incomplete, which a close-delimited body never is.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), BodyError> {
        if self.is_done() {
            return Ok(());
        }
        match &mut self.conversion {
            Conversion::CloseDelimited { ended } => *ended = true,
            Conversion::Chunking { ended } => {
                out.extend_from_slice(b"0\r\n\r\n");
                *ended = true;
            }
            Conversion::Length { .. } | Conversion::Rechunking { .. } | Conversion::Dechunking { .. } => {
                return Err(BodyError::Truncated);
            }
        }
        Ok(())
    }

    /// How many bytes can now bypass the pump unchanged, after all its output has been sent: the rest of the length or
    /// of the current chunk, or [`u64::MAX`] for a close-delimited body. Report them with [`BodyPump::skip`].
    pub fn splice_run(&self) -> u64 {
        match &self.conversion {
            Conversion::Length { left } => *left,
            Conversion::CloseDelimited { ended: false } => u64::MAX,
            Conversion::CloseDelimited { ended: true } | Conversion::Chunking { .. } => 0,
            Conversion::Rechunking { decoder, .. } | Conversion::Dechunking { decoder } => decoder.data_left(),
        }
    }

    /// How many bytes of a body with a known length are left. A caller that reads no more than that leaves the bytes
    /// after the body in the kernel.
    pub fn length_left(&self) -> Option<u64> {
        match &self.conversion {
            Conversion::Length { left } => Some(*left),
            _ => None,
        }
    }

    /// Records that `count` bytes bypassed the pump, at most [`BodyPump::splice_run`].
    pub fn skip(&mut self, count: u64) {
        debug_assert!(count <= self.splice_run(), "more bytes bypassed the pump than may");
        match &mut self.conversion {
            Conversion::Length { left } => *left = left.saturating_sub(count),
            Conversion::CloseDelimited { .. } | Conversion::Chunking { .. } => {}
            Conversion::Rechunking { decoder, .. } | Conversion::Dechunking { decoder } => decoder.skip_data(count),
        }
    }
}

/// `input` as a chunk. Empty input makes no chunk, because an empty chunk ends a body.
fn chunk(input: &[u8]) -> Piece<'_> {
    if input.is_empty() {
        return Piece::default();
    }
    let mut lead = Vec::with_capacity(18);
    // Writing to a Vec cannot fail.
    let _ = write!(lead, "{:x}\r\n", input.len());
    Piece { lead, tail: b"\r\n", ..Piece::of(input) }
}

/// The next piece of a chunked body: with framing if there is a trailer filter, otherwise only data.
///
/// The bytes that are sent unchanged must be contiguous in the input, so a piece ends at the first byte that is removed
/// after them.
fn step_chunks<'i>(
    decoder: &mut ChunkedDecoder,
    mut trailers: Option<&mut TrailerFilter>,
    input: &'i [u8],
) -> Result<Piece<'i>, BodyError> {
    let mut lead = trailers.as_mut().map(|filter| filter.take_accepted_name()).unwrap_or_default();
    let (mut used, mut passes_from, mut passes_to, mut work) = (0, 0, 0, 0);
    while let Some(run) = decoder.run(input.get(used..).unwrap_or_default())? {
        let from = used;
        used += run.len;
        work += if run.part == ChunkPart::Data { 1 } else { run.len };
        let passes = match (&mut trailers, run.part) {
            (_, ChunkPart::Data) | (Some(_), ChunkPart::Framing) => true,
            (Some(filter), ChunkPart::TrailerValue) => filter.passes(),
            (Some(filter), ChunkPart::TrailerName) => {
                filter.take_name(input.get(from..used).unwrap_or_default());
                false
            }
            (None, _) | (Some(_), ChunkPart::Extension) => false,
        };
        if passes {
            if passes_from == passes_to {
                passes_from = from;
            }
            passes_to = used;
        } else if passes_from < passes_to {
            break;
        } else if let Some(filter) = &mut trailers
            && lead.is_empty()
        {
            lead = filter.take_accepted_name();
        }
    }
    let data = input.get(passes_from..passes_to).unwrap_or_default();
    Ok(Piece { lead, used, work, ..Piece::of(data) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::tests::push;

    /// Feeds `input` in pieces of `step` bytes. Returns the output, how many bytes were used, and the pump.
    fn pump(mut pump: BodyPump, input: &[u8], step: usize) -> Result<(Vec<u8>, usize, BodyPump), BodyError> {
        let (mut out, mut used) = (Vec::new(), 0);
        for piece in input.chunks(step) {
            let pushed = push(&mut pump, piece, &mut out)?;
            used += pushed.used;
            assert_eq!(pushed.done, pump.is_done());
            if pushed.done {
                break;
            }
            assert_eq!(pushed.used, piece.len());
        }
        Ok((out, used, pump))
    }

    #[test]
    fn a_body_with_a_length_passes_unchanged_and_ends_exactly() {
        let input = b"0123456789leftover";
        for step in 1..=input.len() {
            let (out, used, mut pump) = pump(BodyPump::same(BodyFraming::Length(10)), input, step).unwrap();
            assert_eq!((&out[..], used), (&b"0123456789"[..], 10), "in steps of {step}");
            assert_eq!(pump.finish(&mut Vec::new()), Ok(()));
        }
    }

    #[test]
    fn an_absent_body_is_done_from_the_start() {
        for framing in [BodyFraming::None, BodyFraming::Length(0)] {
            let mut pump = BodyPump::same(framing);
            assert!(pump.is_done());
            let piece = pump.step(b"leftover").unwrap();
            assert!(piece.is_empty() && piece.done);
        }
    }

    #[test]
    fn a_large_read_of_a_body_that_keeps_its_framing_is_one_uncopied_piece() {
        let content = vec![b'x'; 64 * 1024];
        let chunked = [&b"4000\r\n"[..], &content[..0x4000], b"\r\n"].concat().repeat(3);
        for (framing, input) in [
            (BodyFraming::Length(1 << 20), &content),
            (BodyFraming::CloseDelimited, &content),
            (BodyFraming::Chunked, &chunked),
        ] {
            let piece = BodyPump::same(framing).step(input).unwrap();
            assert!(std::ptr::eq(piece.data, &input[..]), "{framing:?}");
            assert_eq!((piece.used, piece.len(), piece.done), (input.len(), input.len(), false));
        }
    }

    const CHUNKED: &[u8] = b"4;name=\"a;b\"\r\nWiki\r\n05  \r\npedia\r\nA\r\n0123456789\r\n0;last\r\n\
        Expires: x\r\nContent-Length: 5\r\nHost: evil\r\nConnection: close\r\nT:\r\n\r\n";
    const RECHUNKED: &[u8] = b"4\r\nWiki\r\n05\r\npedia\r\nA\r\n0123456789\r\n0\r\nExpires: x\r\nT:\r\n\r\n";

    #[test]
    fn extensions_and_forbidden_trailers_are_removed() {
        let input = [CHUNKED, b"leftover"].concat();
        for step in 1..=input.len() {
            let (out, used, pump) = pump(BodyPump::same(BodyFraming::Chunked), &input, step).unwrap();
            assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(RECHUNKED), "in steps of {step}");
            assert_eq!(used, CHUNKED.len());
            assert!(pump.is_done());
        }
    }

    #[test]
    fn dechunking_extracts_the_data() {
        let input = [CHUNKED, b"leftover"].concat();
        for step in 1..=input.len() {
            let (out, used, _) = pump(BodyPump::dechunking(), &input, step).unwrap();
            assert_eq!((&out[..], used), (&b"Wikipedia0123456789"[..], CHUNKED.len()), "in steps of {step}");
        }
    }

    #[test]
    fn a_close_delimited_body_becomes_chunks_and_ends_with_the_connection() {
        let (mut out, used, mut pump) = pump(BodyPump::chunking(), b"0123456789abcdefXY", 16).unwrap();
        assert_eq!((&out[..], used), (&b"10\r\n0123456789abcdef\r\n2\r\nXY\r\n"[..], 18));
        assert!(!pump.is_done());
        assert_eq!(pump.finish(&mut out), Ok(()));
        assert!(out.ends_with(b"\r\n2\r\nXY\r\n0\r\n\r\n"));
        assert!(pump.is_done() && pump.step(b"late").unwrap().is_empty());
        out.clear();
        assert_eq!((pump.finish(&mut out), out.len()), (Ok(()), 0));
    }

    #[test]
    fn empty_input_makes_no_chunk() {
        let mut pump = BodyPump::chunking();
        assert!(pump.step(b"").unwrap().is_empty());
        assert!(!pump.is_done());
    }

    #[test]
    fn an_incomplete_body_is_an_error_unless_it_is_close_delimited() {
        for make in [|| BodyPump::same(BodyFraming::Chunked), BodyPump::dechunking] {
            for len in 0..CHUNKED.len() {
                let (mut out, _, mut pump) = pump(make(), &CHUNKED[..len], 5).unwrap();
                assert_eq!(pump.finish(&mut out), Err(BodyError::Truncated), "cut at {len}");
            }
        }
        let (mut out, _, mut cut) = pump(BodyPump::same(BodyFraming::Length(5)), b"hell", 4).unwrap();
        assert_eq!(cut.finish(&mut out), Err(BodyError::Truncated));
        let (mut out, _, mut whole) = pump(BodyPump::same(BodyFraming::CloseDelimited), b"hell", 4).unwrap();
        assert_eq!((whole.finish(&mut out), whole.is_done()), (Ok(()), true));
    }

    #[test]
    fn invalid_chunks_are_rejected_at_every_split() {
        for body in [
            &b"x\r\n"[..],
            b"-1\r\n",
            b"0x1\r\n",
            b"1\na",
            b"1\r\nab",
            b"1\r\na\n0\r\n\r\n",
            b"8000000000000000\r\n",
            b"1;a\nb\r\n",
            b"0\r\nA: b\n\r\n",
            b"0\r\n A: b\r\n",
            b"0\r\nA : b\r\n",
            b"0\r\nA: \0\r\n",
        ] {
            for make in [|| BodyPump::same(BodyFraming::Chunked), BodyPump::dechunking] {
                for step in 1..=body.len() {
                    let result = pump(make(), body, step);
                    assert!(matches!(result, Err(BodyError::BadChunk(_))), "{body:?} in steps of {step}");
                }
            }
        }
    }

    #[test]
    fn bytes_can_bypass_the_pump() {
        let mut length = BodyPump::same(BodyFraming::Length(10));
        length.step(b"0123").unwrap();
        assert_eq!(length.splice_run(), 6);
        length.skip(6);
        assert!(length.is_done());
        assert_eq!(length.splice_run(), 0);

        let mut close_delimited = BodyPump::same(BodyFraming::CloseDelimited);
        assert_eq!(close_delimited.splice_run(), u64::MAX);
        close_delimited.skip(1 << 40);
        assert_eq!(close_delimited.splice_run(), u64::MAX);
        close_delimited.finish(&mut Vec::new()).unwrap();
        assert_eq!(close_delimited.splice_run(), 0);

        for mut chunked in [BodyPump::same(BodyFraming::Chunked), BodyPump::dechunking()] {
            assert_eq!(chunked.splice_run(), 0);
            chunked.step(b"100000\r\nabcd").unwrap();
            assert_eq!(chunked.splice_run(), 0x10_0000 - 4);
            chunked.skip(0x10_0000 - 4);
            assert_eq!(chunked.splice_run(), 0);
            assert!(push(&mut chunked, b"\r\n0\r\n\r\n", &mut Vec::new()).unwrap().done);
        }
        assert_eq!(BodyPump::chunking().splice_run(), 0);
    }

    #[test]
    fn copy_rest_keeps_what_a_partial_write_left() {
        let mut pump = BodyPump::chunking();
        let piece = pump.step(b"hello").unwrap();
        let whole = piece.slices().concat();
        assert_eq!(whole, b"5\r\nhello\r\n");
        for sent in 0..=whole.len() {
            let mut rest = Vec::new();
            piece.copy_rest(sent, &mut rest);
            assert_eq!(rest, whole[sent..], "after {sent}");
        }
    }
}
