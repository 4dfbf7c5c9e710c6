//! `ntlm-gateway`: runs the subcommand that the arguments name.

use std::process::ExitCode;

fn main() -> ExitCode {
    ntlm_gateway::cli::main()
}
