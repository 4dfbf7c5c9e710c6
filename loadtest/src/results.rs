//! The results of a run, as written to JSON.

use std::collections::BTreeMap;
use std::fmt;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::scenario::{Load, Scenario};

/// The results of one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunResults {
    /// The load that was asked for.
    pub load: Load,
    /// From the start of the first tunnel to the end of the last one, in seconds.
    pub elapsed_s: f64,
    /// Duration of the work itself, without opening and closing if these are separate phases.
    pub work_s: f64,
    pub tunnels: Tunnels,
    /// Failures by kind.
    pub errors: BTreeMap<String, u64>,
    /// Bytes sent through tunnels.
    pub bytes_up: u64,
    /// Bytes received through tunnels.
    pub bytes_down: u64,
    /// Messages sent and received back.
    pub messages: u64,
    /// Plain HTTP requests; `None` if the load is tunnels. If present, `tunnels` counts the client's connections.
    #[serde(default)]
    pub requests: Option<Requests>,
    /// Latencies by name: `connect` (TCP), `ready` (from the intended start to the 200; for requests, to the first
    /// answer on a connection), `message`,
    /// `message_beside_bulk`, `request`, `transfer`.
    pub latencies: BTreeMap<String, Latency>,
    /// CPU time of this process, the client, in seconds.
    pub client_cpu_s: f64,
    /// CPU time of the proxy's process tree during the work, in seconds; `None` if its PID was not given.
    #[serde(default)]
    pub proxy_cpu_s: Option<f64>,
    /// The comparison with the gateway's metrics; empty if no address was given.
    #[serde(default)]
    pub checks: Vec<Check>,
}

/// Tunnels by how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnels {
    pub begun: u64,
    /// Received a 200.
    pub opened: u64,
    /// Did everything they should.
    pub completed: u64,
    /// Disappeared on purpose.
    pub vanished: u64,
    pub failed: u64,
}

/// Plain HTTP requests of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// Answered correctly during the work.
    pub answered: u64,
    /// Answered correctly before or after it: the first one on each connection, and those in flight at the end.
    pub around: u64,
    /// AUTHENTICATE_MESSAGEs that the upstream received during the run; `None` without its control address.
    pub authentications: Option<u64>,
}

/// A number that both sides must agree on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Check {
    pub what: String,
    pub expected: String,
    pub got: u64,
    pub holds: bool,
}

/// A distribution of durations in microseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Latency {
    pub count: u64,
    pub mean_us: f64,
    pub min_us: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
    /// `[percentile, microseconds]`, ever closer to 100.
    pub curve: Vec<[f64; 2]>,
}

/// Points of the curve per halving of the distance to 100 %.
const CURVE_TICKS_PER_HALF: u32 = 4;

impl Latency {
    /// Summarises a histogram of nanoseconds; `None` if it is empty.
    #[allow(clippy::cast_precision_loss, reason = "nanoseconds of minutes are far below 2^52")]
    pub fn of(histogram: &Histogram<u64>) -> Option<Latency> {
        if histogram.is_empty() {
            return None;
        }
        let us = |ns: u64| ns as f64 / 1e3;
        let at = |quantile: f64| us(histogram.value_at_quantile(quantile));
        let curve = histogram
            .iter_quantiles(CURVE_TICKS_PER_HALF)
            .map(|step| [step.quantile_iterated_to() * 100.0, us(step.value_iterated_to())])
            .collect();
        Some(Latency {
            count: histogram.len(),
            mean_us: histogram.mean() / 1e3,
            min_us: us(histogram.min()),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: us(histogram.max()),
            curve,
        })
    }
}

impl RunResults {
    /// Tunnels completed per second of the run.
    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    pub fn tunnels_per_s(&self) -> f64 {
        (self.tunnels.completed + self.tunnels.vanished) as f64 / self.elapsed_s.max(1e-9)
    }

    /// MiB through tunnels, both ways, per second of work.
    #[allow(clippy::cast_precision_loss, reason = "bytes of a run are below 2^52")]
    pub fn mib_per_s(&self) -> f64 {
        (self.bytes_up + self.bytes_down) as f64 / f64::from(1 << 20) / self.work_s.max(1e-9)
    }

    /// Messages per second of work.
    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    pub fn messages_per_s(&self) -> f64 {
        self.messages as f64 / self.work_s.max(1e-9)
    }

