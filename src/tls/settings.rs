//! How connections to an upstream are secured: made from what the configuration has read.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, Error, InconsistentKeys, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};

use super::bindings;
use super::certificate::Certificate;
use super::faults::{Circumstances, TlsFailure};
use super::verifier::{Pin, Verifier};

/// What the configuration demands of connections to an upstream.
#[derive(Debug)]
pub struct TlsOptions {
    /// The names that the certificate may have, at least one; the first is sent (SNI).
    pub names: Vec<ServerName<'static>>,
    /// The CAs that are trusted.
    pub roots: Roots,
    /// The keys that the server may have; empty if any will do.
    pub pins: Vec<Pin>,
    /// The gateway's own certificate, if it has one.
    pub client: Option<ClientCertificate>,
    /// The kernel may encrypt and decrypt bulk data.
    pub kernel: bool,
}

/// CAs that are trusted.
#[derive(Clone, Debug)]
pub struct Roots {
    /// Their certificates.
    pub certificates: Vec<CertificateDer<'static>>,
    /// They were given for this purpose, so a server may also have one of these very certificates.
    pub are_given: bool,
}

/// A certificate with its chain and its private key.
pub struct ClientCertificate {
    /// The certificate, and those above it.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key.
    pub key: PrivateKeyDer<'static>,
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("ClientCertificate")
    }
}

impl ClientCertificate {
    /// Whether it can be used.
    ///
    /// # Errors
    /// [`TlsOptionsError`] if its key cannot be used, or is another one's.
    pub fn check(&self) -> Result<(), TlsOptionsError> {
        not_after_of(self)?;
        certified_key(self.copy(), &rustls::crypto::ring::default_provider()).map(|_| ())
    }

