//! `ntlm-gateway check`: the errors of a configuration, or a summary of it.

use std::fmt::Write;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::arguments::{self, Configured};
use super::{fail, print, show_warnings};
use crate::config::keys::{KEYS, Key, TABLES};
use crate::config::secrets::password_variable;
use crate::config::table_keys::TABLE_KEYS;
use crate::config::{Config, IdentityConfig, Inputs, Settings, redact};

pub(super) fn command() -> Command {
    let about = "Check a configuration: prints all errors with their places, or `ok` and the settings with their sources; also warns \
                 about settings that are valid but probably a mistake";
    let strict = Arg::new("strict").long("strict").action(ArgAction::SetTrue).help("Treat warnings as errors");
    arguments::with_settings(Command::new("check").about(about).arg(strict))
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    match arguments::configured(matches) {
        Ok(Configured { inputs, config, settings }) => {
            show_warnings(&config.warnings);
            match matches.get_flag("strict") && !config.warnings.is_empty() {
                true => fail("with --strict, warnings are errors"),
                false => print(&summary(&config, &settings, &inputs)),
            }
        }
        Err(errors) => {
            show_warnings(errors.warnings());
            fail(errors)
        }
    }
}

/// A setting's text; for an account, without a password behind it.
fn shown(key: &Key, text: String) -> String {
    match key.name.rsplit('.').next() {
        Some("user") => redact::account(&text),
        _ => text,
    }
}

/// The settings with their sources, and the resulting upstreams and identities. Of secrets, only the places are shown.
fn summary(config: &Config, settings: &Settings, inputs: &Inputs) -> String {
    let mut rows: Vec<(String, String, String)> = Vec::new();
    for key in KEYS {
        if let Some(setting) = settings.effective(key.name) {
            rows.push((key.name.to_owned(), shown(key, setting.text), setting.source.to_string()));
        } else if key.name == "password" && inputs.secrets.has_environment() {
            rows.push((key.name.to_owned(), "(set)".into(), password_variable()));
        }
    }
    for table in TABLES {
        for (number, entry) in settings.entries(table).iter().enumerate() {
            let of_table = TABLE_KEYS.iter().filter(|key| key.name.starts_with(table));
            for (key, setting) in of_table.filter_map(|key| Some((key, entry.settings.given(key.name)?.clone()))) {
                let name = key.name.replacen(table, &format!("{table}[{number}]"), 1);
                rows.push((name, shown(key, setting.text), setting.source.to_string()));
            }
        }
    }
    let widest = |width: fn(&(String, String, String)) -> usize| rows.iter().map(width).max().unwrap_or_default();
    let (names, texts) = (widest(|row| row.0.len()), widest(|row| row.1.chars().count()));
    let mut out = String::from("ok\n");
    for (name, text, source) in &rows {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{name:names$} = {text:texts$}  ({source})");
    }
    for upstream in &config.upstreams {
        let addresses: Vec<String> = upstream.addresses.iter().map(ToString::to_string).collect();
        let group = config.groups.get(upstream.group).map_or("", String::as_str);
        let _ = writeln!(out, "upstream {}: {} (group {group})", upstream.name, addresses.join(", "));
    }
    for IdentityConfig { name, identity, previous, .. } in &config.identities {
        let account = identity.account();
        let method = identity.method();
        let secrets = if previous.is_some() { ", with its previous secret" } else { "" };
        let workstation = identity.workstation();
        let _ = writeln!(out, "identity {name}: {account} with {method}, workstation {workstation}{secrets}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Setting, Source, keys};

    #[test]
    fn the_summary_shows_each_setting_with_its_source_and_no_secret() {
        let mut flags = Settings::default();
        for (name, text) in [("upstream", "proxy.corp.example:8080"), ("user", r"CORP\alice")] {
            let key = keys::find(name).unwrap();
            flags.give(key, Setting::new(text, Source::Flag(format!("--{}", key.flag))));
        }
        let environment = |name: &str| match name {
            "NTLM_GATEWAY_PASSWORD" => Some("Qu33n-of-Spades".into()),
            "NTLM_GATEWAY_MAX_TUNNELS" => Some("7".into()),
            _ => None,
        };
        let inputs = Inputs::new(flags, environment).unwrap();
        let (config, settings) = config::load_with_settings(&inputs).unwrap();
        let summary = summary(&config, &settings, &inputs);
        let squeezed = summary.split_whitespace().collect::<Vec<_>>().join(" ");
        for text in [
            "ok listen = 127.0.0.1:3128 (default)",
            "upstream = proxy.corp.example:8080 (--upstream)",
            "max_tunnels = 7 (NTLM_GATEWAY_MAX_TUNNELS)",
            "password = (set) (NTLM_GATEWAY_PASSWORD)",
            r"identity default: CORP\alice with NTLMv2, workstation",
        ] {
            assert!(squeezed.contains(text), "{text}: {summary}");
        }
        let hash = config.first_identity().nt_hash().to_hex();
        assert!(!summary.contains("Qu33n") && !summary.contains(hash.as_str()), "{summary}");
    }
}
