//! The load-test harness for `ntlm-gateway`.
//!
//! | module | subject |
//! |---|---|
//! | `arguments` | the command line |
//! | `upstream` | the stub upstream as a process, with its counters on a control address |
//! | `driver` | the client: one thread, one poll, thousands of tunnels |
//! | `scenario` | what the tunnels do |
//! | `results` | the results of a run, as written to JSON |
//! | `gateway_metrics` | compares the gateway's metrics with the client's counts |
//! | `process`, `kernel` | CPU, memory, descriptors and threads from `/proc` |
//! | `compare` | several candidates side by side |
//! | `report` | turns JSON into a page |

mod arguments;
mod compare;
mod driver;
mod gateway_metrics;
mod kernel;
mod net;
mod process;
mod report;
mod results;
mod run;
mod scenario;
mod upstream;

use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command};

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Upstream(options) => upstream::serve(&options),
        Command::Run(options) => run::run(&options),
        Command::Compare(options) => compare::run(&options),
        Command::Report(options) => report::run(&options),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ntlm-loadtest: {error}");
            ExitCode::FAILURE
        }
    }
}
