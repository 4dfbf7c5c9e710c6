//! A body on its way from one framing to another (RFC 9112 §6, §7.1).
//!
//! | comes as | goes as | what is done to it |
//! |---|---|---|
//! | length | length | counted |
//! | chunked | chunked | checked; passes as it is, but for extensions and trailers that must not |
//! | chunked | to the close | the chunks' data passes |
//! | to the close | to the close | nothing |
//! | to the close | chunked | each piece becomes a chunk |
//!
//! Nothing is held but the name of a trailer field that is not complete.

use super::trailers::TrailerFilter;
use crate::http::{BodyFraming, ChunkError, ChunkPart, ChunkedDecoder};
use std::fmt;
use std::io::Write as _;

/// Why a body cannot be passed on; what went out is cut short and must be seen to be: close the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// RFC 9112 §7.1
    #[error("{0}")]
    BadChunk(#[from] ChunkError),
    /// RFC 9112 §8
    #[error("the connection ended before the body did")]
    Truncated,
}

/// What to send for the front of the input: [`Piece::slices`], in their order.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Piece<'i> {
    /// Goes first; seldom anything, and short.
    pub lead: Vec<u8>,
    /// Bytes of the input that go as they are.
    pub data: &'i [u8],
    /// Goes last.
    pub tail: &'static [u8],
    /// Bytes of the input that are dealt with: `data` and what is left out around it.
    pub used: usize,
    /// The body ends here; what lies behind in the input is not of it.
    pub done: bool,
    /// Steps of the parser that it took: one for each byte of chunk framing and for each run of data. A peer that chooses
    /// tiny chunks makes this many times the length of the data.
    pub work: usize,
}

impl<'i> Piece<'i> {
    fn of(data: &'i [u8]) -> Self {
        Self { data, used: data.len(), ..Self::default() }
    }

    /// Whether nothing is to be sent and no input was taken: more input is needed, or the body is done.
    pub fn is_empty(&self) -> bool {
        self.used == 0 && self.len() == 0
    }

    /// How much is to be sent, in bytes.
    pub fn len(&self) -> usize {
        self.lead.len() + self.data.len() + self.tail.len()
    }

    /// What is to be sent, for a vectored write; slices may be empty.
    pub fn slices(&self) -> [&[u8]; 3] {
        [&self.lead, self.data, self.tail]
    }

    /// Appends to `out` what lies behind the first `sent` bytes.
    pub fn copy_rest(&self, mut sent: usize, out: &mut Vec<u8>) {
        for slice in self.slices() {
            let skipped = sent.min(slice.len());
            sent -= skipped;
            out.extend_from_slice(slice.get(skipped..).unwrap_or_default());
        }
    }
}

/// Prints lengths, not content.
impl fmt::Debug for Piece<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lens = self.slices().map(<[u8]>::len);
        f.debug_struct("Piece").field("lens", &lens).field("used", &self.used).field("done", &self.done).finish()
    }
}

/// What became of one piece of input; see [`BodyPump::push`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushed {
    /// Bytes of the input that were of the body.
    pub used: usize,
    /// The body has ended; what lies behind in the input is leftover.
    pub done: bool,
}

/// Moves one body from its framing to another; see the table above.
#[derive(Debug)]
pub struct BodyPump {
    way: Way,
}

#[derive(Debug)]
enum Way {
    Length { left: u64 },
    ToClose { ended: bool },
    Chunking { ended: bool },
    Rechunking { decoder: ChunkedDecoder, trailers: TrailerFilter },
    Dechunking { decoder: ChunkedDecoder },
}

impl BodyPump {
    /// For a body that keeps its framing.
    pub fn same(framing: BodyFraming) -> Self {
        Self {
            way: match framing {
                BodyFraming::None => Way::Length { left: 0 },
                BodyFraming::Length(left) => Way::Length { left },
                BodyFraming::ToClose => Way::ToClose { ended: false },
                BodyFraming::Chunked => {
                    Way::Rechunking { decoder: ChunkedDecoder::new(), trailers: TrailerFilter::default() }
                }
            },
        }
    }

    /// For a body that lasts to the close and is to go in chunks.
    pub fn chunking() -> Self {
        Self { way: Way::Chunking { ended: false } }
    }

    /// For a body that comes in chunks and is to go without: extensions and trailers are left out.
    pub fn dechunking() -> Self {
        Self { way: Way::Dechunking { decoder: ChunkedDecoder::new() } }
    }

    /// Whether the body has ended; true from the start where there is none.
    pub fn is_done(&self) -> bool {
        match &self.way {
            Way::Length { left } => *left == 0,
            Way::ToClose { ended } | Way::Chunking { ended } => *ended,
            Way::Rechunking { decoder, .. } | Way::Dechunking { decoder } => decoder.is_done(),
        }
    }