    /// A copy of it. There is no `Clone`, because it holds a secret.
    #[must_use]
    pub fn copy(&self) -> ClientCertificate {
        ClientCertificate { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TlsOptionsError {
    /// No certificate of a CA can be used.
    #[error("contains no certificate of a CA that can be used")]
    NoRoot,
    /// The client certificate cannot be used.
    #[error("belongs to a client certificate that is malformed or not of version 3")]
    Certificate,
    /// The key is not that of the certificate.
    #[error("is not the key of the client certificate")]
    OtherKey,
    /// The key cannot be used.
    #[error(
        "contains a key that cannot be used ({0}); use RSA with 2048 to 8192 bits, ECDSA with P-256 or P-384, or Ed25519"
    )]
    Key(String),
    /// rustls rejects the settings.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

/// How connections to an upstream are secured; shared by all of them.
pub struct TlsSettings {
    /// Versions, trust, client certificate, ALPN and the cache of sessions to resume.
    pub config: Arc<ClientConfig>,
    /// The name that is sent (SNI).
    pub server_name: ServerName<'static>,
    /// A hash of the options that this was made from.
    digest: [u8; 32],
    has_certificate: bool,
    is_asked_for_certificate: Arc<AtomicBool>,
    server_not_after: Arc<AtomicI64>,
    client_not_after: Option<i64>,
}

impl TlsSettings {
    /// Settings with these options.
    ///
    /// # Errors
    /// [`TlsOptionsError`] if they cannot be used.
    pub fn new(options: TlsOptions) -> Result<TlsSettings, TlsOptionsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let digest = digest_of(&options);
        let TlsOptions { names, roots, pins, client, kernel } = options;
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(roots.certificates.iter().cloned());
        if store.is_empty() {
            return Err(TlsOptionsError::NoRoot);
        }
        let server_name = names.first().cloned().ok_or_else(|| TlsOptionsError::Setup("no server name".to_owned()))?;
        let client_not_after = client.as_ref().map(not_after_of).transpose()?;
        let key = client.map(|client| certified_key(client, &provider)).transpose()?;
        let server_not_after = Arc::new(AtomicI64::new(0));
        let verifier = Verifier {
            provider: Arc::clone(&provider),
            roots: store,
            trusted: if roots.are_given { roots.certificates } else { Vec::new() },
            names,
            pins,
            not_after: Arc::clone(&server_not_after),
        };
        let has_certificate = key.is_some();
        let is_asked_for_certificate = Arc::new(AtomicBool::new(false));
        let own = OwnCertificate { key, is_asked: Arc::clone(&is_asked_for_certificate) };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| TlsOptionsError::Setup(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(own));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.enable_secret_extraction = kernel;
        Ok(TlsSettings {
            config: Arc::new(config),
            server_name,
            digest,
            has_certificate,
            is_asked_for_certificate,
            server_not_after,
            client_not_after,
        })
    }

    /// Settings with a configuration that was made elsewhere.
    #[cfg(test)]
    pub(crate) fn of_config(config: Arc<ClientConfig>, server_name: ServerName<'static>) -> TlsSettings {
        TlsSettings {
            digest: Sha256::digest(format!("{:p}", Arc::as_ptr(&config))).into(),
            config,
            server_name,
            has_certificate: false,
            is_asked_for_certificate: Arc::default(),
            server_not_after: Arc::default(),
            client_not_after: None,
        }
    }

    /// The MD5 hash of the channel bindings that a server's certificate gives (RFC 5929 §4), as a transport reports it.
    #[must_use]
    pub fn channel_bindings(&self, certificate: &CertificateDer<'_>) -> Option<[u8; 16]> {
        bindings::server_end_point(certificate)
    }

    /// Whether the kernel may encrypt and decrypt bulk data. rustls gives its keys away only then.
    #[must_use]
    pub fn wants_kernel(&self) -> bool {
        self.config.enable_secret_extraction
    }

    /// What went wrong, as an I/O error that [`TlsFailure::of_io`] finds it in. For `may_renegotiate` see
    /// [`Circumstances`].
    #[must_use]
    pub fn failure(&self, error: &Error, may_renegotiate: bool) -> io::Error {
        let circumstances = Circumstances {
            is_asked_for_certificate: self.is_asked_for_certificate.load(Ordering::Relaxed),
            has_certificate: self.has_certificate,
            may_renegotiate,
        };
        io::Error::new(io::ErrorKind::InvalidData, TlsFailure::of(error, circumstances))
    }

    /// When the certificate that was accepted last expires, in seconds since 1970; `None` before the first one.
    #[must_use]
    pub fn server_not_after(&self) -> Option<i64> {
        Some(self.server_not_after.load(Ordering::Relaxed)).filter(|not_after| *not_after != 0)
    }

    /// When the client certificate expires, in seconds since 1970.
    #[must_use]
    pub fn client_not_after(&self) -> Option<i64> {
        self.client_not_after
    }
}

/// Equal if connections are secured in the same way.
impl PartialEq for TlsSettings {
    fn eq(&self, other: &TlsSettings) -> bool {
        self.digest == other.digest
    }
}

impl Eq for TlsSettings {}

impl fmt::Debug for TlsSettings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("TlsSettings").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

/// The gateway's certificate, where a server asks for one.
#[derive(Debug)]
struct OwnCertificate {
    key: Option<Arc<CertifiedKey>>,
    is_asked: Arc<AtomicBool>,
}

impl ResolvesClientCert for OwnCertificate {
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.is_asked.store(true, Ordering::Relaxed);
        self.key.clone()
    }

    fn has_certs(&self) -> bool {
        self.key.is_some()
    }
}

fn not_after_of(client: &ClientCertificate) -> Result<i64, TlsOptionsError> {
    let own = client.chain.first().and_then(|der| Certificate::read(der)).ok_or(TlsOptionsError::Certificate)?;
    Ok(own.not_after)
}

fn certified_key(client: ClientCertificate, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, TlsOptionsError> {
    let key = CertifiedKey::from_der(client.chain, client.key, provider);
    key.map(Arc::new).map_err(|error| match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => TlsOptionsError::OtherKey,
        Error::InvalidCertificate(_) => TlsOptionsError::Certificate,
        other => TlsOptionsError::Key(other.to_string()),
    })
}

