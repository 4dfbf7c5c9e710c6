//! The stub as a server on real sockets.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};
use rustls::ServerConfig;

use super::counters::{Counters, Counts};
use super::event_loop::{EventLoop, Stop};
use super::kerberos::StubKerberos;
use super::personality::Personality;
use super::setup::{ServerNames, Setup, StubAccount};
use crate::event::Sender;
use crate::kerberos::Keytab;
use crate::ntlm::NtHash;

/// Connections per loop that may wait for `accept`; the kernel limits it to `net.core.somaxconn`.
const LISTEN_BACKLOG: i32 = 4096;

/// The settings of a stub.
#[derive(Debug, Clone)]
pub struct StubOptions {
    /// The address to listen on; port 0 means any free port.
    pub listen: SocketAddr,
    /// How it behaves.
    pub personality: Personality,
    /// The accounts that may authenticate.
    pub accounts: Vec<StubAccount>,
    /// How it accepts Kerberos; `None`: not at all.
    pub kerberos: Option<StubKerberos>,
    /// The names in challenges.
    pub names: ServerNames,
    /// The number of event loops, each on a thread of its own.
    pub threads: NonZeroUsize,
    /// The pause before every response, which simulates a round trip.
    pub delay: Duration,
    /// How long a connection may last, tunnels included; `None`: as long as both sides want.
    pub lifetime: Option<Duration>,
    /// TLS for all connections; `None`: none. See [`StubCertificate`](super::StubCertificate) for one that is made at
    /// once.
    pub tls: Option<Arc<ServerConfig>>,
}

impl Default for StubOptions {
    /// A plain proxy of the domain `CORP` on a free port of 127.0.0.1, with one thread, no delay and no accounts.
    fn default() -> Self {
        StubOptions {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            personality: Personality::Plain,
            accounts: Vec::new(),
            kerberos: None,
            names: ServerNames::new("CORP", "PROXY"),
            threads: NonZeroUsize::MIN,
            delay: Duration::ZERO,
            lifetime: None,
            tls: None,
        }
    }
}

impl StubOptions {
    /// Adds an account.
    #[must_use]
    pub fn account(mut self, domain: &str, user: &str, password: &str) -> Self {
        let nt_hash = NtHash::from_password(password);
        self.accounts.push(StubAccount { domain: domain.to_owned(), user: user.to_owned(), nt_hash });
        self
    }

    /// Accepts Kerberos with the keys of a service, and nothing else.
    #[must_use]
    pub fn only_kerberos(mut self, keytab: Keytab) -> Self {
        self.kerberos = Some(StubKerberos { keytab, with_ntlm: false });
        self
    }

    /// Accepts Kerberos with the keys of a service, beside the personality's own schemes.
    #[must_use]
    pub fn kerberos_too(mut self, keytab: Keytab) -> Self {
        self.kerberos = Some(StubKerberos { keytab, with_ntlm: true });
        self
    }

    /// Serves TLS only.
    #[must_use]
    pub fn tls(mut self, config: Arc<ServerConfig>) -> Self {
        self.tls = Some(config);
        self
    }

    /// Sets the personality.
    #[must_use]
    pub fn personality(mut self, personality: Personality) -> Self {
        self.personality = personality;
        self
    }
}

/// What the event loops share with the [`StubServer`].
pub(super) struct Shared {
    pub setup: Setup,
    pub lifetime: Option<Duration>,
    pub tls: Option<Arc<ServerConfig>>,
    /// An index into `Personality::ALL`.
    personality: AtomicUsize,
}

impl Shared {
    /// The personality for connections that are accepted now.
    pub(super) fn personality(&self) -> Personality {
        Personality::ALL.get(self.personality.load(Ordering::Relaxed)).copied().unwrap_or(Personality::Plain)
    }

    fn set_personality(&self, personality: Personality) {
        let index = Personality::ALL.iter().position(|other| *other == personality).unwrap_or_default();
        self.personality.store(index, Ordering::Relaxed);
    }
}