    /// Takes the next piece off the front of `input`; call again with what lies behind [`Piece::used`], until the
    /// piece is empty or done. However large the input, a body that keeps its framing is one piece.
    ///
    /// # Errors
    /// [`BodyError::BadChunk`]; the pump and the connections are of no further use.
    pub fn step<'i>(&mut self, input: &'i [u8]) -> Result<Piece<'i>, BodyError> {
        let piece = match &mut self.way {
            Way::Length { left } => {
                let len = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
                *left -= len as u64;
                Piece::of(input.get(..len).unwrap_or_default())
            }
            Way::ToClose { ended: true } | Way::Chunking { ended: true } => Piece::default(),
            Way::ToClose { ended: false } => Piece::of(input),
            Way::Chunking { ended: false } => chunk(input),
            Way::Rechunking { decoder, trailers } => step_chunks(decoder, Some(trailers), input)?,
            Way::Dechunking { decoder } => step_chunks(decoder, None, input)?,
        };
        Ok(Piece { done: self.is_done(), ..piece })
    }

    /// Appends to `out` all that is to be sent for `input`: at most its length and 32 bytes more, and the name of a
    /// trailer field that was held.
    ///
    /// # Errors
    /// As [`BodyPump::step`].
    pub fn push(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Pushed, BodyError> {
        let mut used = 0;
        loop {
            let piece = self.step(input.get(used..).unwrap_or_default())?;
            piece.copy_rest(0, out);
            used += piece.used;
            if piece.done || piece.is_empty() {
                return Ok(Pushed { used, done: piece.done });
            }
        }
    }

    /// The connection that the body comes on ended in good order; appends what is still to be sent. Not for a
    /// connection that was reset: that ends no body.
    ///
    /// # Errors
    /// [`BodyError::Truncated`] when the body had not ended, unless the close is what ends it.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), BodyError> {
        if self.is_done() {
            return Ok(());
        }
        match &mut self.way {
            Way::ToClose { ended } => *ended = true,
            Way::Chunking { ended } => {
                out.extend_from_slice(b"0\r\n\r\n");
                *ended = true;
            }
            Way::Length { .. } | Way::Rechunking { .. } | Way::Dechunking { .. } => return Err(BodyError::Truncated),
        }
        Ok(())
    }

    /// How many bytes may now be moved as they are, past the pump, once all that it gave out has been sent: what is left
    /// of a length, of the chunk at hand, or [`u64::MAX`] for what lasts to the close. Tell of them with
    /// [`BodyPump::skip`].
    pub fn splice_run(&self) -> u64 {
        match &self.way {
            Way::Length { left } => *left,
            Way::ToClose { ended: false } => u64::MAX,
            Way::ToClose { ended: true } | Way::Chunking { .. } => 0,
            Way::Rechunking { decoder, .. } | Way::Dechunking { decoder } => decoder.data_left(),
        }
    }

    /// What is left of a body whose length is known, in bytes: reading no more than that leaves what lies behind it to whom it is for.
    pub fn length_left(&self) -> Option<u64> {
        match &self.way {
            Way::Length { left } => Some(*left),
            _ => None,
        }
    }

    /// Tells that `count` bytes were moved past the pump: no more than [`BodyPump::splice_run`].
    pub fn skip(&mut self, count: u64) {
        debug_assert!(count <= self.splice_run(), "moved past the end of what may be");
        match &mut self.way {
            Way::Length { left } => *left = left.saturating_sub(count),
            Way::ToClose { .. } | Way::Chunking { .. } => {}
            Way::Rechunking { decoder, .. } | Way::Dechunking { decoder } => decoder.skip_data(count),
        }
    }
}

/// `input` as a chunk; nothing for nothing, because an empty chunk ends a body.
fn chunk(input: &[u8]) -> Piece<'_> {
    if input.is_empty() {
        return Piece::default();
    }
    let mut lead = Vec::with_capacity(18);
    // Writing to a Vec cannot fail.
    let _ = write!(lead, "{:x}\r\n", input.len());
    Piece { lead, tail: b"\r\n", ..Piece::of(input) }
}

