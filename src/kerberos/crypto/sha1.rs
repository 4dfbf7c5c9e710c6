//! aes128-cts-hmac-sha1-96 and aes256-cts-hmac-sha1-96 (RFC 3962), by the simplified profile of RFC 3961 §5.3.

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use zeroize::Zeroizing;

use super::aes::{Aes, BLOCK};
use super::{Etype, Key, KeyUsage};
use crate::kerberos::error::CryptoError;

pub(super) fn string_to_key(etype: Etype, password: &str, salt: &[u8], iterations: u32) -> Key {
    let temporary = Key::written_by(etype, |key| {
        // It fails only for a key that is too long.
        let _ = pbkdf2::pbkdf2::<Hmac<Sha1>>(password.as_bytes(), salt, iterations.max(1), key);
    });
    derive(&temporary, b"kerberos")
}

/// Ke and Ki (RFC 3961 §5.3) of a key for one usage, ready to use.
pub(super) struct UsageKey {
    encryption: Option<Aes>,
    integrity: Hmac<Sha1>,
    mac_bytes: usize,
}

impl UsageKey {
    pub(super) fn new(key: &Key, usage: KeyUsage) -> UsageKey {
        UsageKey {
            encryption: Aes::new(for_usage(key, usage, 0xaa).bytes()),
            integrity: keyed(&for_usage(key, usage, 0x55)),
            mac_bytes: key.etype().mac_bytes(),
        }
    }

    pub(super) fn encrypt(&self, data: &mut Vec<u8>) {
        let mac = self.integrity.clone().chain_update(&data).finalize().into_bytes();
        if let Some(aes) = &self.encryption {
            aes.encrypt_cts(data);
        }
        data.extend_from_slice(&mac[..self.mac_bytes]);
    }

    pub(super) fn decrypt(&self, data: &mut Vec<u8>) -> Result<(), CryptoError> {
        let mac = data.split_off(data.len() - self.mac_bytes);
        if let Some(aes) = &self.encryption {
            aes.decrypt_cts(data);
        }
        self.integrity.clone().chain_update(&data).verify_truncated_left(&mac).map_err(|_| CryptoError::Integrity)
    }
}

pub(super) fn checksum(key: &Key, usage: KeyUsage, data: &[u8]) -> Vec<u8> {
    let mac = keyed(&for_usage(key, usage, 0x99)).chain_update(data).finalize().into_bytes();
    mac[..key.etype().mac_bytes()].to_vec()
}

fn keyed(key: &Key) -> Hmac<Sha1> {
    // HMAC pads a short key with zeros, so a whole block with the key at its beginning is the same key.
    let mut block = Zeroizing::new([0; 64]);
    block[..key.bytes().len()].copy_from_slice(key.bytes());
    Hmac::<Sha1>::new((&*block).into())
}

/// The key for a usage (RFC 3961 §5.3): `last` is 0x99 for checksums, 0xaa for encryption, 0x55 for integrity.
fn for_usage(key: &Key, usage: KeyUsage, last: u8) -> Key {
    let [a, b, c, d] = usage.0.to_be_bytes();
    derive(key, &[a, b, c, d, last])
}

/// DK (RFC 3961 §5.1). random-to-key is the identity for AES.
pub(super) fn derive(key: &Key, constant: &[u8]) -> Key {
    Key::written_by(key.etype(), |out| {
        let Some(aes) = Aes::new(key.bytes()) else { return };
        let mut block = Zeroizing::new([0; BLOCK]);
        n_fold(constant, &mut *block);
        for part in out.chunks_mut(BLOCK) {
            aes.encrypt_block(&mut block);
            part.copy_from_slice(&block[..part.len()]);
        }
    })
}

/// n-fold (RFC 3961 §5.1): `input`, repeated and each time rotated by 13 bits more, added up in one's complement.
pub(super) fn n_fold(input: &[u8], out: &mut [u8]) {
    let (input_bits, out_bytes) = (input.len() * 8, out.len());
    if input.is_empty() || out.is_empty() {
        return;
    }
    let repetitions = least_common_multiple(input.len(), out_bytes) / input.len();
    let mut sums = vec![0_u32; out_bytes];
    for place in 0..repetitions * input.len() {
        // The byte at this place of the concatenation: eight bits of the input, rotated to the right.
        let (repetition, byte) = (place / input.len(), place % input.len());
        let start = (byte * 8 + input_bits * repetition.max(1) - (13 * repetition) % input_bits) % input_bits;
        let high = u16::from(input[start / 8]);
        let low = u16::from(input[(start / 8 + 1) % input.len()]);
        let [_, eight] = ((high << 8 | low) >> (8 - start % 8)).to_be_bytes();
        sums[place % out_bytes] += u32::from(eight);
    }
    // One's complement: a carry out of the highest byte is added at the lowest.
    while sums.iter().any(|sum| *sum > 0xff) {
        let mut carry = 0;
        for sum in sums.iter_mut().rev() {
            *sum += carry;
            carry = *sum >> 8;
            *sum &= 0xff;
        }
        if let Some(lowest) = sums.last_mut() {
            *lowest += carry;
        }
    }
    for (byte, sum) in out.iter_mut().zip(sums) {
        [_, _, _, *byte] = sum.to_be_bytes();
    }
}

fn least_common_multiple(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}
