//! One measurement: one candidate, freshly started, under one load.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::candidate::{Candidate, UpstreamKind};
use super::launch::{Running, StubProcess, TestBed, launch};
use super::plan::{Item, ItemKind};
use crate::driver::{self, Moment};
use crate::gateway_metrics::CounterSources;
use crate::kernel;
use crate::process::{Usage, usage_of_tree};
use crate::results::{Check, RunResults};
use crate::scenario::{Load, Scenario};

/// Tunnels to warm up a candidate, so that pages it touches once are not attributed to the load.
const WARM_UP_TUNNELS: u64 = 64;
/// The same for requests.
const WARM_UP_REQUESTS: u64 = 500;
/// Time after the last tunnel for a candidate to close what the client has closed; it sleeps for most of it.
const TIDY_UP: Duration = Duration::from_millis(60);

/// The result of a measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measurement {
    pub candidate: String,
    pub round: usize,
    pub outcome: RunResults,
    /// CPU time of the process tree during the work, in µs; `None` without a process.
    pub cpu_us: Option<f64>,
    /// RSS of the tree in bytes after the warm-up, and when the work began (for `hold`: with all tunnels open).
    pub rss_before: Option<u64>,
    pub rss_with_load: Option<u64>,
    /// Kernel memory in bytes at the same moments, system-wide.
    pub kernel_before: u64,
    pub kernel_with_load: u64,
    /// Under load.
    pub descriptors: Option<u64>,
    pub threads: Option<u64>,
}

/// The stubs.
pub struct Stubs {
    pub ntlm: StubProcess,
    pub open: StubProcess,
    /// If a candidate needs it.
    pub kerberos: Option<StubProcess>,
    /// Those with TLS, that demand NTLM and nothing, if a candidate needs them.
    pub tls: Option<[StubProcess; 2]>,
}

impl Stubs {
    /// The one behind a candidate.
    fn behind(&self, candidate: &Candidate) -> &StubProcess {
        match (candidate.upstream(), &self.kerberos, &self.tls) {
            (UpstreamKind::Kerberos, Some(kerberos), _) => kerberos,
            (UpstreamKind::NtlmTls, _, Some([ntlm, _])) => ntlm,
            (UpstreamKind::OpenTls, _, Some([_, open])) => open,
            (UpstreamKind::Ntlm | UpstreamKind::Kerberos | UpstreamKind::NtlmTls, ..) => &self.ntlm,
            (UpstreamKind::Open | UpstreamKind::OpenTls, ..) => &self.open,
        }
    }
}

/// Starts the candidate, warms it up, runs the load.
///
/// # Errors
/// If the candidate does not start or nothing passes through it.
pub fn measure(
    candidate: &Candidate,
    round: usize,
    item: &Item,
    stubs: &Stubs,
    test_bed: &TestBed<'_>,
) -> Result<Measurement, String> {
    let load = Load { protocol: candidate.protocol, ..item.load.clone() };
    if load.protocol.opens_by_echo() && !load.scenario.is_of_messages() {
        return Err(format!("{}: its tunnels only exchange messages", candidate.name));
    }
    let running = launch(candidate, test_bed)?;
    let counters = CounterSources { metrics: running.admin, control: Some(stubs.behind(candidate).control) };
    let broken_before = warm_up(candidate, item, &running, &counters)?;
    let failed = |error: io::Error| format!("{}: {error}", candidate.name);
    let before = counters.read().map_err(failed)?;
    std::thread::sleep(TIDY_UP);
    let usage = || running.pid().map(usage_of_tree);
    let (rested, kernel_before) = (usage(), kernel::memory_bytes());
    let mut begin: Option<(Option<Usage>, u64)> = None;
    let mut end: Option<Usage> = None;
    let mut outcome = driver::run(&load, &[running.address], true, &mut |moment| match moment {
        Moment::WorkBegins => {
            // The kernel frees memory by RCU, so it takes a moment to show what is in use.
            let kernel = if item.kind == ItemKind::Hold { kernel::memory_bytes() } else { 0 };
            begin = Some((usage(), kernel));
        }
        Moment::WorkEnds => {
            if !item.load.opens_all_first() {
                std::thread::sleep(TIDY_UP);
            }
            end = usage();
        }
    })
    .map_err(failed)?;
    counters.add_checks(&before, &mut outcome).map_err(failed)?;
    outcome.checks.extend(broken_before);
    let (with_load, kernel_with_load) = begin.unwrap_or((None, kernel_before));
    let cpu = end.zip(with_load).map(|(end, begin)| end.cpu.saturating_sub(begin.cpu));
    Ok(Measurement {
        candidate: candidate.name.clone(),
        round,
        outcome,
        cpu_us: cpu.map(|cpu| cpu.as_secs_f64() * 1e6),
        rss_before: rested.map(|usage| usage.rss_bytes),
        rss_with_load: with_load.map(|usage| usage.rss_bytes),
        kernel_before,
        kernel_with_load,
        descriptors: with_load.map(|usage| usage.descriptors),
        threads: with_load.map(|usage| usage.threads),
    })
}

/// If nothing passes, the candidate is misconfigured and its figures would be meaningless. Waits until the counters
/// agree, and returns the checks that still fail then: the gateway counts bytes at the end of a turn of its loop, when
/// the client may have received them already, and they must not be taken for the load's.
fn warm_up(
    candidate: &Candidate,
    item: &Item,
    running: &Running,
    counters: &CounterSources,
) -> Result<Vec<Check>, String> {
    let failed = |error: io::Error| format!("{}: {error}", candidate.name);
    let setup = Load {
        scenario: Scenario::Setup,
        protocol: candidate.protocol,
        concurrency: 4,
        count: Some(WARM_UP_TUNNELS),
        duration: None,
        rate: None,
        patience: Duration::from_secs(5),
        cap: Duration::from_secs(30),
        ..item.load.clone()
    };
    let bulk = (item.kind == ItemKind::Bulk).then(|| Load {
        scenario: item.load.scenario,
        concurrency: item.load.concurrency,
        count: item.load.count,
        bulk_bytes: 1 << 20,
        ..setup.clone()
    });
    let loads = match item.kind {
        ItemKind::Http => vec![Load { scenario: Scenario::Http, count: Some(WARM_UP_REQUESTS), ..setup }],
        _ => std::iter::once(setup).chain(bulk).collect(),
    };
    let mut broken = Vec::new();
    for load in loads {
        let before = counters.read().map_err(failed)?;
        let mut outcome = driver::run(&load, &[running.address], false, &mut |_| {}).map_err(failed)?;
        if outcome.tunnels.opened == 0 {
            return Err(format!("{}: nothing passes through it: {:?}", candidate.name, outcome.errors));
        }
        counters.add_checks(&before, &mut outcome).map_err(failed)?;
        let in_warm_up = |check: &Check| Check { what: format!("warm-up: {}", check.what), ..check.clone() };
        broken.extend(outcome.broken_checks().map(in_warm_up));
    }
    Ok(broken)
}
