//! Request bodies, which are read to the end and counted and checksummed.

use super::pattern::Checksum;
use crate::http::{BodyFraming, ChunkError, ChunkedDecoder};

/// One body that is being received.
#[derive(Debug)]
pub(super) struct BodyReader {
    rest: Rest,
    sum: Checksum,
}

#[derive(Debug)]
enum Rest {
    Bytes(u64),
    Chunks(ChunkedDecoder),
}

impl BodyReader {
    /// Starts to read a body with this framing. [`BodyFraming::CloseDelimited`] means no body, because a request's body
    /// never lasts to the close.
    pub(super) fn new(framing: BodyFraming) -> BodyReader {
        let rest = match framing {
            BodyFraming::None | BodyFraming::CloseDelimited => Rest::Bytes(0),
            BodyFraming::Length(length) => Rest::Bytes(length),
            BodyFraming::Chunked => Rest::Chunks(ChunkedDecoder::new()),
        };
        BodyReader { rest, sum: Checksum::default() }
    }

    /// Consumes the body's part of `input`, and returns how many bytes that was.
    ///
    /// # Errors
    /// If the chunks are malformed.
    pub(super) fn feed(&mut self, input: &[u8]) -> Result<usize, ChunkError> {
        match &mut self.rest {
            Rest::Bytes(left) => {
                let count = input.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                self.sum.update(input.get(..count).unwrap_or_default());
                *left -= count as u64;
                Ok(count)
            }
            Rest::Chunks(decoder) => {
                let mut taken = 0;
                loop {
                    let input = input.get(taken..).unwrap_or_default();
                    let segment = decoder.decode(input)?;
                    if segment.is_empty() {
                        return Ok(taken);
                    }
                    self.sum.update(input.get(segment.overhead..segment.len()).unwrap_or_default());
                    taken += segment.len();
                    if segment.done {
                        return Ok(taken);
                    }
                }
            }
        }
    }

    /// Whether it has been received completely.
    pub(super) fn is_done(&self) -> bool {
        match &self.rest {
            Rest::Bytes(left) => *left == 0,
            Rest::Chunks(decoder) => decoder.is_done(),
        }
    }

    /// Length and checksum of the content so far.
    pub(super) fn sum(&self) -> &Checksum {
        &self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_does_not_depend_on_the_framing() {
        let mut plain = BodyReader::new(BodyFraming::Length(5));
        assert_eq!(plain.feed(b"helloNEXT"), Ok(5));
        let mut chunked = BodyReader::new(BodyFraming::Chunked);
        let input = b"2\r\nhe\r\n3;x\r\nllo\r\n0\r\nT: 1\r\n\r\n";
        for byte in input {
            assert!(!chunked.is_done());
            assert_eq!(chunked.feed(&[*byte]), Ok(1));
        }
        assert!(plain.is_done() && chunked.is_done());
        assert_eq!(plain.sum().count(), 5);
        assert_eq!(plain.sum().value(), chunked.sum().value());
    }
}
