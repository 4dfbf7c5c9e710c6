//! Keys, encryption and checksums (RFC 3961), each etype by its own specification.
//!
//! | file | subject |
//! |---|---|
//! | `etype` | the encryption types |
//! | `key` | keys: from a password, for encryption, for checksums |
//! | `aes` | AES in CBC mode with ciphertext stealing |
//! | `sha1` | AES with HMAC-SHA1 (RFC 3962) |
//! | `sha2` | AES with HMAC-SHA2 (RFC 8009) |
//! | `rc4` | RC4 with HMAC-MD5 (RFC 4757) |

mod aes;
mod etype;
mod key;
mod rc4;
mod sha1;
mod sha2;

#[cfg(test)]
mod tests;

pub use etype::{Etype, EtypeSet};
#[cfg(test)]
pub(super) use key::DERIVATIONS;
pub use key::{Confounder, Key};
pub(super) use key::{KeyUsage, UsageKey};
