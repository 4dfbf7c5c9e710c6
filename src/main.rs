//! `ntlm-gateway`: arguments to the subcommand that they name.

use std::process::ExitCode;

fn main() -> ExitCode {
    ntlm_gateway::cli::main()
}
