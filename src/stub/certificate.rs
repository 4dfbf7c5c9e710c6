//! A certificate that the stub makes for itself, so that TLS needs no files and no other software.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use rustls::{ServerConfig, SignatureScheme};

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const UTF8_STRING: u8 = 0x0c;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;

/// AlgorithmIdentifier of Ed25519 (RFC 8410 §3).
const ED25519: &[u8] = &[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];
/// OneAsymmetricKey of Ed25519 (RFC 8410 §7), before the 32 bytes of the key.
const PRIVATE_KEY: &[u8] =
    &[0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
/// Object identifiers, with tag and length.
const COMMON_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x04, 0x03];
const SUBJECT_ALTERNATIVE_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x11];

/// A self-signed certificate with its key.
#[derive(Debug)]
pub struct StubCertificate {
    der: CertificateDer<'static>,
    config: Arc<ServerConfig>,
}

impl StubCertificate {
    /// Makes a new key and a certificate for these host names and IP addresses.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn new(names: &[&str]) -> io::Result<StubCertificate> {
        let mut random = [0; 40];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let (seed, serial) = random.split_at(32);
        let key = PrivatePkcs8KeyDer::from([PRIVATE_KEY, seed].concat());
        let key = ring::sign::any_eddsa_type(&key).map_err(io::Error::other)?;
        let der = CertificateDer::from(certificate(&*key, serial, names)?);
        let certified = CertifiedKey::new(vec![der.clone()], key);
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(StubCertificate { der, config: Arc::new(config) })
    }

    /// The configuration of a server with this certificate, for [`StubOptions::tls`](super::StubOptions::tls).
    #[must_use]
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// The same for a server that resumes no session, so that every handshake is a full one.
    #[must_use]
    pub fn server_config_without_resumption(&self) -> Arc<ServerConfig> {
        let mut config = ServerConfig::clone(&self.config);
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Arc::new(config)
    }

    /// The certificate, which is its own CA's.
    #[must_use]
    pub fn pem(&self) -> String {
        let text = STANDARD.encode(&self.der);
        let lines = text.as_bytes().chunks(64).map(String::from_utf8_lossy);
        let lines: Vec<_> = lines.collect();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
    }
}

/// A certificate (RFC 5280 §4.1) that is valid for as long as anybody uses it.
fn certificate(key: &dyn SigningKey, serial: &[u8], names: &[&str]) -> io::Result<Vec<u8>> {
    let public_key = key.public_key().ok_or(io::ErrorKind::Unsupported)?;
    let signer = key.choose_scheme(&[SignatureScheme::ED25519]).ok_or(io::ErrorKind::Unsupported)?;
    // Each key has a name of its own, so that one certificate is not taken for a forgery of another.
    let common_name =
        format!("ntlm-gateway stub {}", serial.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    let attribute = element(SEQUENCE, &[COMMON_NAME, &element(UTF8_STRING, &[common_name.as_bytes()])]);
    let name = element(SEQUENCE, &[&element(SET, &[&attribute])]);
    let validity = element(
        SEQUENCE,
        &[&element(UTC_TIME, &[b"200101000000Z"]), &element(GENERALIZED_TIME, &[b"20991231235959Z"])],
    );
    let alternatives: Vec<u8> = names.iter().flat_map(|name| alternative(name)).collect();
    let alternatives = element(OCTET_STRING, &[&element(SEQUENCE, &[&alternatives])]);
    let extension = element(SEQUENCE, &[SUBJECT_ALTERNATIVE_NAME, &alternatives]);
    let to_be_signed = element(
        SEQUENCE,
        &[
            &element(VERSION, &[&element(INTEGER, &[&[2]])]),
            // A positive number.
            &element(INTEGER, &[&[1], serial]),
            ED25519,
            &name,
            &validity,
            &name,
            &public_key,
            &element(EXTENSIONS, &[&element(SEQUENCE, &[&extension])]),
        ],
    );
    let signature = signer.sign(&to_be_signed).map_err(io::Error::other)?;
    Ok(element(SEQUENCE, &[&to_be_signed, ED25519, &element(BIT_STRING, &[&[0], &signature])]))
}

fn alternative(name: &str) -> Vec<u8> {
    match name.parse() {
        Ok(IpAddr::V4(address)) => element(IP_ADDRESS, &[&address.octets()]),
        Ok(IpAddr::V6(address)) => element(IP_ADDRESS, &[&address.octets()]),
        Err(_) => element(DNS_NAME, &[name.as_bytes()]),
    }
}

/// An element of DER (X.690) with these contents.
fn element(tag: u8, contents: &[&[u8]]) -> Vec<u8> {
    let contents = contents.concat();
    let length = match u8::try_from(contents.len()) {
        Ok(length @ ..128) => vec![length],
        Ok(length) => vec![0x81, length],
        // No certificate of the stub's is longer than this.
        Err(_) => [&[0x82], &u16::try_from(contents.len()).unwrap_or(u16::MAX).to_be_bytes()[..]].concat(),
    };
    [&[tag], &*length, &contents].concat()
}