    /// Requests answered per second of work; `None` if the load is tunnels.
    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    pub fn requests_per_s(&self) -> Option<f64> {
        Some(self.requests?.answered as f64 / self.work_s.max(1e-9))
    }

    /// AUTHENTICATE_MESSAGEs per answered request.
    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    pub fn authentications_per_request(&self) -> Option<f64> {
        let requests = self.requests?;
        let answered = requests.answered + requests.around;
        (answered > 0).then_some(requests.authentications? as f64 / answered as f64)
    }

    /// Whether anything was completed.
    pub fn has_done_something(&self) -> bool {
        match &self.requests {
            Some(requests) => requests.answered > 0,
            None => self.tunnels.completed + self.tunnels.vanished > 0,
        }
    }

    /// Checks that failed.
    pub fn broken_checks(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| !check.holds)
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.holds { "agrees" } else { "DISAGREES" };
        write!(f, "{}: expected {}, got {}: {verdict}", self.what, self.expected, self.got)
    }
}

impl fmt::Display for RunResults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tunnels { begun, opened, completed, vanished, failed } = self.tunnels;
        writeln!(f, "{}: {:.2} s", self.load.scenario.name(), self.elapsed_s)?;
        match &self.requests {
            Some(requests) => {
                writeln!(f, "  clients   {begun} connections, {opened} answered, {failed} failed")?;
                self.write_requests(f, requests)?;
            }
            None => writeln!(
                f,
                "  tunnels   {begun} begun, {opened} opened, {completed} completed, {vanished} vanished, {failed} failed"
            )?,
        }
        if self.requests.is_none() && !self.load.opens_all_first() {
            writeln!(f, "  rate      {:.0} tunnels/s", self.tunnels_per_s())?;
        }
        if self.messages > 0 {
            write!(f, "  messages  {} echoed", self.messages)?;
            match self.load.scenario {
                Scenario::Pingpong | Scenario::Fairness => writeln!(f, ", {:.0}/s", self.messages_per_s())?,
                _ => writeln!(f)?,
            }
        }
        writeln!(f, "  bytes     {} up, {} down, {:.1} MiB/s", self.bytes_up, self.bytes_down, self.mib_per_s())?;
        for (name, latency) in &self.latencies {
            let Latency { count, p50_us, p90_us, p99_us, p999_us, max_us, .. } = latency;
            writeln!(
                f,
                "  {name:<9} p50 {p50_us:.0}  p90 {p90_us:.0}  p99 {p99_us:.0}  p99.9 {p999_us:.0}  max {max_us:.0} µs  \
                 (n = {count})"
            )?;
        }
        for (kind, count) in &self.errors {
            writeln!(f, "  error     {count} × {kind}")?;
        }
        for check in &self.checks {
            writeln!(f, "  check     {check}")?;
        }
        if let Some(cpu_s) = self.proxy_cpu_s {
            writeln!(f, "  proxy     {cpu_s:.2} s of CPU")?;
        }
        write!(f, "  client    {:.2} s of CPU", self.client_cpu_s)
    }
}

impl RunResults {
    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    fn write_requests(&self, f: &mut fmt::Formatter<'_>, requests: &Requests) -> fmt::Result {
        let Requests { answered, around, authentications } = *requests;
        let rate = self.requests_per_s().unwrap_or_default();
        writeln!(f, "  requests  {answered} answered, {rate:.0}/s; {around} before and after")?;
        if let (Some(count), Some(each)) = (authentications, self.authentications_per_request()) {
            writeln!(f, "  auth      {count} authentications, {each:.6} per request")?;
        }
        match self.proxy_cpu_s.filter(|_| answered > 0) {
            Some(cpu_s) => writeln!(f, "  cost      {:.4} s of CPU per 1,000 requests", cpu_s * 1e3 / answered as f64),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_in_microseconds() {
        let mut histogram = Histogram::new(3).unwrap();
        for ns in (1..=1000).map(|us| us * 1000) {
            histogram.record(ns).unwrap();
        }
        let latency = Latency::of(&histogram).unwrap();
        assert!((latency.p50_us - 500.0).abs() < 1.0, "{latency:?}");
        assert!((latency.max_us - 1000.0).abs() < 1.0, "{latency:?}");
        assert!(latency.curve.windows(2).all(|pair| pair[0][0] <= pair[1][0] && pair[0][1] <= pair[1][1]));
        assert!(Latency::of(&Histogram::<u64>::new(3).unwrap()).is_none());
    }
}
