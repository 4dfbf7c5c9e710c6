//! Keys.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::{Etype, rc4, sha1, sha2};
use crate::kerberos::error::CryptoError;

/// Random bytes at the beginning of what is encrypted.
pub type Confounder = [u8; 16];

/// What a key is used for (RFC 4120 §7.5.1), which enters the derivation of the key that is actually used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kerberos) struct KeyUsage(pub u32);

impl KeyUsage {
    pub(in crate::kerberos) const PA_ENC_TIMESTAMP: KeyUsage = KeyUsage(1);
    pub(in crate::kerberos) const TICKET: KeyUsage = KeyUsage(2);
    pub(in crate::kerberos) const AS_REP: KeyUsage = KeyUsage(3);
    pub(in crate::kerberos) const TGS_REQ_CHECKSUM: KeyUsage = KeyUsage(6);
    pub(in crate::kerberos) const TGS_REQ_AUTHENTICATOR: KeyUsage = KeyUsage(7);
    pub(in crate::kerberos) const TGS_REP: KeyUsage = KeyUsage(8);
    /// TGS-REP, encrypted with the subkey of the request's authenticator.
    pub(in crate::kerberos) const TGS_REP_SUBKEY: KeyUsage = KeyUsage(9);
    pub(in crate::kerberos) const AP_REQ_AUTHENTICATOR: KeyUsage = KeyUsage(11);
    pub(in crate::kerberos) const AP_REP: KeyUsage = KeyUsage(12);
}

/// A key of one etype. It stays at one address and is overwritten when its last owner drops it; no `Debug` shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    etype: Etype,
    /// Only the first [`Etype::key_bytes`] are used.
    bytes: Arc<Zeroizing<[u8; 32]>>,
}

/// The keys that are derived from a key for one usage. They are overwritten when it is dropped; no `Debug` shows them.
pub(in crate::kerberos) struct UsageKey {
    etype: Etype,
    derived: Derived,
}

enum Derived {
    Sha1(sha1::UsageKey),
    Sha2(sha2::UsageKey),
    Rc4(rc4::UsageKey),
}

#[cfg(test)]
thread_local! {
    /// How often keys were derived on this thread.
    pub(in crate::kerberos) static DERIVATIONS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

impl fmt::Debug for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Key({})", self.etype)
    }
}

impl Key {
    /// A key that `write` fills in place.
    pub(super) fn written_by(etype: Etype, write: impl FnOnce(&mut [u8])) -> Key {
        let mut bytes = Arc::new(Zeroizing::new([0; 32]));
        // Always `Some`: there is no other owner yet.
        if let Some(bytes) = Arc::get_mut(&mut bytes) {
            write(&mut bytes[..etype.key_bytes()]);
        }
        Key { etype, bytes }
    }

    /// The key of these bytes; `None` if they are not as many as its etype needs.
    pub fn new(etype: Etype, bytes: &[u8]) -> Option<Key> {
        (bytes.len() == etype.key_bytes()).then(|| Key::written_by(etype, |key| key.copy_from_slice(bytes)))
    }

    /// string-to-key (RFC 3961 §3): the key of a password. Takes time in proportion to `iterations`, which the caller
    /// has to bound. RC4 uses neither salt nor iterations.
    pub fn of_password(etype: Etype, password: &str, salt: &[u8], iterations: u32) -> Key {
        match etype {
            Etype::Aes128Sha1 | Etype::Aes256Sha1 => sha1::string_to_key(etype, password, salt, iterations),
            Etype::Aes128Sha256 | Etype::Aes256Sha384 => sha2::string_to_key(etype, password, salt, iterations),
            Etype::Rc4 => rc4::string_to_key(password),
        }
    }

    /// The key itself: a secret. It is for fingerprints.
    pub fn reveal(&self) -> &[u8] {
        self.bytes()
    }

    /// Its etype.
    pub fn etype(&self) -> Etype {
        self.etype
    }

    /// The key itself: a secret.
    pub(in crate::kerberos) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.etype.key_bytes()]
    }

    /// The keys that are derived from it for one usage. This costs more than encrypting a message with them.
    pub(in crate::kerberos) fn for_usage(&self, usage: KeyUsage) -> UsageKey {
        #[cfg(test)]
        DERIVATIONS.set(DERIVATIONS.get() + 1);
        let derived = match self.etype {
            Etype::Aes128Sha1 | Etype::Aes256Sha1 => Derived::Sha1(sha1::UsageKey::new(self, usage)),
            Etype::Aes128Sha256 | Etype::Aes256Sha384 => Derived::Sha2(sha2::UsageKey::new(self, usage)),
            Etype::Rc4 => Derived::Rc4(rc4::UsageKey::new(self, usage)),
        };
        UsageKey { etype: self.etype, derived }
    }

    /// Encrypts. The confounder must be random.
    pub(in crate::kerberos) fn encrypt(&self, usage: KeyUsage, confounder: &Confounder, plain: &[u8]) -> Vec<u8> {
        self.for_usage(usage).encrypt(confounder, plain)
    }

    /// Decrypts, after it has verified that the data was encrypted with this key for this usage.
    pub(in crate::kerberos) fn decrypt(
        &self,
        usage: KeyUsage,
        etype: i64,
        cipher: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        self.for_usage(usage).decrypt(etype, cipher)
    }

    /// The checksum (RFC 3961 §3, get_mic) of the kind that belongs to the etype.
    pub(in crate::kerberos) fn checksum(&self, usage: KeyUsage, data: &[u8]) -> Vec<u8> {
        match self.etype {
            Etype::Aes128Sha1 | Etype::Aes256Sha1 => sha1::checksum(self, usage, data),
            Etype::Aes128Sha256 | Etype::Aes256Sha384 => sha2::checksum(self, usage, data),
            Etype::Rc4 => rc4::checksum(self, usage, data).to_vec(),
        }
    }
}

impl fmt::Debug for UsageKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "UsageKey({})", self.etype)
    }
}

impl UsageKey {
    /// Encrypts. The confounder must be random.
    pub(in crate::kerberos) fn encrypt(&self, confounder: &Confounder, plain: &[u8]) -> Vec<u8> {
        let confounder = &confounder[..self.etype.confounder_bytes()];
        // What is encrypted is encrypted in place, so nothing of it is left.
        let mut data = Vec::with_capacity(confounder.len() + plain.len() + 16 + self.etype.mac_bytes());
        data.extend_from_slice(confounder);
        data.extend_from_slice(plain);
        match &self.derived {
            Derived::Sha1(key) => key.encrypt(&mut data),
            Derived::Sha2(key) => key.encrypt(&mut data),
            Derived::Rc4(key) => key.encrypt(&mut data),
        }
        data
    }

    /// As [`Key::decrypt`].
    pub(in crate::kerberos) fn decrypt(&self, etype: i64, cipher: &[u8]) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        if etype != self.etype.number() {
            return Err(CryptoError::Etype { got: etype, key: self.etype.number() });
        }
        if cipher.len() < self.etype.confounder_bytes() + self.etype.mac_bytes() {
            return Err(CryptoError::Short);
        }
        let mut data = Zeroizing::new(cipher.to_vec());
        match &self.derived {
            Derived::Sha1(key) => key.decrypt(&mut data)?,
            Derived::Sha2(key) => key.decrypt(&mut data)?,
            Derived::Rc4(key) => key.decrypt(&mut data)?,
        }
        data.drain(..self.etype.confounder_bytes());
        Ok(data)
    }
}
