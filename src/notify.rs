//! Notifications to the service manager: the protocol of sd_notify(3).
//!
//! A notification is a datagram of `NAME=value` lines to the socket in `NOTIFY_SOCKET`. Without that variable, nothing
//! is sent. The gateway starts no other processes, so the variables can stay in the environment.

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::limits;

/// Where notifications are sent, if anywhere.
#[derive(Debug)]
pub struct Notifier {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` with `lookup`. An unusable socket is logged and
    /// otherwise ignored.
    pub fn new(lookup: impl Fn(&str) -> Option<OsString>) -> Notifier {
        let Some(name) = lookup("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Notifier { to: None, watchdog: None };
        };
        let to = open(name.as_bytes())
            .inspect_err(|error| log::warn!("the socket in NOTIFY_SOCKET cannot be used: {error}"))
            .ok();
        let number = |name| lookup(name).and_then(|text| text.to_str()?.parse::<u64>().ok());
        let for_us = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|micros| *micros > 0 && for_us).map(Duration::from_micros);
        Notifier { to, watchdog }
    }

    /// The interval within which the service manager expects [`Notifier::alive`], if it does.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog.filter(|_| self.to.is_some())
    }

    /// The start or a reload is complete.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}"));
    }

    /// A reload begins; [`Notifier::ready`] completes it.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000);
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// The shutdown has begun.
    pub fn stopping(&self, status: &str) {
        self.send(&format!("STOPPING=1\nSTATUS={status}"));
    }

    /// A one-line status.
    pub fn status(&self, status: &str) {
        self.send(&format!("STATUS={status}"));
    }

    /// Resets the watchdog.
    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    fn send(&self, lines: &str) {
        let Some((socket, address)) = &self.to else { return };
        if let Err(error) = socket.send_to_addr(lines.as_bytes(), address) {
            log::warn!("cannot send a notification to the service manager: {error}");
        }
    }
}

/// Opens a path or, with a leading `@`, a name in the abstract namespace.
fn open(name: &[u8]) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name {
        [b'/', ..] => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?,
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
        _ => return Err(io::Error::other("it is neither an absolute path nor an abstract name")),
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(limits::NOTIFY_TIMEOUT))?;
    Ok((socket, address))
}

/// Resets the service manager's watchdog while the gateway is alive; stops when it is dropped.
#[derive(Debug)]
pub struct Watchdog {
    _ending: mpsc::Sender<()>,
}

impl Watchdog {
    /// Calls `alive` twice per watchdog interval, on a separate thread, and resets the watchdog only when that returns
    /// `true`. `None` if there is no watchdog.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(notifier: &Arc<Notifier>, alive: impl Fn() -> bool + Send + 'static) -> io::Result<Option<Watchdog>> {
        let Some(period) = notifier.watchdog() else { return Ok(None) };
        let (ending, ended) = mpsc::channel();
        let notifier = Arc::clone(notifier);
        thread::Builder::new().name("watchdog".into()).spawn(move || {
            while ended.recv_timeout(period / 2) == Err(RecvTimeoutError::Timeout) {
                if alive() {
                    notifier.alive();
                }
            }
        })?;
        Ok(Some(Watchdog { _ending: ending }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::Instant;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    /// A service manager's socket with an abstract name, and a notifier that sends to it.
    fn manager(name: &str, watchdog: Option<(&str, &str)>) -> (UnixDatagram, Arc<Notifier>) {
        let name = format!("ntlm-gateway-notify-{name}-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        let notifier = Notifier::new(|variable| match variable {
            "NOTIFY_SOCKET" => Some(format!("@{name}").into()),
            "WATCHDOG_USEC" => watchdog.map(|(micros, _)| micros.into()),
            "WATCHDOG_PID" => watchdog.map(|(_, pid)| pid.into()),
            _ => None,
        });
        (socket, Arc::new(notifier))
    }

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 512];
        let count = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..count].to_vec()).unwrap()
    }

    #[test]
    fn each_state_is_sent_in_the_format_of_sd_notify() {
        let (socket, notifier) = manager("states", None);
        notifier.ready("serving");
        assert_eq!(received(&socket), "READY=1\nSTATUS=serving");
        notifier.reloading();
        let reloading = received(&socket);
        let micros = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap_or_else(|| panic!("{reloading}"));
        assert!(micros.parse::<u64>().unwrap() > 0);
        notifier.status("waiting");
        assert_eq!(received(&socket), "STATUS=waiting");
        notifier.stopping("draining");
        assert_eq!(received(&socket), "STOPPING=1\nSTATUS=draining");
        assert_eq!(notifier.watchdog(), None);
    }

    #[test]
    fn the_watchdog_is_reset_only_while_the_gateway_is_alive() {
        let pid = std::process::id().to_string();
        let (socket, notifier) = manager("watchdog", Some(("20000", &pid)));
        let (lives, asked) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let (it_lives, times) = (Arc::clone(&lives), Arc::clone(&asked));
        let watchdog = Watchdog::start(&notifier, move || {
            times.fetch_add(1, Ordering::SeqCst);
            it_lives.load(Ordering::SeqCst)
        })
        .unwrap();
        assert!(watchdog.is_some());
        assert_eq!((received(&socket).as_str(), received(&socket).as_str()), ("WATCHDOG=1", "WATCHDOG=1"));
        lives.store(false, Ordering::SeqCst);
        socket.set_nonblocking(true).unwrap();
        let resets = || std::iter::from_fn(|| socket.recv(&mut [0; 64]).ok()).count();
        let resets_until_asked = |more: usize| {
            let (from, until) = (asked.load(Ordering::SeqCst), Instant::now() + TIMEOUT);
            let mut count = 0;
            while asked.load(Ordering::SeqCst) < from + more {
                assert!(Instant::now() < until, "it is not asked any more");
                count += resets();
                thread::sleep(Duration::from_millis(5));
            }
            count + resets()
        };
        // As many as it sent while it was alive may be queued, until it is asked once more.
        resets_until_asked(1);
        assert_eq!(resets_until_asked(10), 0);
    }

    #[test]
    fn without_a_socket_or_with_another_process_as_target_there_is_no_watchdog() {
        let (_socket, notifier) = manager("other", Some(("20000", "1")));
        assert_eq!(notifier.watchdog(), None);
        for name in ["", "relative", "vsock:2:1"] {
            let lookup = |variable: &str| Some(if variable == "NOTIFY_SOCKET" { name } else { "20000" }.into());
            let notifier = Arc::new(Notifier::new(lookup));
            assert_eq!(notifier.watchdog(), None, "{name}");
            notifier.ready("sent nowhere");
            assert!(Watchdog::start(&notifier, || true).unwrap().is_none());
        }
    }
}
