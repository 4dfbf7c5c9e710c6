//! The stub as a server on real sockets.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use super::counters::{Counters, Counts};
use super::event_loop::{EventLoop, Stop};
use super::personality::Personality;
use super::setup::{ServerNames, Setup, StubAccount};
use crate::event::Sender;
use crate::ntlm::NtHash;

/// Connections that wait for `accept`, a loop; the kernel cuts it to `net.core.somaxconn`.
const LISTEN_BACKLOG: i32 = 4096;

/// What a stub is started with.
#[derive(Debug, Clone)]
pub struct StubOptions {
    /// Where to listen; port 0 takes any free one.
    pub listen: SocketAddr,
    /// How to behave.
    pub personality: Personality,
    /// Who may pass.
    pub accounts: Vec<StubAccount>,
    /// The names told in challenges.
    pub names: ServerNames,
    /// How many loops to run, each on a thread of its own.
    pub threads: NonZeroUsize,
    /// Passes before every answer, to stand for a round trip.
    pub delay: Duration,
    /// How long a connection lasts from its accept, tunnels included; `None`: as long as both sides like.
    pub lifetime: Option<Duration>,
}

impl Default for StubOptions {
    /// A plain proxy of the domain `CORP` on a free port of 127.0.0.1, one thread, no delay, and nobody may pass.
    fn default() -> Self {
        StubOptions {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            personality: Personality::Plain,
            accounts: Vec::new(),
            names: ServerNames::new("CORP", "PROXY"),
            threads: NonZeroUsize::MIN,
            delay: Duration::ZERO,
            lifetime: None,
        }
    }
}

impl StubOptions {
    /// Lets an account pass.
    #[must_use]
    pub fn account(mut self, domain: &str, user: &str, password: &str) -> Self {
        let nt_hash = NtHash::from_password(password);
        self.accounts.push(StubAccount { domain: domain.to_owned(), user: user.to_owned(), nt_hash });
        self
    }

    /// Behaves so.
    #[must_use]
    pub fn personality(mut self, personality: Personality) -> Self {
        self.personality = personality;
        self
    }
}

/// What the loops share with the handle.
pub(super) struct Shared {
    pub setup: Setup,
    pub lifetime: Option<Duration>,
    /// An index into `Personality::ALL`.
    personality: AtomicUsize,
}

impl Shared {
    /// How a connection that is accepted now behaves.
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

/// A running stub. It stops, and all its connections end, when this is dropped.
pub struct StubServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    counters: Vec<Arc<Counters>>,
    workers: Vec<Worker>,
}

impl StubServer {
    /// Starts a stub. It accepts connections when this returns.
    ///
    /// # Errors
    /// When the address cannot be listened on, or the system has no descriptors or threads left.
    pub fn start(options: StubOptions) -> io::Result<StubServer> {
        let setup = Setup::new(options.names, options.accounts, options.delay);
        let shared = Arc::new(Shared { setup, lifetime: options.lifetime, personality: AtomicUsize::default() });
        shared.set_personality(options.personality);
        let mut server = StubServer { address: options.listen, shared, counters: Vec::new(), workers: Vec::new() };
        // Every loop has a listener of its own on the same address; the kernel spreads the connections over them.
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

    /// Where it listens, with the port that was taken.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has seen and done so far.
    #[must_use]
    pub fn counters(&self) -> Counts {
        self.counters.iter().fold(Counts::default(), |mut sum, counters| {
            sum += counters.counts();
            sum
        })
    }

    /// Changes an account's password, or adds the account. The next proof is judged by it.
    pub fn set_password(&self, domain: &str, user: &str, password: &str) {
        self.shared.setup.set_password(domain, user, NtHash::from_password(password));
    }

    /// Changes how connections behave that are accepted from now on.
    pub fn set_personality(&self, personality: Personality) {
        self.shared.set_personality(personality);
    }

    /// Stops it, waits for its threads, and returns the last counts.
    pub fn stop(mut self) -> Counts {
        self.shut_down();
        self.counters()
    }

    fn shut_down(&mut self) {
        for worker in &self.workers {
            worker.stop.send(Stop);
        }
        for worker in self.workers.drain(..) {
            // A loop that panicked has said so already.
            let _ = worker.thread.join();
        }
    }
}

impl Drop for StubServer {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// One listener a loop on the same address. Only if there are several do they share the port (SO_REUSEPORT), for a
/// shared port could be shared by a stranger.
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
