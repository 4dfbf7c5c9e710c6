//! `run`: one scenario through one proxy, or through several of the same kind.

use std::error::Error;
use std::process::ExitCode;

use crate::arguments::RunOptions;
use crate::driver::{self, Moment};
use crate::gateway_metrics::CounterSources;
use crate::process::usage_of_tree;
use crate::scenario::Load;

/// Fails if tunnels failed or the counters disagree.
pub fn run(options: &RunOptions) -> Result<ExitCode, Box<dyn Error>> {
    let load = Load::new(options.scenario, &options.load, options.count, options.rate)?;
    let counters = CounterSources { metrics: options.metrics, control: options.control };
    let before = counters.read()?;
    let cpu_now = || options.pid.map(|pid| usage_of_tree(pid).cpu);
    let (mut cpu_at_begin, mut cpu_at_end) = (None, None);
    let mut outcome = driver::run(&load, &options.proxy, true, &mut |moment| match moment {
        Moment::WorkBegins => cpu_at_begin = cpu_now(),
        Moment::WorkEnds => cpu_at_end = cpu_now(),
    })?;
    outcome.proxy_cpu_s = cpu_at_begin.zip(cpu_at_end).map(|(begin, end)| end.saturating_sub(begin).as_secs_f64());
    counters.add_checks(&before, &mut outcome)?;
    println!("{outcome}");
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_vec_pretty(&outcome)?)?;
    }
    let nothing_done = !outcome.has_done_something();
    let what = if outcome.requests.is_some() { "requests" } else { "tunnels" };
    let failed = outcome.tunnels.failed > options.allow_failures;
    let disagrees = outcome.broken_checks().next().is_some();
    if failed || disagrees || nothing_done {
        eprintln!(
            "ntlm-loadtest: {}",
            match (failed, disagrees) {
                (true, _) => format!("{what} failed"),
                (_, true) => "the gateway's metrics disagree with the client".to_owned(),
                _ => format!("no {what} were completed"),
            }
        );
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
