//! Which servers are trusted: the chain, the name and the pin of a certificate.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};

use super::certificate::Certificate;
use super::faults::PinMismatch;

/// The SHA-256 hash of a SubjectPublicKeyInfo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pin(pub [u8; 32]);

impl Pin {
    /// Parses `sha256//` and base64 as curl writes it, base64 alone, or 64 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Pin> {
        let bare = text.strip_prefix("sha256//").unwrap_or(text);
        if bare.len() == 64 {
            let digit = |at: usize| u8::from_str_radix(bare.get(at..at + 2)?, 16).ok();
            let is_hex = bare.bytes().all(|byte| byte.is_ascii_hexdigit());
            let bytes: Option<Vec<u8>> = (0..64).step_by(2).map(digit).collect();
            return Some(Pin(bytes.filter(|_| is_hex)?.try_into().ok()?));
        }
        Some(Pin(BASE64_STANDARD.decode(bare).ok()?.try_into().ok()?))
    }

    /// The pin of a certificate's key.
    pub(super) fn of(certificate: &Certificate<'_>) -> Pin {
        Pin(Sha256::digest(certificate.public_key).into())
    }

    /// The form that curl's `--pinnedpubkey` has.
    pub(super) fn shown(&self) -> String {
        format!("sha256//{}", BASE64_STANDARD.encode(self.0))
    }
}

/// Verifies the servers of one upstream.
#[derive(Debug)]
pub(super) struct Verifier {
    pub provider: Arc<CryptoProvider>,
    pub roots: RootCertStore,
    /// Certificates that are trusted as a server's own: those of `ca_file`.
    pub trusted: Vec<CertificateDer<'static>>,
    /// The certificate must be for one of these names: those of the upstream's addresses, or `server_name`.
    pub names: Vec<ServerName<'static>>,
    /// If there are any, the key must be one of them.
    pub pins: Vec<Pin>,
    /// When the last certificate that was accepted expires, in seconds since 1970; 0 before the first one.
    pub not_after: Arc<AtomicI64>,
}

impl Verifier {
    /// Checks the chain of certificates and their times.
    fn verify_chain(
        &self,
        end_entity: &CertificateDer<'_>,
        parsed: &ParsedCertificate<'_>,
        facts: &Certificate<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        // A self-signed certificate, often with the basic constraints of a CA, which is not valid as a server's own.
        if self.trusted.contains(end_entity) {
            return verify_times(facts, now);
        }
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(parsed, &self.roots, intermediates, now, algorithms)
    }

    fn verify_name(&self, parsed: &ParsedCertificate<'_>) -> Result<(), Error> {
        let mut first = Ok(());
        for name in &self.names {
            match verify_server_name(parsed, name) {
                Ok(()) => return Ok(()),
                Err(error) => first = first.and(Err(error)),
            }
        }
        first
    }

    fn verify_pin(&self, facts: &Certificate<'_>) -> Result<(), Error> {
        let pin = Pin::of(facts);
        if self.pins.is_empty() || self.pins.contains(&pin) {
            return Ok(());
        }
        let why = PinMismatch { presented: pin.shown() };
        Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why)))))
    }
}

fn verify_times(facts: &Certificate<'_>, now: UnixTime) -> Result<(), Error> {
    let time = |seconds: i64| {
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(seconds).unwrap_or_default()))
    };
    let (not_before, not_after) = (time(facts.not_before), time(facts.not_after));
    let error = match () {
        () if now < not_before => CertificateError::NotValidYetContext { time: now, not_before },
        () if now > not_after => CertificateError::ExpiredContext { time: now, not_after },
        () => return Ok(()),
    };
    Err(Error::InvalidCertificate(error))
}

impl ServerCertVerifier for Verifier {
    /// The name that was sent (`_sent`) is the first of those that the certificate may be for.
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _sent: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let facts = Certificate::read(end_entity).ok_or(CertificateError::BadEncoding)?;
        self.verify_chain(end_entity, &parsed, &facts, intermediates, now)?;
        self.verify_name(&parsed)?;
        self.verify_pin(&facts)?;
        self.not_after.store(facts.not_after, Ordering::Relaxed);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_read_as_curl_writes_it_in_base64_and_in_hexadecimal() {
        let pin = Pin([0xab; 32]);
        let base64 = BASE64_STANDARD.encode([0xab; 32]);
        for text in [pin.shown(), base64.clone(), "ab".repeat(32), "AB".repeat(32)] {
            assert_eq!(Pin::parse(&text), Some(pin), "{text}");
        }
        for text in ["", "sha256//", &base64[1..], &"ab".repeat(31), &"+b".repeat(32), &"é".repeat(32), "sha1//AAAA"] {
            assert_eq!(Pin::parse(text), None, "{text}");
        }
    }
}
