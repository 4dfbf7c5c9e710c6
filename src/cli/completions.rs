//! `ntlm-gateway completions`: scripts that complete the command line in a shell.

use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgMatches, Command, ValueHint};
use clap_complete::Shell;

use super::print;
use crate::config::keys::KEYS;

const NAME: &str = "ntlm-gateway";
const NAME_WITHOUT_DASH: &str = "ntlm_gateway";

const SHELL: &str = "shell";

const AFTER: &str = "Install it for yourself:
  ntlm-gateway completions bash \\
    > ~/.local/share/bash-completion/completions/ntlm-gateway
  ntlm-gateway completions zsh > ~/.zfunc/_ntlm-gateway
  ntlm-gateway completions fish > ~/.config/fish/completions/ntlm-gateway.fish

zsh looks in ~/.zfunc if ~/.zshrc has these two lines:
  fpath+=~/.zfunc
  autoload -Uz compinit && compinit

The Debian and RPM packages install all three.";

pub(super) fn command() -> Command {
    let shells = PossibleValuesParser::new(["bash", "zsh", "fish"]);
    let shell = Arg::new(SHELL).value_name("bash|zsh|fish").required(true).value_parser(shells).help("The shell");
    Command::new("completions")
        .about("Print a script that completes commands, options and values in a shell")
        .arg(shell.hide_possible_values(true))
        .after_help(AFTER)
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    let shell = match matches.get_one::<String>(SHELL).map(String::as_str) {
        Some("zsh") => Shell::Zsh,
        Some("fish") => Shell::Fish,
        _ => Shell::Bash,
    };
    print(&script(shell, super::command()))
}

/// The script for a shell.
fn script(shell: Shell, command: Command) -> String {
    let mut script = Vec::new();
    let mut command = with_values(command);
    if shell != Shell::Bash {
        clap_complete::generate(shell, &mut command, NAME, &mut script);
        return String::from_utf8_lossy(&script).into_owned();
    }
    // For bash, clap_complete takes the dash in a program's name for the gap between two commands.
    let mut command = command.name(NAME_WITHOUT_DASH);
    clap_complete::generate(shell, &mut command, NAME_WITHOUT_DASH, &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    script.replace(&format!(" -o default {NAME_WITHOUT_DASH}\n"), &format!(" -o default {NAME}\n"))
}

/// The command line with what its values may be. The program itself does not parse with it, because the settings' own
/// errors say more than clap's.
fn with_values(command: Command) -> Command {
    command.mut_args(with_value).mut_subcommands(with_values)
}

fn with_value(arg: Arg) -> Arg {
    if let Some(key) = KEYS.iter().find(|key| arg.get_id() == key.name && key.value_name.contains('|')) {
        return arg.value_parser(PossibleValuesParser::new(key.value_name.split('|')));
    }
    let placeholder = arg.get_value_names().and_then(|names| names.first()).map(ToString::to_string);
    match placeholder.as_deref() {
        Some("FILE") => arg.value_hint(ValueHint::FilePath),
        Some("DIR") => arg.value_hint(ValueHint::DirPath),
        _ => arg,
    }
}
