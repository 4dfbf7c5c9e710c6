//! Hashes, responses and session keys (MS-NLMP 3.3, 3.4, 6), under the names that the specification uses.

use des::cipher::BlockCipherEncrypt;
use hmac::digest::FixedOutput;
use hmac::{Hmac, KeyInit, Mac};
use md4::Md4;
use md5::{Digest, Md5};
use rc4::{Rc4, StreamCipher};
use std::sync::Arc;
use zeroize::{Zeroize, Zeroizing};

/// A 128-bit key or digest.
pub(super) type Key = [u8; 16];

/// A key that stays at one address and is overwritten when its last owner drops it.
///
/// If a struct contained the key itself, every move of the struct would copy it, and the old copies would never be
/// overwritten.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct SecretKey(Arc<Zeroizing<Key>>);

impl SecretKey {
    /// Creates a key that `write` fills in place.
    pub(super) fn written_by(write: impl FnOnce(&mut Key)) -> Self {
        let mut key = Arc::new(Zeroizing::new([0; 16]));
        // Always `Some`: there is no other owner yet.
        if let Some(bytes) = Arc::get_mut(&mut key) {
            write(bytes);
        }
        Self(key)
    }
}

impl std::ops::Deref for SecretKey {
    type Target = Key;

    fn deref(&self) -> &Key {
        &self.0
    }
}

