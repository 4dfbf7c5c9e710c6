//! `ntlm-gateway run`: the gateway.

use std::process::ExitCode;

use clap::{ArgMatches, Command};

use super::arguments::{self, Configured};
use super::fail;
use crate::{logging, supervisor};

const AFTER: &str =
    "The password comes from exactly one of --password-file, --nt-hash-file, --password-fd and the variable \
NTLM_GATEWAY_PASSWORD. There is no flag for the password itself, because everyone who lists the processes can see their flags.

Example:
  ntlm-gateway run --upstream proxy.corp.example:8080 \\
    --user 'CORP\\alice' --password-file ./password
  curl -x http://127.0.0.1:3128 https://example.com/";

pub(super) fn command() -> Command {
    arguments::with_settings(Command::new("run").about("Run the gateway").after_help(AFTER))
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    let Configured { inputs, config, .. } = match arguments::configured(matches) {
        Ok(configured) => configured,
        Err(errors) => return fail(errors),
    };
    match logging::init(config.log_format, config.log_level) {
        Ok(_guard) => supervisor::run(config, &inputs),
        Err(error) => fail(format_args!("cannot start logging: {error}")),
    }
}
