//! Certificates and keys in PEM (RFC 7468).

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::certificate::Certificate;

/// What is wrong with a file.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PemError {
    /// It has no certificate.
    #[error("contains no certificate in PEM (-----BEGIN CERTIFICATE-----){0}")]
    NoCertificate(&'static str),
    /// A certificate is malformed.
    #[error("its certificate number {0} is malformed")]
    Certificate(usize),
    /// It has no key.
    #[error("contains no private key in PEM (-----BEGIN PRIVATE KEY-----)")]
    NoKey,
    /// Its key is encrypted.
    #[error("contains an encrypted key; remove the passphrase: openssl pkey -in FILE -out FILE.plain")]
    Encrypted,
    /// It is not PEM.
    #[error("is not well-formed PEM")]
    Malformed,
}

/// All certificates in a file, at least one.
///
/// # Errors
/// [`PemError`] if there is none, or one that is malformed.
pub fn certificates(file: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(file).collect();
    let found = found.map_err(|_| PemError::Malformed)?;
    if let Some(place) = found.iter().position(|der| Certificate::read(der).is_none()) {
        return Err(PemError::Certificate(place + 1));
    }
    match found.is_empty() {
        true if file.starts_with(b"\x30\x82") => Err(PemError::NoCertificate(
            "; it is in DER: convert it with openssl x509 -inform der -in FILE -out FILE.pem",
        )),
        true => Err(PemError::NoCertificate("")),
        false => Ok(found),
    }
}

/// The certificates in a file that can be read, as in a system's store, where one that cannot must not disable the
/// others.
#[must_use]
pub fn readable_certificates(file: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(file).filter_map(Result::ok).collect()
}

/// The first private key in a file.
///
/// # Errors
/// [`PemError`] if there is none, or only an encrypted one.
pub fn private_key(file: &[u8]) -> Result<PrivateKeyDer<'static>, PemError> {
    use rustls::pki_types::pem::Error;
    match PrivateKeyDer::from_pem_slice(file) {
        Ok(key) => Ok(key),
        Err(Error::NoItemsFound) if contains(file, b"ENCRYPTED PRIVATE KEY") => Err(PemError::Encrypted),
        Err(Error::NoItemsFound) => Err(PemError::NoKey),
        Err(_) => Err(PemError::Malformed),
    }
}

fn contains(file: &[u8], text: &[u8]) -> bool {
    file.windows(text.len()).any(|window| window == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_and_keys_are_read_and_their_absence_is_named() {
        let made = rcgen::generate_simple_self_signed(["proxy.example".to_owned()]).unwrap();
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let both = format!("{certificate}{key}{certificate}");
        assert_eq!(certificates(both.as_bytes()).unwrap(), [made.cert.der().clone(), made.cert.der().clone()]);
        assert_eq!(private_key(both.as_bytes()).unwrap().secret_der(), made.signing_key.serialize_der());
        assert_eq!(certificates(key.as_bytes()), Err(PemError::NoCertificate("")));
        assert_eq!(private_key(certificate.as_bytes()), Err(PemError::NoKey));
        let der = certificates(made.cert.der()).expect_err("it is DER").to_string();
        assert!(der.contains("openssl x509 -inform der"), "{der}");
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        assert_eq!(private_key(encrypted.as_bytes()), Err(PemError::Encrypted));
        let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(certificates(format!("{certificate}{no_certificate}").as_bytes()), Err(PemError::Certificate(2)));
        assert_eq!(readable_certificates(certificate.as_bytes()).len(), 1);
    }
}
