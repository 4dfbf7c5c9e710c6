//! `ntlm-gateway demo`: the gateway together with a proxy that asks for NTLM, with no proxy, account or file to be had.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::fail;
use crate::config::LogFormat;
use crate::logging;

const ANY_PORT: &str = "127.0.0.1:0";

/// What the demonstration is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DemoOptions {
    /// Send one request through the gateway, show what happened, and end.
    pub once: bool,
    /// Where the gateway listens; port 0 for any that is free.
    pub listen: SocketAddr,
    /// Where its metrics are; port 0 for any that is free.
    pub admin: SocketAddr,
}

pub(super) fn command() -> Command {
    let address = |name: &'static str, help| {
        let parser = value_parser!(SocketAddr);
        Arg::new(name).long(name).value_name("ADDR:PORT").default_value(ANY_PORT).value_parser(parser).help(help)
    };
    Command::new("demo")
        .about("Try the gateway: it starts together with a proxy that asks for NTLM, and needs nothing else")
        .arg(
            Arg::new("once").long("once").action(ArgAction::SetTrue).help(
                "Send one request through the gateway, show what happened, and end; without it, run until Ctrl-C",
            ),
        )
        .arg(address("listen", "Where the gateway listens; port 0 takes any that is free"))
        .arg(address("admin", "Where /metrics, /healthz and /readyz are served; port 0 takes any that is free"))
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    match logging::init(LogFormat::Text, log::LevelFilter::Info) {
        Ok(_guard) => start(&options(matches)),
        Err(error) => fail(format_args!("cannot start logging: {error}")),
    }
}

fn options(matches: &ArgMatches) -> DemoOptions {
    let address = |name| matches.get_one(name).copied().unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
    DemoOptions { once: matches.get_flag("once"), listen: address("listen"), admin: address("admin") }
}

fn start(options: &DemoOptions) -> ExitCode {
    log::info!(listen:% = options.listen, admin:% = options.admin, once = options.once; "demonstration");
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &[&str]) -> DemoOptions {
        options(&command().no_binary_name(true).try_get_matches_from(line).unwrap())
    }

    #[test]
    fn the_demonstration_takes_free_ports_of_loopback_unless_told_otherwise() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        assert_eq!(parsed(&[]), DemoOptions { once: false, listen: any, admin: any });
        let listen = "127.0.0.1:3128".parse().unwrap();
        assert_eq!(parsed(&["--once", "--listen", "127.0.0.1:3128"]), DemoOptions { once: true, listen, admin: any });
    }
}