struct Worker {
    stop: Sender<Stop>,
    thread: JoinHandle<()>,
}

/// A running stub. Dropping it stops the stub and ends all its connections.
pub struct StubServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    counters: Vec<Arc<Counters>>,
    workers: Vec<Worker>,
}

impl StubServer {
    /// Starts a stub. It accepts connections as soon as this returns.
    ///
    /// # Errors
    /// If the address is not available, or the system has no descriptors or threads left.
    pub fn start(options: StubOptions) -> io::Result<StubServer> {
        let mut setup = Setup::new(options.names, options.accounts, options.delay);
        if let Some(kerberos) = options.kerberos {
            setup = setup.with_kerberos(kerberos);
        }
        let (lifetime, tls, personality) = (options.lifetime, options.tls, AtomicUsize::default());
        let shared = Arc::new(Shared { setup, lifetime, tls, personality });
        shared.set_personality(options.personality);
        let mut server = StubServer { address: options.listen, shared, counters: Vec::new(), workers: Vec::new() };
        // Every loop has its own listener on the same address; the kernel distributes connections over them.
        let listeners = listeners(options.listen, options.threads)?;
        for (number, listener) in listeners.into_iter().enumerate() {
            server.address = listener.local_addr()?;
            let counters = Arc::new(Counters::default());
            let listener = mio::net::TcpListener::from_std(listener);
            let (event_loop, stop) = EventLoop::new(listener, Arc::clone(&server.shared), Arc::clone(&counters))?;
            let thread = std::thread::Builder::new().name(format!("stub-{number}")).spawn(|| event_loop.run())?;
            server.counters.push(counters);
            server.workers.push(Worker { stop, thread });
        }
        Ok(server)
    }

    /// The address it listens on, with the actual port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The counters so far, summed over the loops.
    #[must_use]
    pub fn counters(&self) -> Counts {
        self.counters.iter().fold(Counts::default(), |mut sum, counters| {
            sum += counters.counts();
            sum
        })
    }

    /// Changes an account's password, or adds the account. The next AUTHENTICATE_MESSAGE is verified with it.
    pub fn set_password(&self, domain: &str, user: &str, password: &str) {
        self.shared.setup.set_password(domain, user, NtHash::from_password(password));
    }

    /// The same, but the account's passwords so far remain valid.
    pub fn add_password(&self, domain: &str, user: &str, password: &str) {
        self.shared.setup.add_password(domain, user, NtHash::from_password(password));
    }

    /// Replaces the keys with which tickets are verified, if Kerberos is accepted.
    pub fn set_keytab(&self, keytab: Keytab) {
        if let Some(service) = self.shared.setup.kerberos() {
            service.set_keytab(keytab);
        }
    }

    /// Changes the personality for connections that are accepted from now on.
    pub fn set_personality(&self, personality: Personality) {
        self.shared.set_personality(personality);
    }

    /// Stops the stub, waits for its threads, and returns the final counts.
    pub fn stop(mut self) -> Counts {
        self.shut_down();
        self.counters()
    }

    fn shut_down(&mut self) {
        for worker in &self.workers {
            worker.stop.send(Stop);
        }
        for worker in self.workers.drain(..) {
            // A loop that panicked has printed that already.
            let _ = worker.thread.join();
        }
    }
}

impl Drop for StubServer {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// One listener per loop, all on the same address. They share the port (SO_REUSEPORT) only if there are several,
/// because another process could share such a port, too.
fn listeners(address: SocketAddr, count: NonZeroUsize) -> io::Result<Vec<TcpListener>> {
    let share = count.get() > 1;
    let first = listener(address, share)?;
    let taken = first.local_addr()?;
    let others = (1..count.get()).map(|_| listener(taken, share));
    std::iter::once(Ok(first)).chain(others).collect()
}

fn listener(address: SocketAddr, share: bool) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if share {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, LISTEN_BACKLOG)?;
    Ok(TcpListener::from(socket))
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
