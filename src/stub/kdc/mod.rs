//! A KDC beside the stub: the accounts and services of one realm, by UDP and TCP, on a thread of its own.
//!
//! `ntlm-gateway demo --kerberos`, the load test and the tests use it, so that Kerberos needs no other software. Its
//! keys and accounts are in memory only. The exchanges are in [`crate::kerberos::Kdc`]; `service` has the sockets.

mod service;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::event::Sender;
use crate::kerberos::{ErrorCode, Etype, Kdc, KdcOutcome, KdcPolicy, Keytab, NameError};
use service::{Service, Stop};

/// The settings of a KDC.
#[derive(Clone)]
pub struct KdcOptions {
    /// The address to listen on, by UDP and TCP; port 0 means any free port.
    pub listen: SocketAddr,
    /// The realm, and what is granted in it.
    pub policy: KdcPolicy,
    /// Longer replies go by TCP only, in bytes.
    pub udp_reply_bytes: usize,
    accounts: Vec<(String, Zeroizing<String>)>,
    services: Vec<String>,
}

impl KdcOptions {
    /// A KDC of `realm` on a free port of 127.0.0.1, with keys of every etype with AES. Tickets are valid for ten
    /// hours, and renewable for a week.
    #[must_use]
    pub fn new(realm: &str) -> KdcOptions {
        let policy = KdcPolicy {
            realm: realm.to_owned(),
            etypes: vec![Etype::Aes256Sha1, Etype::Aes128Sha1, Etype::Aes256Sha384, Etype::Aes128Sha256],
            lifetime: Duration::from_secs(10 * 3600),
            renewable: Duration::from_secs(7 * 24 * 3600),
            ticket_padding_bytes: 0,
        };
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        // As MIT's KDC does it unless configured otherwise.
        KdcOptions { listen, policy, udp_reply_bytes: 4096, accounts: Vec::new(), services: Vec::new() }
    }

    /// Adds an account, such as `alice`.
    #[must_use]
    pub fn account(mut self, name: &str, password: &str) -> KdcOptions {
        self.accounts.push((name.to_owned(), Zeroizing::new(password.to_owned())));
        self
    }

    /// Adds a service with random keys, such as `HTTP/proxy.example.com`.
    #[must_use]
    pub fn service(mut self, name: &str) -> KdcOptions {
        self.services.push(name.to_owned());
        self
    }
}

/// How requests were answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KdcCounts {
    /// Logons.
    pub logged_on: u64,
    /// Tickets for services.
    pub granted: u64,
    /// Renewed tickets.
    pub renewed: u64,
    /// Requests without the pre-authentication that is required.
    pub unauthenticated: u64,
    /// Logons with a wrong password or key.
    pub failed_logons: u64,
    /// Other requests that were denied.
    pub denied: u64,
}

impl KdcCounts {
    fn count(&mut self, outcome: KdcOutcome) {
        *match outcome {
            KdcOutcome::LoggedOn => &mut self.logged_on,
            KdcOutcome::Granted => &mut self.granted,
            KdcOutcome::Renewed => &mut self.renewed,
            KdcOutcome::Denied(ErrorCode::KDC_ERR_PREAUTH_REQUIRED) => &mut self.unauthenticated,
            KdcOutcome::Denied(ErrorCode::KDC_ERR_PREAUTH_FAILED) => &mut self.failed_logons,
            KdcOutcome::Denied(_) => &mut self.denied,
        } += 1;
    }
}

/// What the thread shares with the [`StubKdc`].
struct Shared {
    kdc: Kdc,
    counts: KdcCounts,
}

/// A running KDC. Dropping it stops it.
pub struct StubKdc {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    stop: Sender<Stop>,
    thread: Option<JoinHandle<()>>,
}

impl StubKdc {
    /// Starts a KDC. It answers as soon as this returns.
    ///
    /// # Errors
    /// If a name is not allowed, the address is not available, or the system has no descriptors or threads left.
    pub fn start(options: KdcOptions) -> io::Result<StubKdc> {
        let kdc = made(&options).map_err(io::Error::other)?;
        let shared = Arc::new(Mutex::new(Shared { kdc, counts: KdcCounts::default() }));
        let (service, stop) = Service::new(options.listen, options.udp_reply_bytes, Arc::clone(&shared))?;
        let address = service.address();
        let thread = std::thread::Builder::new().name("stub-kdc".into()).spawn(|| service.run())?;
        Ok(StubKdc { address, shared, stop, thread: Some(thread) })
    }

    /// The address it listens on, with the actual port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The keys of its services.
    #[must_use]
    pub fn keytab(&self) -> Keytab {
        self.shared().kdc.keytab()
    }

    /// The counts so far.
    #[must_use]
    pub fn counts(&self) -> KdcCounts {
        self.shared().counts
    }

    /// Changes an account's password, or adds the account.
    ///
    /// # Errors
    /// If the name is not allowed.
    pub fn set_password(&self, account: &str, password: &str) -> Result<(), NameError> {
        self.shared().kdc.set_password(account, password)
    }

    /// Gives a service new keys of the next version, or adds the service.
    ///
    /// # Errors
    /// If the name is not allowed.
    pub fn new_keys(&self, service: &str) -> Result<(), NameError> {
        self.shared().kdc.set_random_keys(service, &mut random)
    }

    /// Locks an account, or unlocks it.
    ///
    /// # Errors
    /// If the name is not allowed.
    pub fn set_revoked(&self, account: &str, is_revoked: bool) -> Result<(), NameError> {
        self.shared().kdc.set_revoked(account, is_revoked)
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for StubKdc {
    fn drop(&mut self) {
        self.stop.send(Stop);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has printed that already.
            let _ = thread.join();
        }
    }
}

fn made(options: &KdcOptions) -> Result<Kdc, NameError> {
    let mut kdc = Kdc::new(options.policy.clone(), &mut random)?;
    for (name, password) in &options.accounts {
        kdc.set_password(name, password)?;
    }
    for service in &options.services {
        kdc.set_random_keys(service, &mut random)?;
    }
    Ok(kdc)
}

/// Fills the bytes of a key. Without randomness the process could not have got this far.
fn random(bytes: &mut [u8]) {
    getrandom::fill(bytes).unwrap_or_else(|error| panic!("the system has no randomness: {error}"));
}
