//! Counts, latencies and errors while the driver runs.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::process::own_cpu;
use crate::results::{Latency, RunResults, Tunnels};
use crate::scenario::Load;

/// Longest latency that is recorded exactly; longer ones count as this.
const LONGEST: Duration = Duration::from_secs(600);

/// Why a tunnel failed. The texts are the error kinds in the report.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{0}: {1}")]
    Io(&'static str, io::ErrorKind),
    #[error("status {0}")]
    Status(u16),
    #[error("no HTTP answer to CONNECT")]
    NoHttp,
    #[error("end before the tunnel was open")]
    EndInHead,
    #[error("no SOCKS answer")]
    NoSocks,
    #[error("SOCKS reply {0}")]
    SocksReply(u8),
    #[error("end of an idle tunnel")]
    EndWhileIdle,
    #[error("end in the middle of an echo")]
    EndInEcho,
    #[error("echo differs")]
    EchoDiffers,
    #[error("download differs from the pattern")]
    PatternDiffers,
    #[error("download cut short")]
    ShortDownload,
    #[error("download too long")]
    LongDownload,
    #[error("bytes nobody sent")]
    StrayBytes,
    #[error("no receipt for an upload")]
    NoReceipt,
    #[error("receipt for an upload differs")]
    WrongReceipt,
    #[error("no HTTP answer to a request")]
    NoAnswer,
    #[error("an answer without Content-Length")]
    NoLength,
    #[error("end before the answer to a request")]
    EndBeforeAnswer,
    #[error("an answer's body is not what it should be")]
    BodyDiffers,
    #[error("stood still {0}")]
    Stalled(&'static str),
    #[error("cut off by the run's end {0}")]
    CutOff(&'static str),
}

impl Failure {
    /// Wraps an I/O error, with what the tunnel was doing.
    pub fn io(activity: &'static str) -> impl Fn(io::Error) -> Failure {
        move |error| Failure::Io(activity, error.kind())
    }
}

/// Counts, latencies and errors of a run.
pub struct Tally {
    pub tunnels: Tunnels,
    pub bytes_up: u64,
    pub bytes_down: u64,
    pub messages: u64,
    errors: BTreeMap<String, u64>,
    histograms: BTreeMap<&'static str, Histogram<u64>>,
    begun: Instant,
    cpu_at_begin: Duration,
}

impl Tally {
    pub fn new() -> Tally {
        Tally {
            tunnels: Tunnels::default(),
            bytes_up: 0,
            bytes_down: 0,
            messages: 0,
            errors: BTreeMap::new(),
            histograms: BTreeMap::new(),
            begun: Instant::now(),
            cpu_at_begin: own_cpu(),
        }
    }

    /// Counts a failure.
    pub fn failed(&mut self, failure: &Failure) {
        self.tunnels.failed += 1;
        *self.errors.entry(failure.to_string()).or_default() += 1;
    }

    /// Records a latency.
    pub fn latency(&mut self, name: &'static str, duration: Duration) {
        let ns = u64::try_from(duration.min(LONGEST).as_nanos()).unwrap_or(u64::MAX);
        let histogram = self.histograms.entry(name).or_insert_with(|| {
            // The crate accepts these constant bounds and digits.
            #[allow(clippy::unwrap_used, reason = "constants")]
            Histogram::new_with_bounds(1, 1_000_000_000_000, 3).unwrap()
        });
        histogram.saturating_record(ns.max(1));
    }

    /// Summarises the run.
    pub fn finish(self, load: &Load, work: Duration) -> RunResults {
        let latencies =
            self.histograms.iter().filter_map(|(name, histogram)| Some(((*name).to_owned(), Latency::of(histogram)?)));
        RunResults {
            load: load.clone(),
            elapsed_s: self.begun.elapsed().as_secs_f64(),
            work_s: work.as_secs_f64(),
            tunnels: self.tunnels,
            latencies: latencies.collect(),
            errors: self.errors,
            bytes_up: self.bytes_up,
            bytes_down: self.bytes_down,
            messages: self.messages,
            requests: None,
            proxy_cpu_s: None,
            client_cpu_s: own_cpu().saturating_sub(self.cpu_at_begin).as_secs_f64(),
            checks: Vec::new(),
        }
    }
}
