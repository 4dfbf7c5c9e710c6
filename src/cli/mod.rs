//! The command line: one file per subcommand.

use std::io::Write;
use std::process::ExitCode;

use clap::{ArgMatches, Command};

mod arguments;
mod check;
mod completions;
mod decode;
mod demo;
mod guard;
mod hash;
mod import;
mod man;
mod probe;
mod run;
mod terminal;
mod utc;

use crate::config::{Warning, redact};

pub use demo::DemoOptions;

const EXAMPLES: &str = r"Try it without a proxy or an account (it starts an NTLM proxy too):
  ntlm-gateway demo --once

Run it with a proxy, and send a request through it:
  ntlm-gateway run --upstream proxy.corp.example:8080 \
    --user 'CORP\alice' --password-file ./password
  curl -x http://127.0.0.1:3128 https://example.com/

Check a configuration:
  ntlm-gateway check gateway.toml

Check with one handshake whether the proxy accepts it:
  ntlm-gateway probe gateway.toml

`ntlm-gateway run --help` lists every setting.";

/// Runs the subcommand. The exit code is 0 on success, 1 on failure, and 2 if the command line is wrong; `probe` has
/// further codes for its results.
#[must_use]
pub fn main() -> ExitCode {
    match command().try_get_matches() {
        Ok(matches) => dispatch(&matches),
        Err(error) => {
            // If the output is closed, there is nowhere to report the failure.
            let _ = match redacted(&error.to_string(), std::env::args()) {
                None => error.print(),
                Some(text) => std::io::stderr().write_all(text.as_bytes()),
            };
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
        }
    }
}

/// An error's text without the passwords in arguments; `None` if no argument contains a password.
fn redacted(error: &str, arguments: impl Iterator<Item = String>) -> Option<String> {
    let secret = arguments.filter(|argument| redact::has_credentials(argument) && error.contains(argument.as_str()));
    let text = secret.fold(error.to_owned(), |text, argument| text.replace(&argument, &redact::shown(&argument)));
    (text != error).then_some(text)
}

fn dispatch(matches: &ArgMatches) -> ExitCode {
    match matches.subcommand() {
        Some(("run", matches)) => run::run(matches),
        Some(("demo", matches)) => demo::run(matches),
        Some(("check", matches)) => check::run(matches),
        Some(("probe", matches)) => probe::run(matches),
        Some(("guard", matches)) => guard::run(matches),
        Some(("hash", matches)) => hash::run(matches),
        Some(("import", matches)) => import::run(matches),
        Some(("decode", matches)) => decode::run(matches),
        Some(("completions", matches)) => completions::run(matches),
        Some(("man", matches)) => man::run(matches),
        _ => unreachable!("clap accepts only the subcommands above"),
    }
}

/// The whole command line.
#[must_use]
pub fn command() -> Command {
    Command::new("ntlm-gateway")
        .version(env!("CARGO_PKG_VERSION"))
        .about(
            "Lets workloads use a corporate proxy that requires NTLM: they use the gateway as a plain proxy, and the gateway \
             authenticates to the corporate proxy for them",
        )
        .after_help(EXAMPLES)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .max_term_width(120)
        .subcommand(run::command())
        .subcommand(demo::command())
        .subcommand(check::command())
        .subcommand(probe::command())
        .subcommand(guard::command())
        .subcommand(hash::command())
        .subcommand(import::command())
        .subcommand(decode::command())
        .subcommand(completions::command())
        .subcommand(man::command())
}

/// Prints an error and returns its exit code.
fn fail(what: impl std::fmt::Display) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "{what}");
    ExitCode::FAILURE
}

/// Prints the warnings of a configuration.
fn show_warnings(warnings: &[Warning]) {
    let mut out = std::io::stderr().lock();
    for warning in warnings {
        let _ = writeln!(out, "warning: {warning}");
    }
}

/// Prints to standard output. A reader that has gone away, such as `head`, is not a failure.
fn print(text: &str) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => fail(format_args!("cannot write: {error}")),
        _ => ExitCode::SUCCESS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn help_shows_how_to_start() {
        let help = command().render_help().to_string();
        for text in ["ntlm-gateway demo --once", "curl -x http://127.0.0.1:3128", "check gateway.toml"] {
            assert!(help.contains(text), "{help}");
        }
    }

    /// clap wraps a paragraph to the terminal's width; a paragraph with line breaks in the source would be ragged.
    #[test]
    fn help_paragraphs_have_no_line_breaks_and_examples_fit_80_columns() {
        let all = command();
        for one in std::iter::once(&all).chain(all.get_subcommands()) {
            let after = one.get_after_help().map(ToString::to_string).unwrap_or_default();
            let lines: Vec<&str> = after.lines().collect();
            let is_prose = |line: &str| !line.is_empty() && !line.starts_with(' ');
            for pair in lines.windows(2) {
                assert!(!pair.iter().all(|line| is_prose(line)), "{}: {pair:#?}", one.get_name());
            }
            for example in lines.iter().filter(|line| line.starts_with(' ')) {
                assert!(example.chars().count() < 80, "{}: {example}", one.get_name());
            }
        }
    }

    #[test]
    fn a_password_in_an_unknown_argument_is_not_repeated() {
        for line in [
            &["ntlm-gateway", "run", "a.toml", r"http://CORP\svc:s3cret@proxy:8080"][..],
            &["ntlm-gateway", "hash", "svc:s3cret@proxy:8080"],
            &["ntlm-gateway", "check", "--upsteam=http://svc:s3cret@proxy:8080"],
        ] {
            let error = command().try_get_matches_from(line).unwrap_err().to_string();
            let shown = redacted(&error, line.iter().map(|word| (*word).to_owned())).unwrap_or(error);
            assert!(!shown.contains("s3cret"), "{shown}");
        }
    }

    #[test]
    fn a_wrong_command_line_exits_with_2_and_help_with_0() {
        let code = |line: &[&str]| command().try_get_matches_from(line).unwrap_err().exit_code();
        assert_eq!(code(&["ntlm-gateway"]), 2);
        assert_eq!(code(&["ntlm-gateway", "walk"]), 2);
        assert_eq!(code(&["ntlm-gateway", "run", "--password", "x"]), 2, "there is no flag for the password itself");
        assert_eq!(code(&["ntlm-gateway", "run", "--help"]), 0);
    }
}