/// The next piece of a chunked body: with its framing where there is a filter for its trailers, else without.
///
/// What goes as it is must be contiguous in the input, so a piece ends where something is left out behind it.
fn step_chunks<'i>(
    decoder: &mut ChunkedDecoder,
    mut trailers: Option<&mut TrailerFilter>,
    input: &'i [u8],
) -> Result<Piece<'i>, BodyError> {
    let mut lead = trailers.as_mut().map(|filter| filter.take_owed()).unwrap_or_default();
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
            lead = filter.take_owed();
        }
    }
    let data = input.get(passes_from..passes_to).unwrap_or_default();
    Ok(Piece { lead, used, work, ..Piece::of(data) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds in pieces of `step` bytes; what went out, how much was used, and the pump.
    fn pump(mut pump: BodyPump, input: &[u8], step: usize) -> Result<(Vec<u8>, usize, BodyPump), BodyError> {
        let (mut out, mut used) = (Vec::new(), 0);
        for piece in input.chunks(step) {
            let pushed = pump.push(piece, &mut out)?;
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
    fn a_length_passes_as_it_is_and_ends_exactly() {
        let input = b"0123456789leftover";
        for step in 1..=input.len() {
            let (out, used, mut pump) = pump(BodyPump::same(BodyFraming::Length(10)), input, step).unwrap();
            assert_eq!((&out[..], used), (&b"0123456789"[..], 10), "in steps of {step}");
            assert_eq!(pump.finish(&mut Vec::new()), Ok(()));
        }
    }

    #[test]
    fn no_body_is_done_from_the_start() {
        for framing in [BodyFraming::None, BodyFraming::Length(0)] {
            let mut pump = BodyPump::same(framing);
            assert!(pump.is_done());
            let piece = pump.step(b"leftover").unwrap();
            assert!(piece.is_empty() && piece.done);
        }
    }

    #[test]
    fn a_large_read_of_a_body_that_keeps_its_framing_is_one_piece_of_the_input_itself() {
        let content = vec![b'x'; 64 * 1024];
        let chunked = [&b"4000\r\n"[..], &content[..0x4000], b"\r\n"].concat().repeat(3);
        for (framing, input) in [
            (BodyFraming::Length(1 << 20), &content),
            (BodyFraming::ToClose, &content),
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
    fn chunks_pass_without_extensions_and_forbidden_trailers() {
        let input = [CHUNKED, b"leftover"].concat();
        for step in 1..=input.len() {
            let (out, used, pump) = pump(BodyPump::same(BodyFraming::Chunked), &input, step).unwrap();
            assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(RECHUNKED), "in steps of {step}");
            assert_eq!(used, CHUNKED.len());
            assert!(pump.is_done());
        }
    }

    #[test]
    fn chunks_become_their_data_where_the_client_knows_no_chunks() {
        let input = [CHUNKED, b"leftover"].concat();
        for step in 1..=input.len() {
            let (out, used, _) = pump(BodyPump::dechunking(), &input, step).unwrap();
            assert_eq!((&out[..], used), (&b"Wikipedia0123456789"[..], CHUNKED.len()), "in steps of {step}");
        }
    }

    #[test]
    fn what_lasts_to_the_close_becomes_chunks_and_ends_with_the_connection() {
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
    fn nothing_read_makes_no_chunk() {
        let mut pump = BodyPump::chunking();
        assert!(pump.step(b"").unwrap().is_empty());
        assert!(!pump.is_done());
    }

    #[test]
    fn a_body_cut_anywhere_is_truncated_unless_the_close_ends_it() {
        for make in [|| BodyPump::same(BodyFraming::Chunked), BodyPump::dechunking] {
            for len in 0..CHUNKED.len() {
                let (mut out, _, mut pump) = pump(make(), &CHUNKED[..len], 5).unwrap();
                assert_eq!(pump.finish(&mut out), Err(BodyError::Truncated), "cut at {len}");
            }
        }
        let (mut out, _, mut cut) = pump(BodyPump::same(BodyFraming::Length(5)), b"hell", 4).unwrap();
        assert_eq!(cut.finish(&mut out), Err(BodyError::Truncated));
        let (mut out, _, mut whole) = pump(BodyPump::same(BodyFraming::ToClose), b"hell", 4).unwrap();
        assert_eq!((whole.finish(&mut out), whole.is_done()), (Ok(()), true));
    }

    #[test]
    fn broken_chunks_are_refused_at_every_split() {
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
                    let refused = pump(make(), body, step);
                    assert!(matches!(refused, Err(BodyError::BadChunk(_))), "{body:?} in steps of {step}");
                }
            }
        }
    }

    #[test]
    fn bytes_may_be_moved_past_the_pump() {
        let mut length = BodyPump::same(BodyFraming::Length(10));
        length.step(b"0123").unwrap();
        assert_eq!(length.splice_run(), 6);
        length.skip(6);
        assert!(length.is_done());
        assert_eq!(length.splice_run(), 0);

        let mut to_close = BodyPump::same(BodyFraming::ToClose);
        assert_eq!(to_close.splice_run(), u64::MAX);
        to_close.skip(1 << 40);
        assert_eq!(to_close.splice_run(), u64::MAX);
        to_close.finish(&mut Vec::new()).unwrap();
        assert_eq!(to_close.splice_run(), 0);

        for mut chunked in [BodyPump::same(BodyFraming::Chunked), BodyPump::dechunking()] {
            assert_eq!(chunked.splice_run(), 0);
            chunked.step(b"100000\r\nabcd").unwrap();
            assert_eq!(chunked.splice_run(), 0x10_0000 - 4);
            chunked.skip(0x10_0000 - 4);
            assert_eq!(chunked.splice_run(), 0);
            assert!(chunked.push(b"\r\n0\r\n\r\n", &mut Vec::new()).unwrap().done);
        }
        assert_eq!(BodyPump::chunking().splice_run(), 0);
    }

    #[test]
    fn what_a_partial_write_left_is_kept() {
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
