//! `ntlm-gateway check`: what is wrong with a configuration, or what it amounts to.

use std::fmt::Write;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::arguments::{self, Configured};
use super::{fail, print, show_warnings};
use crate::config::keys::{KEYS, Key, TABLES};
use crate::config::secrets::password_variable;
use crate::config::table_keys::TABLE_KEYS;
use crate::config::{Config, IdentityConfig, Settings, Sources, redact};

pub(super) fn command() -> Command {
    let about = "Check a configuration: prints every error and its place, or `ok` and the settings with their origin; and warnings of \
                 what is valid and most likely a mistake";
    let strict = Arg::new("strict").long("strict").action(ArgAction::SetTrue).help("Take warnings for errors");
    arguments::with_settings(Command::new("check").about(about).arg(strict))
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    match arguments::configured(matches) {
        Ok(Configured { sources, config, settings }) => {
            show_warnings(&config.warnings);
            match matches.get_flag("strict") && !config.warnings.is_empty() {
                true => fail("with --strict, warnings are errors"),
                false => print(&summary(&config, &settings, &sources)),
            }
        }
        Err(errors) => {
            show_warnings(errors.warnings());
            fail(errors)
        }
    }
}

/// A setting's text; of an account's only what is no password.
fn shown(key: &Key, text: String) -> String {
    match key.name.rsplit('.').next() {
        Some("user") => redact::account(&text),
        _ => text,
    }
}

/// The settings in force and where each was given; of the secret, only the place.
fn summary(config: &Config, settings: &Settings, sources: &Sources) -> String {
    let mut rows: Vec<(String, String, String)> = Vec::new();
    for key in KEYS {
        if let Some(setting) = settings.effective(key.name) {
            rows.push((key.name.to_owned(), shown(key, setting.text), setting.origin.to_string()));
        } else if key.name == "password" && sources.secrets.has_environment() {
            rows.push((key.name.to_owned(), "(set)".into(), password_variable()));
        }
    }
    for table in TABLES {
        for (number, entry) in settings.entries(table).iter().enumerate() {
            let of_table = TABLE_KEYS.iter().filter(|key| key.name.starts_with(table));
            for (key, setting) in of_table.filter_map(|key| Some((key, entry.settings.given(key.name)?.clone()))) {
                let name = key.name.replacen(table, &format!("{table}[{number}]"), 1);
                rows.push((name, shown(key, setting.text), setting.origin.to_string()));
            }
        }
    }
    let widest = |width: fn(&(String, String, String)) -> usize| rows.iter().map(width).max().unwrap_or_default();
    let (names, texts) = (widest(|row| row.0.len()), widest(|row| row.1.chars().count()));
    let mut out = String::from("ok\n");
    for (name, text, origin) in &rows {
        // Writing to a string does not fail.
        let _ = writeln!(out, "{name:names$} = {text:texts$}  ({origin})");
    }
    for upstream in &config.upstreams {
        let addresses: Vec<String> = upstream.addresses.iter().map(ToString::to_string).collect();
        let group = config.groups.get(upstream.group).map_or("", String::as_str);
        let _ = writeln!(out, "goes through {} at {} (group {group})", upstream.name, addresses.join(", "));
    }
    for IdentityConfig { name, identity, .. } in &config.identities {
        let account = identity.account();
        let method = identity.method();
        let _ = writeln!(out, "proves {account} ({name}) by {method}, as workstation {}", identity.workstation());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Origin, Setting, keys};

    #[test]
    fn the_summary_shows_each_setting_with_its_origin_and_no_secret() {
        let mut flags = Settings::default();
        for (name, text) in [("upstream", "proxy.corp.example:8080"), ("user", r"CORP\alice")] {
            let key = keys::find(name).unwrap();
            flags.give(key, Setting::new(text, Origin::Flag(format!("--{}", key.flag))));
        }
        let environment = |name: &str| match name {
            "NTLM_GATEWAY_PASSWORD" => Some("Qu33n-of-Spades".into()),
            "NTLM_GATEWAY_MAX_TUNNELS" => Some("7".into()),
            _ => None,
        };
        let sources = Sources::new(flags, environment).unwrap();
        let (config, settings) = config::load_with_settings(&sources).unwrap();
        let summary = summary(&config, &settings, &sources);
        let squeezed = summary.split_whitespace().collect::<Vec<_>>().join(" ");
        for text in [
            "ok listen = 127.0.0.1:3128 (default)",
            "upstream = proxy.corp.example:8080 (--upstream)",
            "max_tunnels = 7 (NTLM_GATEWAY_MAX_TUNNELS)",
            "password = (set) (NTLM_GATEWAY_PASSWORD)",
            r"proves CORP\alice (default) by NTLMv2",
        ] {
            assert!(squeezed.contains(text), "{text}: {summary}");
        }
        let hash = config.first_identity().nt_hash().to_hex();
        assert!(!summary.contains("Qu33n") && !summary.contains(hash.as_str()), "{summary}");
    }
}
