//! `run`: one scenario through one proxy, or several of the same kind.

use std::error::Error;
use std::process::ExitCode;

use crate::arguments::RunOptions;
use crate::driver;
use crate::gateway_metrics::Witnesses;
use crate::scenario::Load;

/// Fails when tunnels failed or the witnesses disagree.
pub fn run(options: &RunOptions) -> Result<ExitCode, Box<dyn Error>> {
    let load = Load::new(options.scenario, &options.load, options.count, options.rate)?;
    let witnesses = Witnesses { metrics: options.metrics, control: options.control };
    let before = witnesses.ask()?;
    let mut outcome = driver::run(&load, &options.proxy, true, &mut |_| {})?;
    outcome.checks = witnesses.compare(&before, &outcome)?;
    println!("{outcome}");
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_vec_pretty(&outcome)?)?;
    }
    let nothing_done = outcome.tunnels.completed + outcome.tunnels.vanished == 0;
    let failed = outcome.tunnels.failed > options.allow_failures;
    let disagrees = outcome.broken_checks().next().is_some();
    if failed || disagrees || nothing_done {
        eprintln!(
            "ntlm-loadtest: {}",
            match (failed, disagrees) {
                (true, _) => "tunnels failed",
                (_, true) => "the gateway's metrics disagree with the client",
                _ => "no tunnel was completed",
            }
        );
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
