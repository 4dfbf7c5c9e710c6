//! Reads and discards an unwanted body so that its connection can be reused.
//!
//! Exactly the body is consumed, and only up to a size limit.

use super::chunked::{ChunkError, ChunkedDecoder};
use super::framing::BodyFraming;

/// Why a body cannot be discarded. Its connection must be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DiscardError {
    /// The body is larger than the limit, by its announced length or by what has arrived. Framing counts.
    #[error("the body is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit_bytes: u64,
    },
    /// The chunked framing is invalid.
    #[error("{0}")]
    BadChunk(#[from] ChunkError),
}

/// The result of one [`BodyDiscarder::feed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Discarded {
    /// How many bytes at the start of the input belong to the body. The rest is leftover.
    pub consumed: usize,
    /// Whether the body has ended.
    pub done: bool,
}

/// Consumes one body without keeping any of it.
#[derive(Debug, Clone)]
pub struct BodyDiscarder {
    body: Body,
    limit_bytes: u64,
    budget_bytes: u64,
}

#[derive(Debug, Clone)]
enum Body {
    Length(u64),
    Chunked(ChunkedDecoder),
    CloseDelimited,
}

impl BodyDiscarder {
    /// For a body with this framing, of at most `limit_bytes` including chunk framing.
    pub fn new(framing: BodyFraming, limit_bytes: u64) -> Self {
        Self {
            body: match framing {
                BodyFraming::None => Body::Length(0),
                BodyFraming::Length(length) => Body::Length(length),
                BodyFraming::Chunked => Body::Chunked(ChunkedDecoder::new()),
                BodyFraming::CloseDelimited => Body::CloseDelimited,
            },
            limit_bytes,
            budget_bytes: limit_bytes,
        }
    }

    /// Whether the body has ended. True from the start if there is no body.
    pub fn is_done(&self) -> bool {
        match &self.body {
            Body::Length(left) => *left == 0,
            Body::Chunked(decoder) => decoder.is_done(),
            Body::CloseDelimited => false,
        }
    }

