//! `compare`: several candidates side by side, in turn, on one machine.
//!
//! | file | subject |
//! |---|---|
//! | `candidate` | the candidates |
//! | `launch` | starts and stops candidates and stubs |
//! | `namespace` | a network in which connections are redirected |
//! | `plan` | what is measured |
//! | `measure` | one measurement |
//! | `figures` | medians, spreads, ratios |
//! | `table` | the text output |

mod candidate;
pub mod figures;
mod launch;
mod measure;
mod namespace;
mod plan;
pub mod table;

use std::env;
use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::arguments::CompareOptions;
use crate::driver;
use crate::scenario::{Load, Protocol};
use candidate::{Candidate, UpstreamKind};
use figures::Figure;
use launch::{StubProcess, TestBed};
pub use measure::Measurement;
use measure::{Stubs, measure};
use plan::{Item, ItemKind, LEG_MS, plan};

/// Descriptors that a candidate with two per tunnel may use: the usual limit, less a margin.
const DESCRIPTOR_LIMIT: usize = 19_900;
/// Duration of the run that determines the rate of the open loop.
const CALIBRATION: Duration = Duration::from_millis(1500);

/// The results of a comparison, as written to JSON.
#[derive(Debug, Serialize, Deserialize)]
pub struct Comparison {
    /// Always `compare`; identifies the file for the report.
    pub kind: String,
    pub version: String,
    pub started_unix_s: u64,
    pub machine: Machine,
    pub rounds: usize,
    pub shards: usize,
    /// The candidate that the others are compared with.
    pub base: String,
    pub candidates: Vec<Named>,
    /// Candidates that could not take part, and why.
    pub left_out: Vec<Named>,
    pub sections: Vec<Section>,
    /// What went wrong.
    pub faults: Vec<String>,
}

/// A name and its description.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Named {
    pub name: String,
    pub what: String,
}

/// The machine that it ran on.
#[derive(Debug, Serialize, Deserialize)]
pub struct Machine {
    pub cpus: usize,
    pub model: String,
    pub kernel: String,
}

/// The figures of one scenario, and the measurements that they are derived from.
#[derive(Debug, Serialize, Deserialize)]
pub struct Section {
    pub name: String,
    pub title: String,
    pub figures: Vec<Figure>,
    pub measurements: Vec<Measurement>,
}

