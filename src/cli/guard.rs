//! `ntlm-gateway guard`: what the guard's store has counted, and how to clear it.

mod json;
mod reset;
mod show;
mod store;

use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{arguments, fail, print, show_warnings};
use crate::config::{Config, GuardConfig};
pub(super) use store::{OpenStore, StoredSecret, open as open_store};

const AFTER: &str =
    "It needs a store that outlives the gateway: guard.store = \"file\" or \"kubernetes\". With \"file\", run it on the gateway's \
machine, as the gateway's user or as root. With \"kubernetes\", run it in a pod: \
kubectl exec deployment/ntlm-gateway -- ntlm-gateway guard show /etc/ntlm-gateway/gateway.toml.

Exit codes:
  0  done
  1  the configuration is wrong, or the store cannot be used
  2  the command line is wrong

Examples:
  ntlm-gateway guard show gateway.toml
  ntlm-gateway guard reset --identity default gateway.toml";

pub(super) fn command() -> Command {
    let show = Command::new("show")
        .about("Show for each identity how many failed logons count, and what is known of its secret at each upstream")
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print one JSON object instead of text"));
    let reset = Command::new("reset")
        .about("Forget the failed logons of an account that has been unlocked in the domain, so that it is tried again")
        .arg(
            Arg::new("identity")
                .long("identity")
                .value_name("NAME")
                .action(ArgAction::Append)
                .required_unless_present("all")
                .help("Clear the account of this identity; may be repeated"),
        )
        .arg(Arg::new("all").long("all").action(ArgAction::SetTrue).conflicts_with("identity").help(
            "Clear all accounts in the store, including those of other configurations; begins a new document if the \
             store's is not usable",
        ));
    Command::new("guard")
        .about("Show or clear the failed logons that the credential guard has counted in its store")
        .after_help(AFTER)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(arguments::with_settings(show.after_help(AFTER)))
        .subcommand(arguments::with_settings(reset.after_help(AFTER)))
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    let Some((name, matches)) = matches.subcommand() else { unreachable!("clap requires a subcommand") };
    let config = match arguments::configured(matches) {
        Ok(configured) => configured.config,
        Err(errors) => return fail(errors),
    };
    show_warnings(&config.warnings);
    let open = match open(&config) {
        Ok(open) => open,
        Err(why) => return fail(why),
    };
    let done = match name {
        "show" => show::run(&config, open, matches.get_flag("json")),
        _ => {
            let names = matches.get_many::<String>("identity").into_iter().flatten().map(String::as_str);
            reset::run(&config, open, &names.collect::<Vec<_>>(), matches.get_flag("all"))
        }
    };
    match done {
        Ok(text) => print(&text),
        Err(why) => fail(why),
    }
}

/// Opens the configured store, which has to exist.
fn open(config: &Config) -> Result<OpenStore, String> {
    let GuardConfig { store, .. } = &config.guard;
    store::require_directory(store)?;
    store::open(config)?.ok_or_else(|| {
        "guard.store is \"memory\": each gateway counts failed logons in its own process, where no other can see or clear them. \
         Restart the gateway to clear its count, or set guard.store to \"file\" or \"kubernetes\""
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reset_needs_an_identity_or_all_but_not_both() {
        let parse = |line: &[&str]| command().no_binary_name(true).try_get_matches_from(line).map(|_| ());
        parse(&["reset", "--identity", "a", "--identity", "b", "gateway.toml"]).unwrap();
        parse(&["reset", "--all", "gateway.toml"]).unwrap();
        for line in [&["reset", "gateway.toml"][..], &["reset", "--all", "--identity", "a"], &[]] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line:?}");
        }
    }
}