    /// Consumes newly arrived bytes, which may be empty. A close-delimited body is never done; it ends with the
    /// connection.
    ///
    /// # Errors
    /// [`DiscardError::TooLarge`] as soon as the body is known to exceed the limit, which for an announced length is on
    /// the first call; [`DiscardError::BadChunk`] for invalid chunked framing.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Discarded, DiscardError> {
        let too_large = DiscardError::TooLarge { limit_bytes: self.limit_bytes };
        // Look no further than the first byte over the limit: the result must not depend on how the input is split, so
        // an error beyond the limit is never reported.
        let visible = usize::try_from(self.budget_bytes).map_or(usize::MAX, |budget| budget.saturating_add(1));
        let bytes = bytes.get(..visible).unwrap_or(bytes);
        let consumed = match &mut self.body {
            Body::Length(left) => {
                if *left > self.budget_bytes {
                    return Err(too_large);
                }
                let consumed = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= consumed as u64;
                consumed
            }
            Body::Chunked(decoder) => {
                let mut consumed = 0;
                loop {
                    let segment = decoder.decode(bytes.get(consumed..).unwrap_or_default())?;
                    consumed += segment.len();
                    if segment.is_empty() || segment.done {
                        break consumed;
                    }
                }
            }
            Body::CloseDelimited => bytes.len(),
        };
        self.budget_bytes = self.budget_bytes.checked_sub(consumed as u64).ok_or(too_large)?;
        Ok(Discarded { consumed, done: self.is_done() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 1024;

    /// Feeds `input` in pieces of `step` bytes. Returns how many bytes were consumed, and the discarder.
    fn discard(framing: BodyFraming, input: &[u8], step: usize) -> Result<(usize, BodyDiscarder), DiscardError> {
        let mut discarder = BodyDiscarder::new(framing, LIMIT);
        let mut consumed = 0;
        for piece in input.chunks(step) {
            let discarded = discarder.feed(piece)?;
            assert_eq!(discarded.done, discarder.is_done());
            consumed += discarded.consumed;
            if discarded.done {
                break;
            }
            assert_eq!(discarded.consumed, piece.len());
        }
        Ok((consumed, discarder))
    }

    #[test]
    fn a_body_with_a_length_is_consumed_exactly() {
        let input = [b'a'; 710];
        for step in [1, 7, 700, 701, 702, 710] {
            let (consumed, discarder) = discard(BodyFraming::Length(701), &input, step).unwrap();
            assert_eq!((consumed, discarder.is_done()), (701, true));
        }
    }

    #[test]
    fn a_chunked_body_is_consumed_including_its_trailers() {
        let body = b"5;x=y\r\nhello\r\n0\r\nA: b\r\nC: d\r\n\r\n";
        let input = [&body[..], b"HTTP/1.1"].concat();
        for step in 1..=input.len() {
            let (consumed, discarder) = discard(BodyFraming::Chunked, &input, step).unwrap();
            assert_eq!((consumed, discarder.is_done()), (body.len(), true), "in steps of {step}");
        }
    }

    #[test]
    fn an_absent_body_is_done_before_any_input() {
        for framing in [BodyFraming::None, BodyFraming::Length(0)] {
            let mut discarder = BodyDiscarder::new(framing, 0);
            assert!(discarder.is_done());
            assert_eq!(discarder.feed(b"leftover"), Ok(Discarded { consumed: 0, done: true }));
        }
    }

    #[test]
    fn a_close_delimited_body_is_never_done() {
        let (consumed, discarder) = discard(BodyFraming::CloseDelimited, &[b'a'; 100], 9).unwrap();
        assert_eq!((consumed, discarder.is_done()), (100, false));
    }

    #[test]
    fn a_truncated_body_is_not_done() {
        let body = b"5\r\nhello\r\n0\r\n\r\n";
        for len in 0..body.len() {
            let (_, discarder) = discard(BodyFraming::Chunked, &body[..len], 3).unwrap();
            assert!(!discarder.is_done(), "cut at {len}");
        }
        let (_, discarder) = discard(BodyFraming::Length(5), b"hell", 4).unwrap();
        assert!(!discarder.is_done());
    }

    #[test]
    fn a_body_over_the_limit_is_an_error() {
        let too_large = DiscardError::TooLarge { limit_bytes: LIMIT };
        let announced = BodyDiscarder::new(BodyFraming::Length(LIMIT + 1), LIMIT).feed(b"");
        assert_eq!(announced, Err(too_large));
        let input = [b'a'; 1025];
        assert!(discard(BodyFraming::Length(LIMIT), &input, 100).is_ok());
        assert!(discard(BodyFraming::CloseDelimited, &input[..1024], 100).is_ok());
        assert_eq!(discard(BodyFraming::CloseDelimited, &input, 100).unwrap_err(), too_large);
        let endless = b"1;extension\r\na\r\n".repeat(65);
        assert_eq!(discard(BodyFraming::Chunked, &endless, 100).unwrap_err(), too_large);
    }

    #[test]
    fn errors_beyond_the_limit_are_never_reported_however_the_body_is_split() {
        let body = [&b"400\r\n"[..], &[b'a'; 1024], b"no end"].concat();
        for step in [1, 100, 1029, body.len()] {
            let too_large = DiscardError::TooLarge { limit_bytes: LIMIT };
            assert_eq!(discard(BodyFraming::Chunked, &body, step).unwrap_err(), too_large, "in steps of {step}");
        }
    }

    #[test]
    fn an_invalid_chunk_is_an_error() {
        assert_eq!(
            discard(BodyFraming::Chunked, b"zz\r\n", 4).unwrap_err(),
            DiscardError::BadChunk(ChunkError::InvalidSize)
        );
    }
}
