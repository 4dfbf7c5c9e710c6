//! The flags of the settings, generated from the table of all settings.

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::config::keys::{self, KEYS, Key, Kind};
use crate::config::{self, Config, ConfigErrors, Inputs, Setting, Settings, Source, environment};

/// The positional argument with the configuration file, like `--config`.
const FILE: &str = "FILE";

/// Adds the flags of all settings to a subcommand. The configuration file can also be given as a positional argument.
pub(super) fn with_settings(command: Command) -> Command {
    let file = Arg::new(FILE).value_name(FILE).help("The same as --config FILE").conflicts_with("config");
    command.args(KEYS.iter().filter(|key| key.has_flag()).map(flag)).arg(file)
}

fn flag(key: &'static Key) -> Arg {
    let action = match key.kind {
        Kind::List => ArgAction::Append,
        _ => ArgAction::Set,
    };
    let arg = Arg::new(key.name)
        .long(key.flag)
        .value_name(key.value_name)
        .help(key.help_line())
        .help_heading(key.heading)
        .action(action)
        // The setting parses a text that begins with a dash: its errors are better than clap's.
        .allow_hyphen_values(matches!(key.kind, Kind::Integer | Kind::IntegerOrAuto));
    match key.kind {
        Kind::Switch => arg.num_args(0..=1).default_missing_value("true"),
        _ => arg,
    }
}

/// A configuration, and what it was made from.
pub(super) struct Configured {
    pub inputs: Inputs,
    pub config: Config,
    pub settings: Settings,
}

/// Reads the configuration from the flags, the process's environment and the file, in this order of precedence.
pub(super) fn configured(matches: &ArgMatches) -> Result<Configured, ConfigErrors> {
    let lookup = |name: &str| std::env::var_os(name);
    let (inputs, mut errors) = Inputs::gather(settings(matches), lookup);
    let (unknown, warnings) = environment::check_names(environment::names(), lookup);
    errors.extend(unknown);
    let (config, settings) = config::load_beside(&inputs, errors, warnings)?;
    Ok(Configured { inputs, config, settings })
}

fn settings(matches: &ArgMatches) -> Settings {
    let mut settings = Settings::default();
    for key in KEYS.iter().filter(|key| key.has_flag()) {
        if let Some(texts) = matches.get_many::<String>(key.name) {
            let texts: Vec<&str> = texts.map(String::as_str).collect();
            let source = Source::Flag(format!("--{}", key.flag));
            settings.give(key, Setting::joined(&texts, source));
        }
    }
    if let (Some(file), Some(key)) = (matches.get_one::<String>(FILE), keys::find("config")) {
        settings.give(key, Setting::new(file, Source::Flag(FILE.to_owned())));
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(line: &[&str]) -> Settings {
        let command = with_settings(Command::new("run")).no_binary_name(true);
        settings(&command.try_get_matches_from(line).unwrap())
    }

    #[test]
    fn flags_become_settings_with_their_flag_as_source() {
        let settings = given(&["--upstream", "p:1", "--idle-timeout=5m", "--listen", "a:1,b:2", "--listen", "c:3"]);
        let setting = |text: &str, flag: &str| Setting::new(text, Source::Flag(flag.into()));
        assert_eq!(settings.given("upstream"), Some(&setting("p:1", "--upstream")));
        assert_eq!(settings.given("timeouts.idle"), Some(&setting("5m", "--idle-timeout")));
        assert_eq!(settings.given("listen").map(|setting| setting.text.as_str()), Some("a:1,b:2,c:3"));
        assert_eq!(settings.given("user"), None, "a missing flag has no value");
    }

    #[test]
    fn the_file_is_a_positional_argument_or_a_flag_but_not_both() {
        for line in [&["gateway.toml"][..], &["--config", "gateway.toml"], &["--shards", "1", "gateway.toml"]] {
            assert_eq!(
                given(line).given("config").map(|setting| setting.text.as_str()),
                Some("gateway.toml"),
                "{line:?}"
            );
        }
        assert_eq!(given(&["gateway.toml"]).given("config").unwrap().source, Source::Flag("FILE".into()));
        let command = with_settings(Command::new("run")).no_binary_name(true);
        let error = command.try_get_matches_from(["--config", "a.toml", "b.toml"]).unwrap_err().to_string();
        assert!(error.contains("cannot be used with"), "{error}");
    }

    #[test]
    fn the_value_of_a_switch_is_optional() {
        for (line, expected) in [
            (&["--admin-tunnels"][..], "true"),
            (&["--admin-tunnels", "--shards", "1"], "true"),
            (&["--admin-tunnels=false"], "false"),
            (&["--admin-tunnels", "false"], "false"),
        ] {
            assert_eq!(given(line).given("admin_tunnels").unwrap().text, expected, "{line:?}");
        }
    }

    #[test]
    fn help_lists_every_setting_with_its_variable_and_default() {
        let help = with_settings(Command::new("run")).term_width(0).render_help().to_string();
        for key in KEYS {
            assert_eq!(help.contains(&format!("--{} ", key.flag)), key.has_flag(), "{}", key.name);
            if key.has_flag() {
                assert!(help.contains(&format!("[env: {}]", key.env())), "{}", key.name);
                let default = key.default.shown().map(|shown| format!("[default: {shown}]"));
                assert!(default.is_none_or(|default| help.contains(&default)), "{}", key.name);
            }
        }
    }
}
