//! Buffers that give back their memory once their bytes are used: ten thousand connections must not each keep as much
//! as the longest head took.

/// Capacity that an empty buffer keeps for the next bytes.
const KEPT_CAPACITY_BYTES: usize = 4 * 1024;

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

#[cfg(test)]
mod tests {
    use super::*;

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
