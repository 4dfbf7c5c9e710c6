//! Buffers that give back their memory once their bytes are used: ten thousand connections must not each keep as much
//! as the longest head took.

use crate::limits::{KEPT_CAPACITY_BYTES, SPARE_BUFFER_BYTES, SPARE_BUFFERS};

/// Removes the first `used` bytes and gives back the memory that the rest does not need, except for a little.
pub fn take_front(buffer: &mut Vec<u8>, used: usize) {
    if used < buffer.len() {
        buffer.drain(..used);
        if buffer.capacity() > KEPT_CAPACITY_BYTES.max(4 * buffer.len()) {
            buffer.shrink_to(buffer.len());
        }
    } else if buffer.capacity() > KEPT_CAPACITY_BYTES {
        *buffer = Vec::new();
    } else {
        buffer.clear();
    }
}

/// Empty buffers that the connections of a shard lend each other, so that a short-lived one allocates none.
#[derive(Debug, Default)]
pub struct SpareBuffers {
    buffers: Vec<Vec<u8>>,
}

impl SpareBuffers {
    /// An empty buffer with some capacity.
    pub fn take(&mut self) -> Vec<u8> {
        self.buffers.pop().unwrap_or_else(|| Vec::with_capacity(SPARE_BUFFER_BYTES))
    }

    /// Replaces a buffer that has no memory.
    pub fn lend(&mut self, buffer: &mut Vec<u8>) {
        if buffer.capacity() == 0 {
            *buffer = self.take();
        }
    }

    /// Takes the memory of a buffer back if it is empty.
    pub fn reclaim(&mut self, buffer: &mut Vec<u8>) {
        if buffer.is_empty() && buffer.capacity() > 0 {
            self.give_back(std::mem::take(buffer));
        }
    }

    /// Takes a buffer back. One that has grown is freed, as are more of them than are in use at once in most turns.
    pub fn give_back(&mut self, mut buffer: Vec<u8>) {
        let is_of_use = (SPARE_BUFFER_BYTES..=KEPT_CAPACITY_BYTES).contains(&buffer.capacity());
        if is_of_use && self.buffers.len() < SPARE_BUFFERS {
            buffer.clear();
            self.buffers.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spare_buffers_are_empty_and_neither_many_nor_large() {
        let mut spare = SpareBuffers::default();
        let mut buffer = spare.take();
        assert!(buffer.capacity() >= SPARE_BUFFER_BYTES);
        buffer.extend_from_slice(b"head");
        let address = buffer.as_ptr();
        spare.give_back(buffer);
        spare.give_back(Vec::with_capacity(64 * 1024));
        spare.give_back(Vec::new());
        let again = spare.take();
        assert_eq!((again.as_ptr(), again.len()), (address, 0));
        assert_eq!(spare.buffers.len(), 0);
        (0..2 * SPARE_BUFFERS).for_each(|_| spare.give_back(Vec::with_capacity(SPARE_BUFFER_BYTES)));
        assert_eq!(spare.buffers.len(), SPARE_BUFFERS);
    }

    #[test]
    fn memory_is_given_back_with_the_bytes_that_took_it() {
        let mut buffer = vec![b'x'; 64 * 1024];
        take_front(&mut buffer, 1);
        assert_eq!(buffer.len(), 64 * 1024 - 1);
        take_front(&mut buffer, 64 * 1024 - 11);
        assert_eq!((buffer.as_slice(), buffer.capacity()), (&[b'x'; 10][..], 10));
        buffer.reserve(64 * 1024);
        take_front(&mut buffer, 10);
        assert_eq!(buffer.capacity(), 0);
    }

    #[test]
    fn a_small_buffer_keeps_its_capacity_for_the_next_bytes() {
        let mut buffer = Vec::with_capacity(2048);
        buffer.extend_from_slice(b"head");
        take_front(&mut buffer, 4);
        assert_eq!((buffer.len(), buffer.capacity()), (0, 2048));
    }
}
