//! The HTTP client that trusts what the service account's `ca.crt` contains, and follows changes of that file.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ureq::Agent;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use super::super::cell::{Reason, StoreFault};
use super::in_cluster::InCluster;
use crate::limits::{KUBERNETES_CA_AGE, KUBERNETES_KEPT};

/// Connections that are kept between two requests. The watch has its own, which is never idle.
const IDLE_CONNECTIONS: usize = 1;

/// Makes a client for the certificates that the file has.
#[derive(Debug)]
pub(super) struct Trust {
    timeout: Duration,
    current: Mutex<Option<Trusted>>,
}

#[derive(Debug)]
struct Trusted {
    ca: Vec<u8>,
    read_at: Instant,
    agent: Agent,
}

impl Trust {
    /// No file is read yet. A request may take this long.
    pub(super) fn new(timeout: Duration) -> Self {
        Self { timeout, current: Mutex::default() }
    }

    /// The client; the file is read again if that was long ago.
    ///
    /// # Errors
    /// [`StoreFault::Refused`] if the file cannot be read or has no certificate.
    pub(super) fn agent(&self, cluster: &InCluster) -> Result<Agent, StoreFault> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match &*current {
            Some(trusted) if trusted.read_at.elapsed() < KUBERNETES_CA_AGE => Ok(trusted.agent.clone()),
            _ => self.read(&mut current, cluster).map(|(agent, _)| agent),
        }
    }

    /// A client with what the file contains now, if that has changed.
    ///
    /// # Errors
    /// See [`Trust::agent`].
    pub(super) fn agent_if_changed(&self, cluster: &InCluster) -> Result<Option<Agent>, StoreFault> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        self.read(&mut current, cluster).map(|(agent, is_new)| is_new.then_some(agent))
    }

    /// Reads the file. Returns the client, and whether it differs from the previous one.
    fn read(&self, current: &mut Option<Trusted>, cluster: &InCluster) -> Result<(Agent, bool), StoreFault> {
        let ca = cluster.ca()?;
        if let Some(trusted) = current.as_mut().filter(|trusted| trusted.ca == ca) {
            trusted.read_at = Instant::now();
            return Ok((trusted.agent.clone(), false));
        }
        let agent = agent(certificates(&ca, cluster)?, self.timeout);
        *current = Some(Trusted { ca, read_at: Instant::now(), agent: agent.clone() });
        Ok((agent, true))
    }
}

fn certificates(ca: &[u8], cluster: &InCluster) -> Result<Vec<Certificate<'static>>, StoreFault> {
    let found: Vec<_> = parse_pem(ca)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if found.is_empty() {
        let text = format!("{} contains no certificate in PEM", cluster.ca_file().display());
        return Err(StoreFault::Refused(Reason(text)));
    }
    Ok(found)
}

fn agent(roots: Vec<Certificate<'static>>, timeout: Duration) -> Agent {
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::from(roots))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    Agent::config_builder()
        .tls_config(tls)
        .https_only(true)
        // HTTPS_PROXY of the environment may name this very gateway.
        .proxy(None)
        // A redirect could send the token to another host.
        .max_redirects(0)
        .http_status_as_error(false)
        .timeout_global(Some(timeout))
        .max_idle_connections(IDLE_CONNECTIONS)
        .max_idle_age(KUBERNETES_KEPT)
        .user_agent(concat!("ntlm-gateway/", env!("CARGO_PKG_VERSION")))
        .accept("application/json")
        .build()
        .new_agent()
}
