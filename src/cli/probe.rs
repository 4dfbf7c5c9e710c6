//! `ntlm-gateway probe`: one handshake with the configured upstream, and what it shows about that upstream.

mod advice;
mod behaviours;
mod budget;
mod conversation;
mod given;
mod json;
mod message;
mod product;
mod report;
mod text;
mod tickets;
mod verdict;
mod web_server;

use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{arguments, fail, print, show_warnings};
use crate::http::{Authority, AuthorityError};
use crate::limits;
use budget::Budget;
use conversation::Bindings;
use given::Given;
use report::Report;

/// A neutral host that answers on this port.
const DEFAULT_TARGET: &str = "example.com:443";

/// The port of a target without one.
const DEFAULT_PORT: u16 = 443;

const AFTER: &str =
    "It sends one request without credentials, then makes one handshake with at most one AUTHENTICATE_MESSAGE. For Kerberos \
it gets a ticket before that, with at most one logon at the KDC. So the proxy and the KDC count at most one failed logon \
each against the account. With guard.store = \"file\" or \"kubernetes\" it is counted in the budget that the gateways \
share, and not made if that is used up. Nothing is sent through the tunnel. Passwords, hashes and responses are never \
shown.

Exit codes:
  0  the handshake works, and the tunnel was opened
  1  the configuration is wrong, this machine failed, or the guard's store
     is out of reach
  2  the command line is wrong
  3  the upstream refused the credentials
  4  the upstream cannot be reached, or its name does not resolve
  5  the upstream is not a proxy, offers no NTLM, or the handshake fails
  6  the upstream accepted the credentials, but declined the target
  7  no logon was made, because the account has no attempt left or the
     password was just rejected

Examples:
  ntlm-gateway probe --upstream proxy.corp.example:8080 \\
    --user 'CORP\\alice' --password-file ./password
  ntlm-gateway probe gateway.toml --json \\
    --target intranet.corp.example:443";

pub(super) fn command() -> Command {
    let about =
        "Probe the upstream with one handshake: shows what it is, how it behaves, and whether the configuration works";
    let command = Command::new("probe")
        .about(about)
        .arg(
            Arg::new("target")
                .long("target")
                .value_name("HOST[:PORT]")
                .default_value(DEFAULT_TARGET)
                .value_parser(target)
                .help("The origin to request a tunnel to, by default on port 443; nothing is sent through it"),
        )
        .arg(
            Arg::new("of")
                .long("of")
                .value_name("NAME")
                .help("The upstream to probe if several are configured; by default the first"),
        )
        .arg(Arg::new("wrong-channel-bindings").long("wrong-channel-bindings").action(ArgAction::SetTrue).help(
            "With https://, make the logon with channel bindings of another certificate, to see whether the \
                     upstream checks them. If it does, it refuses the logon, which may count as a failed one",
        ))
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print one JSON object instead of text"))
        .after_help(AFTER);
    arguments::with_settings(command)
}

/// Parses a target as a client would write it; the default port is that of https.
fn target(text: &str) -> Result<String, String> {
    if text.contains("://") {
        return Err("write HOST:PORT as in a CONNECT, not a URL".into());
    }
    let parse = |text: &str| Authority::parse(text).map(|authority| authority.to_string());
    parse(text).or_else(|error| match error {
        AuthorityError::MissingPort => parse(&format!("{text}:{DEFAULT_PORT}")).map_err(|error| error.to_string()),
        error => Err(error.to_string()),
    })
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    let (mut config, settings) = match arguments::configured(matches) {
        Ok(configured) => (configured.config, configured.settings),
        Err(errors) => return fail(errors),
    };
    show_warnings(&config.warnings);
    let first = config.first_upstream().name.clone();
    let name = matches.get_one::<String>("of").unwrap_or(&first);
    if !config.keep_upstream(name) {
        let known: Vec<&str> = config.upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
        return fail(format!("--of: there is no upstream {name:?}; the configured ones are {}", known.join(", ")));
    }
    let target = matches.get_one::<String>("target").map_or(DEFAULT_TARGET, String::as_str);
    let given = Given::of(&config, &settings);
    let budget = match Budget::of(&config) {
        Ok(budget) => budget,
        Err(why) => return fail(why),
    };
    let bindings = match (config.first_upstream().tls.is_some(), matches.get_flag("wrong-channel-bindings")) {
        (false, true) => return fail("--wrong-channel-bindings: the upstream is reached without TLS (https://)"),
        (false, false) => Bindings::None,
        (true, false) => Bindings::Right,
        (true, true) => Bindings::Wrong,
    };
    let report = Report::of(&config, given, target, conversation::hold(&config, target, budget, bindings));
    if let Some(why) = &report.use_of_store.not_settled {
        let minutes = limits::GUARD_WINDOW.as_secs() / 60;
        let _ = fail(format_args!(
            "warning: the result could not be stored, so the logon counts as a failed one for {minutes} minutes: {why}"
        ));
    }
    let shown = if matches.get_flag("json") { json::render(&report) } else { text::render(&report) };
    match print(&shown) {
        ExitCode::SUCCESS => ExitCode::from(report.verdict.exit_code()),
        failed => failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_lists_every_exit_code() {
        let help = command().render_help().to_string();
        for code in 0..=7 {
            assert!(help.contains(&format!("\n  {code}  ")), "{code}: {help}");
        }
    }

    #[test]
    fn the_default_port_of_a_target_is_443() {
        for (text, expected) in [
            ("Example.com:8443", "Example.com:8443"),
            ("example.com", "example.com:443"),
            ("192.0.2.1", "192.0.2.1:443"),
            ("[2001:db8::1]", "[2001:db8::1]:443"),
        ] {
            assert_eq!(target(text).as_deref(), Ok(expected));
        }
        assert!(target("https://example.com/").unwrap_err().contains("not a URL"));
        for text in ["", ":443", "http://example.com:443", "a b:1", "x:0", "a b", "x:"] {
            assert!(target(text).is_err(), "{text}");
        }
    }
}
