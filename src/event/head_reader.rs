//! Reading heads: bytes are looked at where the read put them, and kept only when they have to wait for more.

use std::io;

use super::take_front;
use crate::limits;
use crate::transport::Endpoint;

/// The outcome of a read.
pub enum ReadOutcome<T> {
    /// Nothing to read now.
    Blocked,
    /// The peer has ended its direction.
    End,
    /// Bytes came; this is what the reader made of them.
    Bytes(T),
}

/// The bytes of a connection that have not been used yet.
#[derive(Debug, Default)]
pub struct HeadReader {
    /// Usually empty: most heads arrive whole and are parsed in the shard's scratch buffer.
    kept: Vec<u8>,
}

impl HeadReader {
    /// Starts with bytes that came behind something else.
    pub fn holding(kept: Vec<u8>) -> HeadReader {
        HeadReader { kept }
    }

    /// Reads once and shows all unused bytes to `look`, which returns how many of them it used.
    ///
    /// # Errors
    /// What the socket says.
    pub fn read<T>(
        &mut self,
        endpoint: &mut Endpoint,
        scratch: &mut [u8],
        look: impl FnOnce(&[u8]) -> (usize, T),
    ) -> io::Result<ReadOutcome<T>> {
        let most = scratch.len().min(limits::HEAD_READ_BYTES);
        let count = match endpoint.read(&mut scratch[..most])? {
            None => return Ok(ReadOutcome::Blocked),
            Some(0) => return Ok(ReadOutcome::End),
            Some(count) => count,
        };
        let read = &scratch[..count];
        if self.kept.is_empty() {
            let (used, outcome) = look(read);
            self.kept.extend_from_slice(&read[used..]);
            return Ok(ReadOutcome::Bytes(outcome));
        }
        self.kept.extend_from_slice(read);
        let (used, outcome) = look(&self.kept);
        take_front(&mut self.kept, used);
        Ok(ReadOutcome::Bytes(outcome))
    }

    /// Shows the unused bytes to `look`, which returns how many of them it used; `None` when there are none.
    pub fn look<T>(&mut self, look: impl FnOnce(&[u8]) -> (usize, T)) -> Option<T> {
        if self.kept.is_empty() {
            return None;
        }
        let (used, outcome) = look(&self.kept);
        take_front(&mut self.kept, used);
        Some(outcome)
    }

    /// Whether there are no unused bytes.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// The size of the buffer in bytes.
    pub fn held_bytes(&self) -> usize {
        self.kept.capacity()
    }

    /// The unused bytes: the leftover behind a head.
    pub fn into_leftover(self) -> Vec<u8> {
        self.kept
    }
}
