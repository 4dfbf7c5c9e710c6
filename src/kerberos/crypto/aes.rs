//! AES in CBC mode with ciphertext stealing: the variant that always exchanges the last two blocks (RFC 3962 §5), with
//! an initial vector of zeros.

use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use aes::{Aes128, Aes256};

pub(super) const BLOCK: usize = 16;

/// AES with a key of 128 or 256 bits. The round keys are wiped when it is dropped.
pub(super) enum Aes {
    Short(Box<Aes128>),
    Long(Box<Aes256>),
}

impl Aes {
    /// `None` unless the key has 16 or 32 bytes.
    pub(super) fn new(key: &[u8]) -> Option<Aes> {
        match key.len() {
            16 => Aes128::new_from_slice(key).ok().map(|aes| Aes::Short(Box::new(aes))),
            _ => Aes256::new_from_slice(key).ok().map(|aes| Aes::Long(Box::new(aes))),
        }
    }

    pub(super) fn encrypt_block(&self, block: &mut [u8; BLOCK]) {
        match self {
            Aes::Short(aes) => aes.encrypt_block(block.into()),
            Aes::Long(aes) => aes.encrypt_block(block.into()),
        }
    }

    fn decrypt_block(&self, block: &mut [u8; BLOCK]) {
        match self {
            Aes::Short(aes) => aes.decrypt_block(block.into()),
            Aes::Long(aes) => aes.decrypt_block(block.into()),
        }
    }

    /// Encrypts in place. `data` has at least one block; its capacity should be a whole number of blocks.
    pub(super) fn encrypt_cts(&self, data: &mut Vec<u8>) {
        let length = data.len();
        data.resize(length.next_multiple_of(BLOCK), 0);
        let mut previous = [0; BLOCK];
        let (blocks, _) = data.as_chunks_mut::<BLOCK>();
        for block in blocks.iter_mut() {
            xor(block, &previous);
            self.encrypt_block(block);
            previous = *block;
        }
        if let [.., before, last] = blocks {
            std::mem::swap(before, last);
        }
        data.truncate(length);
    }

    /// Decrypts in place. Shorter data than one block is left as it is.
    pub(super) fn decrypt_cts(&self, data: &mut [u8]) {
        let tail_bytes = match data.len() {
            0..BLOCK => return,
            BLOCK => BLOCK,
            length => BLOCK + (length - 1) % BLOCK + 1,
        };
        let (body, tail) = data.split_at_mut(data.len() - tail_bytes);
        let mut previous = [0; BLOCK];
        for block in body.as_chunks_mut::<BLOCK>().0 {
            self.decrypt_after(block, &mut previous);
        }
        let Some((first, rest)) = tail.split_first_chunk_mut::<BLOCK>() else { return };
        if rest.is_empty() {
            return self.decrypt_after(first, &mut previous);
        }
        // `first` is the last block of CBC. The one before it was cut to the length of `rest`. What was cut off is in
        // `first` once it is decrypted, because the plain text was filled up with zeros.
        self.decrypt_block(first);
        let mut before = *first;
        before[..rest.len()].copy_from_slice(rest);
        xor(first, &before);
        rest.copy_from_slice(&first[..rest.len()]);
        self.decrypt_block(&mut before);
        xor(&mut before, &previous);
        *first = before;
    }

    /// CBC: decrypts one block; `previous` becomes its ciphertext.
    fn decrypt_after(&self, block: &mut [u8; BLOCK], previous: &mut [u8; BLOCK]) {
        let cipher = *block;
        self.decrypt_block(block);
        xor(block, previous);
        *previous = cipher;
    }
}

fn xor(block: &mut [u8; BLOCK], with: &[u8; BLOCK]) {
    for (byte, with) in block.iter_mut().zip(with) {
        *byte ^= with;
    }
}