fn digest_of(options: &TlsOptions) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hash.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_le_bytes());
        hash.update(bytes);
    };
    options.names.iter().for_each(|name| add(name.to_str().as_bytes()));
    add(&[u8::from(options.roots.are_given)]);
    options.roots.certificates.iter().for_each(|certificate| add(certificate));
    add(b"");
    options.pins.iter().for_each(|pin| add(&pin.0));
    add(b"");
    if let Some(client) = &options.client {
        client.chain.iter().for_each(|certificate| add(certificate));
        add(client.key.secret_der());
    }
    add(&[u8::from(options.kernel)]);
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(name: &str) -> rcgen::CertifiedKey<rcgen::KeyPair> {
        rcgen::generate_simple_self_signed([name.to_owned()]).unwrap()
    }

    fn options(root: &rcgen::CertifiedKey<rcgen::KeyPair>) -> TlsOptions {
        TlsOptions {
            names: vec![ServerName::try_from("proxy.example").unwrap()],
            roots: Roots { certificates: vec![root.cert.der().clone()], are_given: true },
            pins: Vec::new(),
            client: None,
            kernel: false,
        }
    }

    fn client(certificate: &rcgen::CertifiedKey<rcgen::KeyPair>) -> ClientCertificate {
        let key = PrivateKeyDer::try_from(certificate.signing_key.serialize_der()).unwrap();
        ClientCertificate { chain: vec![certificate.cert.der().clone()], key }
    }

    #[test]
    fn settings_are_equal_exactly_if_their_options_are() {
        let (root, other, own) = (certificate("proxy.example"), certificate("other"), certificate("gateway"));
        let settings = |options| TlsSettings::new(options).unwrap();
        let plain = settings(options(&root));
        assert!(plain == settings(options(&root)));
        let name = vec![ServerName::try_from("other.example").unwrap()];
        for different in [
            TlsOptions { names: name, ..options(&root) },
            TlsOptions { roots: Roots { are_given: false, ..options(&root).roots }, ..options(&root) },
            TlsOptions { pins: vec![Pin([1; 32])], ..options(&root) },
            TlsOptions { client: Some(client(&own)), ..options(&root) },
            TlsOptions { kernel: true, ..options(&root) },
            options(&other),
        ] {
            assert!(plain != settings(different));
        }
    }

    #[test]
    fn options_that_cannot_be_used_are_rejected_with_the_reason() {
        let (root, own, other) = (certificate("proxy.example"), certificate("gateway"), certificate("other"));
        let error = |options| TlsSettings::new(options).expect_err("it is to be rejected");
        let none = Roots { certificates: Vec::new(), are_given: true };
        assert_eq!(error(TlsOptions { roots: none, ..options(&root) }), TlsOptionsError::NoRoot);
        let mixed = ClientCertificate { key: client(&other).key, ..client(&own) };
        assert_eq!(error(TlsOptions { client: Some(mixed), ..options(&root) }), TlsOptionsError::OtherKey);
        let malformed = ClientCertificate { chain: vec![CertificateDer::from(vec![0x30, 0])], ..client(&own) };
        assert_eq!(error(TlsOptions { client: Some(malformed), ..options(&root) }), TlsOptionsError::Certificate);
    }

    #[test]
    fn the_expiry_of_the_client_certificate_is_known_from_the_start() {
        let (root, own) = (certificate("proxy.example"), certificate("gateway"));
        let settings = TlsSettings::new(TlsOptions { client: Some(client(&own)), ..options(&root) }).unwrap();
        // That is rcgen's default: the beginning of the year 4096.
        assert_eq!(settings.client_not_after(), Some(67_090_118_400));
        assert_eq!(settings.server_not_after(), None, "no server has shown one");
    }
}
