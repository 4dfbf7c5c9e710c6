//! Reading heads: bytes are looked at where the read put them and kept only when they have to wait for more.

use std::io;

use super::buffer::take_front;
use crate::event::Endpoint;
use crate::limits;

/// What a read brought.
pub enum Got<T> {
    /// Nothing now.
    Blocked,
    /// The peer has ended its direction.
    End,
    /// Bytes, and what the look at them came to.
    Bytes(T),
}

/// Bytes of one connection that have not been used yet.
#[derive(Debug, Default)]
pub struct HeadReader {
    /// Usually empty: a head mostly comes whole and is parsed in the shard's scratch buffer.
    kept: Vec<u8>,
}

impl HeadReader {
    /// Reads once and shows all unused bytes to `look`, which returns how many it used.
    ///
    /// # Errors
    /// What the socket says.
    pub fn read<T>(
        &mut self,
        endpoint: &mut Endpoint,
        scratch: &mut [u8],
        look: impl FnOnce(&[u8]) -> (usize, T),
    ) -> io::Result<Got<T>> {
        let most = scratch.len().min(limits::HEAD_READ_BYTES);
        let count = match endpoint.read(&mut scratch[..most])? {
            None => return Ok(Got::Blocked),
            Some(0) => return Ok(Got::End),
            Some(count) => count,
        };
        let fresh = &scratch[..count];
        if self.kept.is_empty() {
            let (used, outcome) = look(fresh);
            self.kept.extend_from_slice(&fresh[used..]);
            return Ok(Got::Bytes(outcome));
        }
        self.kept.extend_from_slice(fresh);
        let (used, outcome) = look(&self.kept);
        take_front(&mut self.kept, used);
        Ok(Got::Bytes(outcome))
    }

    /// Begins with what came behind something else.
    pub fn holding(kept: Vec<u8>) -> HeadReader {
        HeadReader { kept }
    }

    /// Shows what has come and was not used to `look`, which returns how many bytes of it it used; `None` when there is nothing.
    pub fn look<T>(&mut self, look: impl FnOnce(&[u8]) -> (usize, T)) -> Option<T> {
        if self.kept.is_empty() {
            return None;
        }
        let (used, outcome) = look(&self.kept);
        take_front(&mut self.kept, used);
        Some(outcome)
    }

    /// Nothing has come that was not used.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// What its buffers take, in bytes.
    pub fn held_bytes(&self) -> usize {
        self.kept.capacity()
    }

    /// What was not used: the leftover behind a head.
    pub fn into_leftover(self) -> Vec<u8> {
        self.kept
    }
}