/// Measures, prints, and writes the results. Fails if a gateway lost a tunnel or its metrics disagree with the client.
pub fn run(options: &CompareOptions) -> Result<ExitCode, Box<dyn Error>> {
    let (candidates, left_out) = candidates(options)?;
    if candidates.iter().any(|candidate| candidate.protocol == Protocol::Transparent) {
        namespace::enter()?;
    }
    for Named { name, what } in &left_out {
        print_line(&format!("left out: {name}: {what}"))?;
    }
    let first = candidates.first().ok_or("no candidate can take part")?;
    let base = base(options, &candidates).unwrap_or_else(|| first.name.clone());
    let scratch = scratch(options)?;
    let mut comparison = Comparison {
        kind: "compare".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_unix_s: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
        machine: Machine::here(),
        rounds: options.rounds.unwrap_or(if options.quick { 2 } else { 5 }).max(1),
        shards: options.shards.max(1),
        base,
        candidates: candidates.iter().map(|c| Named { name: c.name.clone(), what: c.what() }).collect(),
        left_out,
        sections: Vec::new(),
        faults: Vec::new(),
    };
    for mut item in plan(options)? {
        if item.kind == ItemKind::Open && item.load.rate.is_none() {
            item.load.rate = Some(half_of_top_rate(first, options, &scratch)?);
            item = item.titled();
        }
        let section = section(&item, &candidates, options, &scratch, &mut comparison)?;
        let table = table::table(&comparison, &section);
        comparison.sections.push(section);
        // After every section, so that an interrupted run is not lost.
        fs::write(&options.json, serde_json::to_vec(&comparison)?)?;
        print_line(&table)?;
    }
    for fault in &comparison.faults {
        print_line(&format!("fault: {fault}"))?;
    }
    print_line(&format!("figures in {}, configurations and logs in {}", options.json.display(), scratch.display()))?;
    Ok(if comparison.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints a line; a closed standard output is reported as an error.
fn print_line(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

/// The gateway next to this binary. `cargo run -p loadtest` builds only this package, so in that case it is built
/// first.
fn gateway_beside() -> Result<PathBuf, Box<dyn Error>> {
    let beside = env::current_exe()?.with_file_name("ntlm-gateway");
    if let (false, Some(cargo)) = (beside.is_file(), env::var_os("CARGO")) {
        let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
        let arguments = ["build", "--locked", "--package", "ntlm-gateway", "--profile", profile];
        // cargo reports a failure itself, and the missing file is named later.
        std::process::Command::new(cargo).args(arguments).status()?;
    }
    Ok(beside)
}

/// The candidates that can take part, and those that cannot.
fn candidates(options: &CompareOptions) -> Result<(Vec<Candidate>, Vec<Named>), Box<dyn Error>> {
    let gateway = match &options.gateway {
        Some(path) => path.clone(),
        None => gateway_beside()?,
    };
    let mut taking_part: Vec<Candidate> = Vec::new();
    let mut left_out = Vec::new();
    for text in &options.candidates {
        let candidate = Candidate::parse(text, &gateway)?;
        if taking_part.iter().any(|other| other.name == candidate.name) {
            return Err(format!("{:?} is given twice", candidate.name).into());
        }
        match candidate.missing() {
            // Without the program under test there is nothing to compare.
            Some(reason) if candidate.is_gateway() => return Err(reason.into()),
            Some(reason) => left_out.push(Named { name: candidate.name, what: reason }),
            None => taking_part.push(candidate),
        }
    }
    Ok((taking_part, left_out))
}

fn base(options: &CompareOptions, candidates: &[Candidate]) -> Option<String> {
    let wanted = options.base.as_deref().unwrap_or("haproxy");
    candidates.iter().find(|candidate| candidate.name == wanted).map(|candidate| candidate.name.clone())
}

fn scratch(options: &CompareOptions) -> Result<PathBuf, Box<dyn Error>> {
    let named = || env::temp_dir().join(format!("ntlm-loadtest-{}", std::process::id()));
    let directory = options.scratch.clone().unwrap_or_else(named);
    fs::create_dir_all(&directory)?;
    Ok(directory.canonicalize()?)
}

/// Runs one scenario with every candidate in every round, A B C A B C, so that drift of the machine affects all of
/// them.
fn section(
    item: &Item,
    candidates: &[Candidate],
    options: &CompareOptions,
    scratch: &Path,
    comparison: &mut Comparison,
) -> Result<Section, Box<dyn Error>> {
    let stubs = stubs(item, candidates, options, scratch)?;
    let mut measurements: Vec<Measurement> = Vec::new();
    for round in 0..comparison.rounds {
        for candidate in candidates {
            let test_bed = test_bed(&item.load, options, &stubs, scratch);
            match measure(candidate, round, item, &stubs, &test_bed) {
                Ok(measurement) => {
                    comparison.faults.extend(faults(candidate, item, &measurement));
                    measurements.push(measurement);
                }
                Err(error) => comparison.faults.push(format!("{}: {error}", item.name)),
            }
        }
    }
    Ok(Section {
        name: item.name.clone(),
        title: item.title.clone(),
        figures: figures::figures(item, &measurements, &comparison.base),
        measurements,
    })
}

/// What must not happen to the gateway. Failures of other proxies are figures, not faults.
fn faults(candidate: &Candidate, item: &Item, measurement: &Measurement) -> Vec<String> {
    if !candidate.is_gateway() {
        return Vec::new();
    }
    let Measurement { outcome, round, .. } = measurement;
    let place = format!("{} {} round {}", item.name, candidate.name, round + 1);
    let mut faults: Vec<String> = outcome.broken_checks().map(|check| format!("{place}: {check}")).collect();
    faults.extend(outcome.errors.iter().map(|(kind, count)| format!("{place}: {count} × {kind}")));
    faults
}

fn stubs(
    item: &Item,
    candidates: &[Candidate],
    options: &CompareOptions,
    scratch: &Path,
) -> Result<Stubs, Box<dyn Error>> {
    let delay_ms = if item.kind == ItemKind::Legs { LEG_MS } else { 0 };
    let needs_kerberos = candidates.iter().any(|candidate| candidate.upstream() == UpstreamKind::Kerberos);
    let kerberos = || StubProcess::start_kerberos(options.stub_threads, delay_ms, options.ticket_bytes);
    let needs_tls =
        |candidate: &Candidate| matches!(candidate.upstream(), UpstreamKind::NtlmTls | UpstreamKind::OpenTls);
    let tls = || -> io::Result<_> {
        let start = |personality| {
            StubProcess::start_tls(
                personality,
                options.stub_threads,
                delay_ms,
                &launch::certificate(scratch, personality),
                options.no_resumption,
            )
        };
        Ok([start("plain")?, start("open")?])
    };
    Ok(Stubs {
        tls: candidates.iter().any(needs_tls).then(tls).transpose()?,
        ntlm: StubProcess::start("plain", options.stub_threads, delay_ms)?,
        open: StubProcess::start("open", options.stub_threads, delay_ms)?,
        kerberos: needs_kerberos.then(kerberos).transpose()?,
    })
}

fn test_bed<'a>(load: &Load, options: &'a CompareOptions, stubs: &Stubs, scratch: &'a Path) -> TestBed<'a> {
    let tunnels = load.concurrency.max(load.count.map_or(0, |count| usize::try_from(count).unwrap_or(usize::MAX)));
    let tunnels = if load.opens_all_first() { tunnels } else { load.concurrency };
    // Two per tunnel if all are bulk, as far as there are descriptors.
    let pipes = (DESCRIPTOR_LIMIT.saturating_sub(tunnels * 2 + 256) / 2).min(tunnels * 2 + 16).max(16);
    TestBed {
        scratch,
        upstream: stubs.ntlm.address,
        kerberos: stubs.kerberos.as_ref().and_then(|stub| Some((stub.address, stub.kdc?))),
        tls: stubs.tls.as_ref().map(|stubs| stubs.each_ref().map(|stub| stub.address)),
        open_upstream: stubs.open.address,
        shards: options.shards.max(1),
        tunnels,
        pipes,
        gateway_args: &options.gateway_arg,
    }
}

/// Half of a candidate's rate in a short closed loop.
fn half_of_top_rate(candidate: &Candidate, options: &CompareOptions, scratch: &Path) -> Result<f64, Box<dyn Error>> {
    let mut item = plan::one("setup", options)?;
    item.load.duration = Some(CALIBRATION);
    item.load.protocol = candidate.protocol;
    let stubs = stubs(&item, std::slice::from_ref(candidate), options, scratch)?;
    let running = launch::launch(candidate, &test_bed(&item.load, options, &stubs, scratch))?;
    let outcome = driver::run(&item.load, &[running.address], true, &mut |_| {})?;
    Ok((outcome.tunnels_per_s() / 2.0).max(1.0).round())
}

impl Machine {
    fn here() -> Machine {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let model = read("/proc/cpuinfo")
            .lines()
            .find_map(|line| Some(line.strip_prefix("model name")?.split_once(':')?.1.trim().to_owned()));
        Machine {
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            model: model.unwrap_or_default(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}
