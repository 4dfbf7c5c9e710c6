//! Channel bindings of the type `tls-server-end-point` (RFC 5929 §4): they tie a logon to the certificate of the
//! server, so that it is worthless on a connection to another server. Windows calls this Extended Protection.

use md5::{Digest, Md5};
use sha2::{Sha224, Sha256, Sha384, Sha512};

use super::certificate::{Certificate, SignatureHash};

/// The prefix that the type has in the application data of the bindings.
const PREFIX: &[u8] = b"tls-server-end-point:";

/// The MD5 hash of the bindings to a server with this certificate (DER), as NTLM carries it in MsvAvChannelBindings
/// (MS-NLMP §2.2.2.1) and Kerberos in the checksum of the authenticator (RFC 4121 §4.1.1.2).
///
/// `None` if the certificate is malformed, or signed with an algorithm for which no bindings are defined. Then none are
/// sent, because a wrong value is a failed logon where bindings are checked.
#[must_use]
pub fn server_end_point(certificate: &[u8]) -> Option<[u8; 16]> {
    certificate_hash(certificate).map(|hash| hashed(&hash))
}

/// The hash of the certificate that RFC 5929 §4.1 demands: with the hash of the algorithm by which it is signed, but
/// with SHA-256 in place of MD5 and SHA-1.
///
/// For Ed25519, which has no such hash, the RFC leaves the bindings undefined. OpenSSL (`X509_digest_sig`) and GnuTLS
/// (`gnutls_session_channel_binding`, and with it Samba) use SHA-512 there, the hash inside of Ed25519, and so does
/// this. Windows has no such certificates for TLS.
fn certificate_hash(certificate: &[u8]) -> Option<Vec<u8>> {
    Some(match Certificate::read(certificate)?.signature_hash? {
        SignatureHash::Sha224 => Sha224::digest(certificate).to_vec(),
        SignatureHash::Md5 | SignatureHash::Sha1 | SignatureHash::Sha256 => Sha256::digest(certificate).to_vec(),
        SignatureHash::Sha384 => Sha384::digest(certificate).to_vec(),
        SignatureHash::Sha512 | SignatureHash::Ed25519 => Sha512::digest(certificate).to_vec(),
    })
}

/// The MD5 hash of a gss_channel_bindings_struct (RFC 2744 §3.11) without addresses.
fn hashed(certificate_hash: &[u8]) -> [u8; 16] {
    let length = u32::try_from(PREFIX.len() + certificate_hash.len()).unwrap_or(u32::MAX);
    let mut hash = Md5::new();
    // The type and the length of both addresses.
    hash.update([0; 16]);
    hash.update(length.to_le_bytes());
    hash.update(PREFIX);
    hash.update(certificate_hash);
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value with which other implementations (ntlm-auth, pyspnego) are tested.
    #[test]
    fn the_bindings_of_a_known_certificate_hash_are_those_that_others_compute() {
        let certificate_hash = [
            0xe3, 0xca, 0x49, 0x27, 0x1e, 0x50, 0x89, 0xcc, 0x48, 0xce, 0x82, 0x10, 0x9f, 0x13, 0x24, 0xf4, 0x1d, 0xbe,
            0xdd, 0xc2, 0x9a, 0x77, 0x74, 0x10, 0xc7, 0x38, 0xf7, 0x86, 0x8c, 0x4f, 0xf4, 0x05,
        ];
        let bindings = [0x6e, 0xa1, 0x9d, 0xf0, 0x66, 0xda, 0x46, 0x22, 0x05, 0x1f, 0x9c, 0x4f, 0x92, 0xc6, 0xdf, 0x74];
        assert_eq!(hashed(&certificate_hash), bindings);
    }

    #[test]
    fn a_certificate_that_cannot_be_read_has_no_bindings() {
        assert_eq!(server_end_point(b""), None);
        assert_eq!(server_end_point(b"\x30\x03\x02\x01\x00"), None);
    }
}
