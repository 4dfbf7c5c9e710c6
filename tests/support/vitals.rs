//! The resources that a running gateway reports, and how fast it reports them.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::metrics;
use super::scratch::wait_for;

/// Resources that must return to their initial value or must not grow without bound.
#[derive(Clone, Copy, Debug, Default)]
pub struct Vitals {
    /// Memory in use, in KiB.
    pub rss_kib: u64,
    /// Open descriptors, including that of the request for this value.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
    /// CPU time so far, in seconds.
    pub cpu_seconds: f64,
    /// Connections of clients.
    pub tunnels_open: u64,
    /// Pipes that hold bytes.
    pub pipes_in_use: u64,
    /// Idle upstream connections, challenged or authenticated.
    pub waiting: u64,
}

impl Vitals {
    /// Requests them from the admin address.
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

/// The status and body of a GET. Uses no external program, because there may be no descriptors for one.
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

/// Waits until the gateway has no tunnel, no bytes in pipes, and no more descriptors than before, apart from `kept`
/// descriptors of pipes that it keeps for reuse.
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

/// Requests a path repeatedly until `stop` is set, and records how long each request took.
pub fn watch(address: SocketAddr, path: &str, stop: &std::sync::atomic::AtomicBool) -> PollResults {
    let mut results = PollResults::default();
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        let began = Instant::now();
        match get(address, path, Duration::from_secs(20)) {
            Ok((200, _)) => results.took.push(began.elapsed()),
            other => results.failed.push(FailedPoll { took: began.elapsed(), outcome: format!("{other:?}") }),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    results.took.sort();
    results
}

/// The results of [`watch`].
#[derive(Debug, Default)]
pub struct PollResults {
    /// The times of successful requests, sorted.
    pub took: Vec<Duration>,
    /// Requests without an answer, or with a status other than 200.
    pub failed: Vec<FailedPoll>,
}

/// A failed request of [`watch`].
#[derive(Debug, PartialEq, Eq)]
pub struct FailedPoll {
    /// How long it took to fail.
    pub took: Duration,
    /// The answer or error.
    pub outcome: String,
}

impl PollResults {
    /// The longest time that a request took, successful or not.
    pub fn longest(&self) -> Duration {
        self.took.iter().chain(self.failed.iter().map(|failed| &failed.took)).max().copied().unwrap_or_default()
    }

    /// The 99th percentile of the successful requests.
    pub fn p99(&self) -> Duration {
        self.took.get(self.took.len() * 99 / 100).or(self.took.last()).copied().unwrap_or_default()
    }
}