/// The MD5 of the concatenated parts.
pub(super) fn md5(parts: &[&[u8]]) -> Key {
    let mut hash = Md5::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

/// An HMAC-MD5 with a 128-bit key.
fn keyed(key: &Key) -> Hmac<Md5> {
    // The constructor for keys of exactly one block cannot fail. HMAC itself pads short keys with zeros.
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    let mac = Hmac::<Md5>::new((&block).into());
    block.zeroize();
    mac
}

fn finish(mut mac: Hmac<Md5>, parts: &[&[u8]]) -> Key {
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// HMAC_MD5 of the concatenated parts.
pub(super) fn hmac_md5(key: &Key, parts: &[&[u8]]) -> Key {
    finish(keyed(key), parts)
}

/// NTOWFv1: the MD4 of the password in UTF-16LE (MS-NLMP 3.3.1). It makes no copy of the password.
pub(super) fn ntowf_v1(password: &str) -> SecretKey {
    let mut hash = Md4::new();
    for unit in password.encode_utf16() {
        hash.update(unit.to_le_bytes());
    }
    SecretKey::written_by(|key| hash.finalize_into_reset(key.into()))
}

/// NTOWFv2 (and LMOWFv2, which is the same): HMAC_MD5(NTOWFv1, UPPER(user) + domain) (MS-NLMP 3.3.2).
///
/// The user is converted to upper case, the domain is not.
pub(super) fn ntowf_v2(nt_hash: &Key, user: &str, domain: &str) -> SecretKey {
    let mut mac = keyed(nt_hash);
    let mut unit_buffer = [0; 2];
    for character in user.chars().map(upper_case).chain(domain.chars()) {
        for unit in character.encode_utf16(&mut unit_buffer) {
            mac.update(&unit.to_le_bytes());
        }
    }
    SecretKey::written_by(|key| mac.finalize_into(key.into()))
}

/// Converts a character to upper case as Windows does, which maps one UTF-16 code unit to one, or leaves it unchanged.
///
/// Unicode's full mapping turns `ß` into `SS`, which Windows does not, so the hash of a user name with that letter
/// would never match. Windows' table (the one in NTFS) also does not change `µ`, `ı` and `ſ`, whose capitals belong to
/// other alphabets or to ASCII, nor anything beyond the Basic Multilingual Plane. The Greek letters with iota subscript
/// have a single-letter capital only in Unicode's simple mapping.
fn upper_case(character: char) -> char {
    match character {
        '\u{b5}' | '\u{131}' | '\u{17f}' | '\u{10000}'.. => character,
        '\u{1f80}'..='\u{1f87}' | '\u{1f90}'..='\u{1f97}' | '\u{1fa0}'..='\u{1fa7}' => shifted(character, 8),
        '\u{1fb3}' | '\u{1fc3}' | '\u{1ff3}' => shifted(character, 9),
        _ => {
            let mut upper = character.to_uppercase();
            match (upper.next(), upper.next()) {
                (Some(single), None) => single,
                _ => character,
            }
        }
    }
}

fn shifted(character: char, by: u32) -> char {
    char::from_u32(u32::from(character) + by).unwrap_or(character)
}

/// DES of one block with a 56-bit key, which is expanded to eight bytes. The parity bits are zero, as DES ignores them.
pub(super) fn des(key: [u8; 7], block: [u8; 8]) -> [u8; 8] {
    let [a, b, c, d, e, f, g] = key;
    let bits = u64::from_be_bytes([0, a, b, c, d, e, f, g]);
    let mut spread = [0; 8];
    for (byte, shift) in spread.iter_mut().zip([49, 42, 35, 28, 21, 14, 7, 0]) {
        let [.., low] = (bits >> shift).to_be_bytes();
        *byte = low << 1;
    }
    let mut block = block.into();
    des::Des::new(&spread.into()).encrypt_block(&mut block);
    spread.zeroize();
    block.into()
}

/// DESL: encrypts `data` with each third of the key, of which the last is padded with zeros (MS-NLMP 6).
pub(super) fn desl(key: &Key, data: [u8; 8]) -> [u8; 24] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *key;
    let parts = [des([a, b, c, d, e, f, g], data), des([h, i, j, k, l, m, n], data), des([o, p, 0, 0, 0, 0, 0], data)];
    let mut out = [0; 24];
    out.copy_from_slice(parts.as_flattened());
    out
}

/// RC4K: encrypts or decrypts one key with another (MS-NLMP 6).
pub(super) fn rc4k(key: &Key, data: &Key) -> Key {
    let mut out = *data;
    Rc4::new_from_slice(key).expect("RC4 accepts keys of 1 to 256 bytes").apply_keystream(&mut out);
    out
}

/// The NTLMv1 response with extended session security, and its KeyExchangeKey (MS-NLMP 3.3.1, 3.4.5.1).
pub(super) fn v1_ess(nt_hash: &Key, server_challenge: [u8; 8], client_challenge: [u8; 8]) -> ([u8; 24], Key) {
    let [a, b, c, d, e, f, g, h, ..] = md5(&[&server_challenge, &client_challenge]);
    let response = desl(nt_hash, [a, b, c, d, e, f, g, h]);
    let session_base_key: Key = Md4::digest(nt_hash).into();
    (response, hmac_md5(&session_base_key, &[&server_challenge, &client_challenge]))
}

/// HMAC_MD5 with NTOWFv2 as its key, which every response needs twice. To set up a key takes two MD5 blocks, so it is
/// done once for an identity. It stays at one address, as a [`SecretKey`] does.
#[derive(Clone)]
pub(super) struct ResponseKey(Arc<Hmac<Md5>>);

impl ResponseKey {
    pub(super) fn new(ntowf_v2: &Key) -> Self {
        Self(Arc::new(keyed(ntowf_v2)))
    }

    fn mac(&self, parts: &[&[u8]]) -> Key {
        finish((*self.0).clone(), parts)
    }

    /// NTProofStr and the SessionBaseKey, which in NTLMv2 is also the KeyExchangeKey (MS-NLMP 3.3.2, 3.4.5.1).
    pub(super) fn v2_proof(&self, server_challenge: [u8; 8], temp: &[u8]) -> (Key, Key) {
        let nt_proof_str = self.mac(&[&server_challenge, temp]);
        let session_base_key = self.mac(&[&nt_proof_str]);
        (nt_proof_str, session_base_key)
    }

    /// The LMv2 response (MS-NLMP 3.3.2).
    pub(super) fn lm_v2(&self, server_challenge: [u8; 8], client_challenge: [u8; 8]) -> [u8; 24] {
        let mac = self.mac(&[&server_challenge, &client_challenge]);
        let mut response = [0; 24];
        response[..16].copy_from_slice(&mac);
        response[16..].copy_from_slice(&client_challenge);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_converted_to_upper_case_as_windows_does() {
        let upper: String = "straße.ÿµıſéς\u{1fb3}\u{10428}ŉ".chars().map(upper_case).collect();
        assert_eq!(upper, "STRAßE.Ÿµıſ\u{c9}Σ\u{1fbc}\u{10428}ŉ");
    }

    #[test]
    fn the_case_of_the_domain_matters_and_that_of_the_user_does_not() {
        let hash = ntowf_v1("Password");
        assert_eq!(*ntowf_v2(&hash, "user", "Domain"), *ntowf_v2(&hash, "USER", "Domain"));
        assert_ne!(*ntowf_v2(&hash, "user", "Domain"), *ntowf_v2(&hash, "user", "DOMAIN"));
    }

    #[test]
    fn rc4k_is_its_own_inverse() {
        let sealed = rc4k(&[1; 16], &[2; 16]);
        assert_ne!(sealed, [2; 16]);
        assert_eq!(rc4k(&[1; 16], &sealed), [2; 16]);
    }
}
