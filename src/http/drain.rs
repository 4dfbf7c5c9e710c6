//! Reads a body nobody wants, so that its connection can be used again: exactly to its end, and within a bound.

use super::chunked::{ChunkError, ChunkedDecoder};
use super::framing::BodyFraming;

/// Why a body cannot be drained; its connection is of no further use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DrainError {
    /// Announced or found to be larger than the bound, framing included.
    #[error("the body is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The bound, in bytes.
        limit_bytes: u64,
    },
    /// The chunked framing is broken.
    #[error("{0}")]
    BadChunk(#[from] ChunkError),
    /// The connection ended inside the body.
    #[error("the connection ended before the body did")]
    Truncated,
}

/// What became of one piece of input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Bytes at the front of the input that belong to the body; what lies behind is leftover.
    pub consumed: usize,
    /// The body has ended.
    pub done: bool,
}

/// Drains one body; keeps none of its bytes.
#[derive(Debug, Clone)]
pub struct BodyDrain {
    body: Body,
    limit_bytes: u64,
    budget_bytes: u64,
}

#[derive(Debug, Clone)]
enum Body {
    Length(u64),
    Chunked(ChunkedDecoder),
    ToClose,
}

impl BodyDrain {
    /// For a body framed so, which may take up to `limit_bytes`, chunk framing included.
    pub fn new(framing: BodyFraming, limit_bytes: u64) -> Self {
        Self {
            body: match framing {
                BodyFraming::None => Body::Length(0),
                BodyFraming::Length(length) => Body::Length(length),
                BodyFraming::Chunked => Body::Chunked(ChunkedDecoder::new()),
                BodyFraming::ToClose => Body::ToClose,
            },
            limit_bytes,
            budget_bytes: limit_bytes,
        }
    }

    /// Whether the body has ended; true from the start where there is none.
    pub fn is_done(&self) -> bool {
        match &self.body {
            Body::Length(left) => *left == 0,
            Body::Chunked(decoder) => decoder.is_done(),
            Body::ToClose => false,
        }
    }

    /// Takes in what arrived, which may be nothing. A body that lasts to the close is never done here.
    ///
    /// # Errors
    /// [`DrainError::TooLarge`] as soon as the bound is sure to be passed: for an announced length at once;
    /// [`DrainError::BadChunk`].
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Drained, DrainError> {
        let too_large = DrainError::TooLarge { limit_bytes: self.limit_bytes };
        // Up to the byte that would pass the bound: a fault behind it must not be found or missed by how the body was cut.
        let seen = usize::try_from(self.budget_bytes).map_or(usize::MAX, |budget| budget.saturating_add(1));
        let bytes = bytes.get(..seen).unwrap_or(bytes);
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
            Body::ToClose => bytes.len(),
        };
        self.budget_bytes = self.budget_bytes.checked_sub(consumed as u64).ok_or(too_large)?;
        Ok(Drained { consumed, done: self.is_done() })
    }

    /// The connection ended.
    ///
    /// # Errors
    /// [`DrainError::Truncated`] when the body had not, unless the close is what ends it.
    pub fn eof(self) -> Result<(), DrainError> {
        match self.body {
            Body::ToClose => Ok(()),
            _ if self.is_done() => Ok(()),
            _ => Err(DrainError::Truncated),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 1024;

    /// Feeds in pieces of `step`; how many bytes were taken, and the drain.
    fn drain(framing: BodyFraming, input: &[u8], step: usize) -> Result<(usize, BodyDrain), DrainError> {
        let mut drain = BodyDrain::new(framing, LIMIT);
        let mut taken = 0;
        for piece in input.chunks(step) {
            let drained = drain.feed(piece)?;
            assert_eq!(drained.done, drain.is_done());
            taken += drained.consumed;
            if drained.done {
                break;
            }
            assert_eq!(drained.consumed, piece.len());
        }
        Ok((taken, drain))
    }

    #[test]
    fn a_length_is_drained_exactly() {
        let input = [b'a'; 710];
        for step in [1, 7, 700, 701, 702, 710] {
            let (taken, drain) = drain(BodyFraming::Length(701), &input, step).unwrap();
            assert_eq!(taken, 701);
            assert_eq!(drain.eof(), Ok(()));
        }
    }

    #[test]
    fn a_chunked_body_is_drained_to_the_end_of_its_trailers() {
        let body = b"5;x=y\r\nhello\r\n0\r\nA: b\r\nC: d\r\n\r\n";
        let input = [&body[..], b"HTTP/1.1"].concat();
        for step in 1..=input.len() {
            let (taken, drain) = drain(BodyFraming::Chunked, &input, step).unwrap();
            assert_eq!(taken, body.len(), "in steps of {step}");
            assert_eq!(drain.eof(), Ok(()));
        }
    }

    #[test]
    fn no_body_is_done_before_anything_comes() {
        for framing in [BodyFraming::None, BodyFraming::Length(0)] {
            let mut drain = BodyDrain::new(framing, 0);
            assert!(drain.is_done());
            assert_eq!(drain.feed(b"leftover"), Ok(Drained { consumed: 0, done: true }));
        }
    }

    #[test]
    fn a_body_to_the_close_ends_with_the_connection_only() {
        let (taken, drain) = drain(BodyFraming::ToClose, &[b'a'; 100], 9).unwrap();
        assert_eq!(taken, 100);
        assert!(!drain.is_done());
        assert_eq!(drain.eof(), Ok(()));
    }

    #[test]
    fn a_truncated_body_is_named() {
        let body = b"5\r\nhello\r\n0\r\n\r\n";
        for len in 0..body.len() {
            let (_, drain) = drain(BodyFraming::Chunked, &body[..len], 3).unwrap();
            assert_eq!(drain.eof(), Err(DrainError::Truncated), "cut at {len}");
        }
        let (_, drain) = drain(BodyFraming::Length(5), b"hell", 4).unwrap();
        assert_eq!(drain.eof(), Err(DrainError::Truncated));
    }

    #[test]
    fn a_huge_or_endless_body_is_given_up_at_the_bound() {
        let too_large = DrainError::TooLarge { limit_bytes: LIMIT };
        let announced = BodyDrain::new(BodyFraming::Length(LIMIT + 1), LIMIT).feed(b"");
        assert_eq!(announced, Err(too_large));
        let input = [b'a'; 1025];
        assert!(drain(BodyFraming::Length(LIMIT), &input, 100).is_ok());
        assert!(drain(BodyFraming::ToClose, &input[..1024], 100).is_ok());
        assert_eq!(drain(BodyFraming::ToClose, &input, 100).unwrap_err(), too_large);
        let endless = b"1;extension\r\na\r\n".repeat(65);
        assert_eq!(drain(BodyFraming::Chunked, &endless, 100).unwrap_err(), too_large);
    }

    #[test]
    fn what_is_broken_behind_the_bound_is_not_looked_at_however_the_body_is_cut() {
        let body = [&b"400\r\n"[..], &[b'a'; 1024], b"no end"].concat();
        for step in [1, 100, 1029, body.len()] {
            let too_large = DrainError::TooLarge { limit_bytes: LIMIT };
            assert_eq!(drain(BodyFraming::Chunked, &body, step).unwrap_err(), too_large, "in steps of {step}");
        }
    }

    #[test]
    fn a_broken_chunk_is_named() {
        assert_eq!(
            drain(BodyFraming::Chunked, b"zz\r\n", 4).unwrap_err(),
            DrainError::BadChunk(ChunkError::InvalidSize)
        );
    }
}
