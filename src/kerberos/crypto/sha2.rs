//! aes128-cts-hmac-sha256-128 and aes256-cts-hmac-sha384-192 (RFC 8009).

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Sha256, Sha384};
use zeroize::{Zeroize, Zeroizing};

use super::aes::{Aes, BLOCK};
use super::{Etype, Key, KeyUsage};
use crate::kerberos::error::CryptoError;

/// The HMAC of an etype with some key.
#[derive(Clone)]
enum Keyed {
    Sha256(Hmac<Sha256>),
    Sha384(Hmac<Sha384>),
}

impl Keyed {
    fn new(etype: Etype, key: &[u8]) -> Keyed {
        // HMAC pads a short key with zeros, so a whole block with the key at its beginning is the same key.
        let mut block = Zeroizing::new([0; 128]);
        block[..key.len()].copy_from_slice(key);
        match etype {
            Etype::Aes256Sha384 => Keyed::Sha384(Hmac::<Sha384>::new((&*block).into())),
            _ => {
                let half: &[u8; 64] = block.first_chunk().unwrap_or(&[0; 64]);
                Keyed::Sha256(Hmac::<Sha256>::new(half.into()))
            }
        }
    }

    fn update(&mut self, data: &[u8]) {
        match self {
            Keyed::Sha256(mac) => mac.update(data),
            Keyed::Sha384(mac) => mac.update(data),
        }
    }

    /// The first bytes of the code, as many as fit.
    fn finish(self, out: &mut [u8]) {
        fn copy(code: &mut [u8], out: &mut [u8]) {
            out.copy_from_slice(&code[..out.len()]);
            // It may be a key.
            code.zeroize();
        }
        match self {
            Keyed::Sha256(mac) => copy(&mut mac.finalize().into_bytes(), out),
            Keyed::Sha384(mac) => copy(&mut mac.finalize().into_bytes(), out),
        }
    }

    fn verify(self, code: &[u8]) -> Result<(), CryptoError> {
        match self {
            Keyed::Sha256(mac) => mac.verify_truncated_left(code),
            Keyed::Sha384(mac) => mac.verify_truncated_left(code),
        }
        .map_err(|_| CryptoError::Integrity)
    }
}

pub(super) fn string_to_key(etype: Etype, password: &str, salt: &[u8], iterations: u32) -> Key {
    let salt = [etype.name().as_bytes(), &[0], salt].concat();
    let iterations = iterations.max(1);
    let temporary = Key::written_by(etype, |key| {
        // It fails only for a key that is too long.
        let _ = match etype {
            Etype::Aes256Sha384 => pbkdf2::pbkdf2::<Hmac<Sha384>>(password.as_bytes(), &salt, iterations, key),
            _ => pbkdf2::pbkdf2::<Hmac<Sha256>>(password.as_bytes(), &salt, iterations, key),
        };
    });
    Key::written_by(etype, |key| derive(&temporary, b"kerberos", key))
}

/// Ke and Ki (RFC 8009 §5) of a key for one usage, ready to use.
pub(super) struct UsageKey {
    encryption: Option<Aes>,
    /// It has the initial vector already.
    integrity: Keyed,
    mac_bytes: usize,
}

impl UsageKey {
    pub(super) fn new(key: &Key, usage: KeyUsage) -> UsageKey {
        let encryption = Key::written_by(key.etype(), |out| derive(key, &label(usage, 0xaa), out));
        let mut integrity = mac_key(key, usage, 0x55);
        integrity.update(&[0; BLOCK]);
        UsageKey { encryption: Aes::new(encryption.bytes()), integrity, mac_bytes: key.etype().mac_bytes() }
    }

    /// The HMAC of the initial vector and the ciphertext.
    fn integrity_of(&self, cipher: &[u8]) -> Keyed {
        let mut keyed = self.integrity.clone();
        keyed.update(cipher);
        keyed
    }

    pub(super) fn encrypt(&self, data: &mut Vec<u8>) {
        if let Some(aes) = &self.encryption {
            aes.encrypt_cts(data);
        }
        let mut mac = [0; 24];
        let mac = &mut mac[..self.mac_bytes];
        self.integrity_of(data).finish(mac);
        data.extend_from_slice(mac);
    }

    pub(super) fn decrypt(&self, data: &mut Vec<u8>) -> Result<(), CryptoError> {
        let mac = data.split_off(data.len() - self.mac_bytes);
        self.integrity_of(data).verify(&mac)?;
        if let Some(aes) = &self.encryption {
            aes.decrypt_cts(data);
        }
        Ok(())
    }
}

pub(super) fn checksum(key: &Key, usage: KeyUsage, data: &[u8]) -> Vec<u8> {
    let mut mac = vec![0; key.etype().mac_bytes()];
    let mut keyed = mac_key(key, usage, 0x99);
    keyed.update(data);
    keyed.finish(&mut mac);
    mac
}

fn mac_key(key: &Key, usage: KeyUsage, last: u8) -> Keyed {
    let mut bytes = Zeroizing::new([0; 24]);
    let bytes = &mut bytes[..key.etype().mac_bytes()];
    derive(key, &label(usage, last), bytes);
    Keyed::new(key.etype(), bytes)
}

fn label(usage: KeyUsage, last: u8) -> [u8; 5] {
    let [a, b, c, d] = usage.0.to_be_bytes();
    [a, b, c, d, last]
}

/// KDF-HMAC-SHA2 (RFC 8009 §3) without a context: one block is always enough.
fn derive(key: &Key, label: &[u8], out: &mut [u8]) {
    let mut keyed = Keyed::new(key.etype(), key.bytes());
    keyed.update(&[0, 0, 0, 1]);
    keyed.update(label);
    keyed.update(&[0]);
    let [.., a, b, c, d] = (out.len() as u64 * 8).to_be_bytes();
    keyed.update(&[a, b, c, d]);
    keyed.finish(out);
}
