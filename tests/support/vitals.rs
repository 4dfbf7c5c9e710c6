//! What a running gateway holds, as it says itself, and how fast it says it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::metrics;
use super::scratch::wait_for;

/// What must be the same before and after, and what must not grow without end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Vitals {
    /// Memory in use, in KiB.
    pub rss_kib: u64,
    /// Open descriptors, that of the question included.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
    /// CPU time so far.
    pub cpu_seconds: f64,
    /// Connections of clients.
    pub tunnels_open: u64,
    /// Pipes that hold bytes.
    pub pipes_in_use: u64,
    /// Upstream connections that wait for a request, challenged or authenticated.
    pub waiting: u64,
}

impl Vitals {
    /// Asks the administration address.
    pub fn of(admin: SocketAddr) -> io::Result<Self> {
        let (status, text) = get(admin, "/metrics", Duration::from_secs(20))?;
        if status != 200 {
            return Err(io::Error::other(format!("/metrics: {status} {text}")));
        }
        let value = |name: &str| metrics::sum(&text, name, &[]).unwrap_or_default();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts are small and not negative")]
        let count = |name: &str| value(name) as u64;
        Ok(Self {
            rss_kib: count("process_resident_memory_bytes") / 1024,
            descriptors: count("process_open_fds"),
            threads: count("process_threads"),
            cpu_seconds: value("process_cpu_seconds_total"),
            tunnels_open: count("ntlm_gateway_tunnels_open"),
            pipes_in_use: count("ntlm_gateway_pipes_in_use"),
            waiting: count("ntlm_gateway_warm_connections") + count("ntlm_gateway_kept_connections"),
        })
    }
}

/// Status and body of a GET, without a program for it: it must work when there are no descriptors for one.
pub fn get(address: SocketAddr, path: &str, patience: Duration) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: admin\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    Ok((status, body.to_owned()))
}

/// Waits until the gateway holds no tunnel, no bytes in pipes, and no more descriptors than at rest before, apart from
/// `kept` of pipes that it keeps for the next bulk bytes.
#[track_caller]
pub fn assert_nothing_leaked(admin: SocketAddr, before: Vitals, kept: u64) {
    let mut last = None;
    let at_rest = wait_for(Duration::from_secs(45), || {
        let now = Vitals::of(admin).ok()?;
        last = Some(now);
        let rests = now.tunnels_open == 0 && now.pipes_in_use == 0;
        (rests && now.descriptors - now.waiting.min(now.descriptors) <= before.descriptors + kept).then_some(())
    });
    assert!(at_rest.is_some(), "before {before:?}, afterwards {last:?}");
}

/// Asks a path again and again until told to stop; how long each question took, answered or not.
pub fn watch(address: SocketAddr, path: &str, stop: &std::sync::atomic::AtomicBool) -> Watched {
    let mut watched = Watched::default();
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        let began = Instant::now();
        match get(address, path, Duration::from_secs(20)) {
            Ok((200, _)) => watched.took.push(began.elapsed()),
            other => watched.failed.push(Failed { took: began.elapsed(), outcome: format!("{other:?}") }),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    watched.took.sort();
    watched
}

/// What [`watch`] has seen.
#[derive(Debug, Default)]
pub struct Watched {
    /// Sorted.
    pub took: Vec<Duration>,
    /// Questions without an answer, or with another than 200.
    pub failed: Vec<Failed>,
}

/// A question of [`watch`] in vain.
#[derive(Debug, PartialEq, Eq)]
pub struct Failed {
    /// How long it took to fail.
    pub took: Duration,
    /// What came instead of an answer.
    pub outcome: String,
}

impl Watched {
    /// The longest that a question took, be it in vain.
    pub fn longest(&self) -> Duration {
        self.took.iter().chain(self.failed.iter().map(|failed| &failed.took)).max().copied().unwrap_or_default()
    }

    /// The 99th percentile of those that were answered.
    pub fn p99(&self) -> Duration {
        self.took.get(self.took.len() * 99 / 100).or(self.took.last()).copied().unwrap_or_default()
    }
}
