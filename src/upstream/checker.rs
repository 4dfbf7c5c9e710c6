//! The thread that checks an ejected upstream until it can be used again, and probes one that may have failed. It
//! sleeps while the upstream is healthy.

use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::{CheckFailure, Resolution, Upstream};
use crate::limits::{self, millis};
use crate::transport::BlockingStream;

/// What a check has to find out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// The upstream is ejected: can it get clients again?
    MayItReturn,
    /// The upstream failed for some clients before it sent a challenge: does it fail for others as well?
    IsItAlive,
}

/// A checker that has not been started.
#[derive(Debug)]
pub struct Checker {
    wake_ups: mpsc::Receiver<()>,
}

impl Checker {
    /// Returns a checker and the sender that wakes it. Send to it at each change of the upstream's health.
    pub fn new() -> (Checker, mpsc::Sender<()>) {
        let (wake, wake_ups) = mpsc::channel();
        (Checker { wake_ups }, wake)
    }

    /// Starts the thread. Whenever `upstream` is ejected or in doubt, it connects and calls `check` with the
    /// connection. It ends when the upstream is dropped.
    ///
    /// `epoch` is the zero of the process's clock.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(
        self,
        upstream: &Arc<Upstream>,
        epoch: Instant,
        check: impl Fn(BlockingStream, Question) -> Result<(), CheckFailure> + Send + 'static,
    ) -> io::Result<()> {
        let upstream = Arc::downgrade(upstream);
        thread::Builder::new().name("checker".into()).spawn(move || self.run(&upstream, epoch, check)).map(drop)
    }

    fn run(
        self,
        upstream: &Weak<Upstream>,
        epoch: Instant,
        check: impl Fn(BlockingStream, Question) -> Result<(), CheckFailure>,
    ) {
        let now_ms = || millis(epoch.elapsed());
        let ask = |upstream: &Upstream, question| {
            let connected = connect(upstream).map_err(|why| CheckFailure { why, answers: false });
            connected.and_then(|stream| check(stream, question))
        };
        loop {
            let Some(next_ms) = upstream.upgrade().map(|upstream| upstream.health.next_check_in_ms(now_ms())) else {
                return;
            };
            // A client may bring the next check forward in the meantime.
            let delay = next_ms.map(|delay_ms| Duration::from_millis(delay_ms).min(limits::CHECK_DELAY));
            let woken = match delay {
                None => self.wake_ups.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(delay) => self.wake_ups.recv_timeout(delay),
            };
            if woken == Err(RecvTimeoutError::Disconnected) {
                return;
            }
            let Some(upstream) = upstream.upgrade() else { return };
            if upstream.health.wants_probe() {
                let outcome = ask(&upstream, Question::IsItAlive);
                upstream.health.probed(now_ms(), outcome);
            }
            if upstream.health.next_check_in_ms(now_ms()) == Some(0) {
                let outcome = ask(&upstream, Question::MayItReturn);
                upstream.health.checked(now_ms(), outcome);
            }
        }
    }
}

/// Connects to the first address that accepts a connection.
fn connect(upstream: &Upstream) -> Result<BlockingStream, String> {
    let addresses: Arc<[SocketAddr]> = match upstream.resolution() {
        Some(Resolution::Addresses(addresses)) => addresses,
        Some(Resolution::Failed(why)) => return Err(format!("its name does not resolve: {why}")),
        None => return Err("its name is not resolved yet".into()),
    };
    let mut last = String::new();
    for address in addresses.iter() {
        match BlockingStream::connect(upstream.transport(), *address, limits::CHECK_TIMEOUT) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = format!("{address}: {error}"),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Transport;
    use crate::upstream::HealthChange;
    use rustix::net::{AddressFamily, SocketType};

    #[test]
    fn an_ejected_upstream_returns_when_it_accepts_connections_again() {
        // Refuses connections, and nobody else gets the port.
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = SocketAddr::try_from(rustix::net::getsockname(&socket).unwrap()).unwrap();
        let (told, changes) = mpsc::channel();
        let (checker, call) = Checker::new();
        let upstream =
            Upstream::new("one", vec![address.to_string().parse().unwrap()], Transport::Tcp, move |change| {
                let _ = call.send(());
                let _ = told.send(change.clone());
            });
        upstream.resolved(0, Resolution::Addresses([address].into()));
        checker.start(&upstream, Instant::now(), |_, _| Ok(())).unwrap();
        (0..limits::EJECT_AFTER).for_each(|_| upstream.health.failed(0, "refused"));
        assert_eq!(changes.recv_timeout(Duration::from_secs(1)), Ok(HealthChange::Ejected("refused".into())));
        assert!(!upstream.health.is_up());
        rustix::net::listen(&socket, 8).unwrap();
        assert_eq!(changes.recv_timeout(Duration::from_secs(20)), Ok(HealthChange::Returned));
        assert!(upstream.health.is_up());
    }
}
