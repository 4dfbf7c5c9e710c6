//! Both ends' settings for tests: a server with a certificate that the client trusts.

use std::sync::{Arc, OnceLock};

use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};

use crate::tls::TlsSettings;

pub const NAME: &str = "proxy.test";

/// What a test varies.
pub struct Pair {
    pub client: Arc<TlsSettings>,
    pub server: Arc<ServerConfig>,
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A pair that speaks these versions, with a server that writes records of at most so many bytes.
pub fn pair(versions: &[&'static SupportedProtocolVersion], fragment_bytes: Option<usize>) -> Pair {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::new([NAME.to_owned()]).unwrap();
    // Certificates with one name and different keys would be taken for a forgery.
    parameters.distinguished_name.push(DnType::CommonName, format!("{:x?}", &key.public_key_raw()[..8]));
    let certificate = parameters.self_signed(&key).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut server = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    server.max_fragment_size = fragment_bytes;
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server_name = ServerName::try_from(NAME).unwrap();
    Pair { client: Arc::new(TlsSettings::of_config(Arc::new(client), server_name)), server: Arc::new(server) }
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
