//! rc4-hmac (RFC 4757).

use hmac::{Hmac, KeyInit, Mac};
use md4::Md4;
use md5::{Digest, Md5};
use rc4::{Rc4, StreamCipher};
use zeroize::Zeroizing;

use super::{Etype, Key, KeyUsage};
use crate::kerberos::error::CryptoError;

type Code = Zeroizing<[u8; 16]>;

/// The MD4 of the password in UTF-16LE: the NT hash.
pub(super) fn string_to_key(password: &str) -> Key {
    let mut hash = Md4::new();
    for unit in password.encode_utf16() {
        hash.update(unit.to_le_bytes());
    }
    Key::written_by(Etype::Rc4, |key| key.copy_from_slice(&hash.finalize()))
}

/// The key for one usage.
pub(super) struct UsageKey(Code);

impl UsageKey {
    pub(super) fn new(key: &Key, usage: KeyUsage) -> UsageKey {
        UsageKey(hmac_md5(key.bytes(), &[&message_type(usage)]))
    }

    pub(super) fn encrypt(&self, data: &mut Vec<u8>) {
        let mac = hmac_md5(&*self.0, &[data]);
        self.apply(&mac, data);
        data.splice(0..0, *mac);
    }

    pub(super) fn decrypt(&self, data: &mut Vec<u8>) -> Result<(), CryptoError> {
        let mac: [u8; 16] = *data.first_chunk().ok_or(CryptoError::Short)?;
        data.drain(..mac.len());
        self.apply(&mac, data);
        keyed(&*self.0).chain_update(&data).verify_slice(&mac).map_err(|_| CryptoError::Integrity)
    }

    /// RC4 with the key that belongs to this checksum.
    fn apply(&self, mac: &[u8; 16], data: &mut [u8]) {
        let key = hmac_md5(&*self.0, &[mac]);
        if let Ok(mut rc4) = Rc4::new_from_slice(&*key) {
            rc4.apply_keystream(data);
        }
    }
}

/// HMAC-MD5 of the key's own kind (RFC 4757 §4).
pub(super) fn checksum(key: &Key, usage: KeyUsage, data: &[u8]) -> [u8; 16] {
    let signing_key = hmac_md5(key.bytes(), &[b"signaturekey\0"]);
    let digest = Md5::new().chain_update(message_type(usage)).chain_update(data).finalize();
    *hmac_md5(&*signing_key, &[&digest])
}

/// The usage as Windows numbers it (RFC 4757 §3).
fn message_type(usage: KeyUsage) -> [u8; 4] {
    match usage {
        KeyUsage::AS_REP => KeyUsage::TGS_REP.0,
        KeyUsage(9) => 8,
        KeyUsage(number) => number,
    }
    .to_le_bytes()
}

fn keyed(key: &[u8]) -> Hmac<Md5> {
    // HMAC pads a short key with zeros, so a whole block with the key at its beginning is the same key.
    let mut block = Zeroizing::new([0; 64]);
    block[..key.len()].copy_from_slice(key);
    Hmac::<Md5>::new((&*block).into())
}

fn hmac_md5(key: &[u8], parts: &[&[u8]]) -> Code {
    let mut mac = keyed(key);
    parts.iter().for_each(|part| mac.update(part));
    Zeroizing::new(mac.finalize().into_bytes().into())
}
