//! Both ends' settings for tests: a server with a certificate that the client trusts.

use std::sync::{Arc, OnceLock};

use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};

use crate::tls::{Roots, TlsOptions, TlsSettings};

pub const NAME: &str = "proxy.test";

/// What a test varies.
pub struct Pair {
    pub client: Arc<TlsSettings>,
    pub server: Arc<ServerConfig>,
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A server's certificate, and its key.
struct Issued {
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
}

fn issue(algorithm: &'static rcgen::SignatureAlgorithm) -> Issued {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let mut parameters = CertificateParams::new([NAME.to_owned()]).unwrap();
    // Certificates with one name and different keys would be taken for a forgery.
    parameters.distinguished_name.push(DnType::CommonName, format!("{:x?}", &key.public_key_raw()[..8]));
    let certificate = parameters.self_signed(&key).unwrap().der().clone();
    Issued { certificate, key: PrivatePkcs8KeyDer::from(key.serialize_der()) }
}

fn server(issued: &Issued, versions: &[&'static SupportedProtocolVersion], chain: usize) -> ServerConfig {
    let key = PrivateKeyDer::Pkcs8(issued.key.clone_key());
    ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.certificate.clone(); chain], key)
        .unwrap()
}

/// A pair that speaks these versions, with a server that writes records of at most so many bytes.
pub fn pair(versions: &[&'static SupportedProtocolVersion], fragment_bytes: Option<usize>) -> Pair {
    pair_with(versions, 1, |server| server.max_fragment_size = fragment_bytes)
}

/// A pair that speaks these versions, with a server that shows its certificate so many times and is changed like this.
pub fn pair_with(
    versions: &[&'static SupportedProtocolVersion],
    chain: usize,
    change: impl FnOnce(&mut ServerConfig),
) -> Pair {
    let issued = issue(&rcgen::PKCS_ECDSA_P256_SHA256);
    let mut server = server(&issued, versions, chain);
    change(&mut server);
    let mut roots = RootCertStore::empty();
    roots.add(issued.certificate).unwrap();
    let client = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server_name = ServerName::try_from(NAME).unwrap();
    Pair { client: Arc::new(TlsSettings::of_config(Arc::new(client), server_name)), server: Arc::new(server) }
}

/// What a server is like.
#[derive(Clone, Debug, Default)]
pub struct ServerTraits {
    /// It does not speak TLS 1.3.
    pub is_1_2: bool,
    pub fragment_bytes: Option<usize>,
    /// Session tickets after a handshake of TLS 1.3.
    pub tickets: usize,
}

/// A pair whose messages always have the same length, with the gateway's own settings. A signature with Ed25519 does.
pub fn steady_pair(traits: &ServerTraits) -> (Arc<TlsSettings>, Arc<ServerConfig>) {
    gateways_pair(traits, false)
}

/// The same, with a client that may leave bulk data to the kernel.
pub fn kernel_pair(traits: &ServerTraits) -> (Arc<TlsSettings>, Arc<ServerConfig>) {
    gateways_pair(traits, true)
}

fn gateways_pair(traits: &ServerTraits, kernel: bool) -> (Arc<TlsSettings>, Arc<ServerConfig>) {
    static ISSUED: OnceLock<Issued> = OnceLock::new();
    let issued = ISSUED.get_or_init(|| issue(&rcgen::PKCS_ED25519));
    let versions: &[&SupportedProtocolVersion] =
        if traits.is_1_2 { &[&rustls::version::TLS12] } else { rustls::ALL_VERSIONS };
    let mut server = server(issued, versions, 1);
    (server.max_fragment_size, server.send_tls13_tickets) = (traits.fragment_bytes, traits.tickets);
    let options = TlsOptions {
        names: vec![ServerName::try_from(NAME).unwrap()],
        roots: Roots { certificates: vec![issued.certificate.clone()], are_given: true },
        pins: Vec::new(),
        client: None,
        kernel,
    };
    (Arc::new(TlsSettings::new(options).unwrap()), Arc::new(server))
}

/// The pair of all tests that vary nothing.
fn usual() -> &'static Pair {
    static PAIR: OnceLock<Pair> = OnceLock::new();
    PAIR.get_or_init(|| pair(rustls::ALL_VERSIONS, None))
}

pub fn client_settings() -> Arc<TlsSettings> {
    Arc::clone(&usual().client)
}

pub fn server_config() -> Arc<ServerConfig> {
    Arc::clone(&usual().server)
}
