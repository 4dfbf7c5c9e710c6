//! The flags of the settings, made from the table of all settings.

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::config::keys::{self, KEYS, Key, Kind};
use crate::config::{self, Config, ConfigErrors, Origin, Setting, Settings, Sources, environment};

/// The argument that names the configuration file, as `--config` does.
const FILE: &str = "FILE";

/// A subcommand's flags for all settings; the configuration file can also be given without its flag.
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
        // A text that begins with a dash is the setting's to judge; its errors say more than clap's.
        .allow_hyphen_values(key.kind == Kind::Integer);
    match key.kind {
        Kind::Switch => arg.num_args(0..=1).default_missing_value("true"),
        _ => arg,
    }
}

/// What a subcommand is to do, as the flags, the environment and the file say.
pub(super) struct Configured {
    pub sources: Sources,
    pub config: Config,
    pub settings: Settings,
}

/// Reads the configuration from the flags given, the process's environment below them, and the file.
pub(super) fn configured(matches: &ArgMatches) -> Result<Configured, ConfigErrors> {
    let lookup = |name: &str| std::env::var_os(name);
    let (sources, mut errors) = Sources::gather(settings(matches), lookup);
    let (unknown, warnings) = environment::judge(environment::names(), lookup);
    errors.extend(unknown);
    let (config, settings) = config::load_beside(&sources, errors, warnings)?;
    Ok(Configured { sources, config, settings })
}

fn settings(matches: &ArgMatches) -> Settings {
    let mut settings = Settings::default();
    for key in KEYS.iter().filter(|key| key.has_flag()) {
        if let Some(texts) = matches.get_many::<String>(key.name) {
            let texts: Vec<&str> = texts.map(String::as_str).collect();
            let origin = Origin::Flag(format!("--{}", key.flag));
            settings.give(key, Setting::joined(&texts, origin));
        }
    }
    if let (Some(file), Some(key)) = (matches.get_one::<String>(FILE), keys::find("config")) {
        settings.give(key, Setting::new(file, Origin::Flag(FILE.to_owned())));
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
    fn flags_become_settings_that_know_their_flag() {
        let settings = given(&["--upstream", "p:1", "--idle-timeout=5m", "--listen", "a:1,b:2", "--listen", "c:3"]);
        let setting = |text: &str, flag: &str| Setting::new(text, Origin::Flag(flag.into()));
        assert_eq!(settings.given("upstream"), Some(&setting("p:1", "--upstream")));
        assert_eq!(settings.given("timeouts.idle"), Some(&setting("5m", "--idle-timeout")));
        assert_eq!(settings.given("listen").map(|setting| setting.text.as_str()), Some("a:1,b:2,c:3"));
        assert_eq!(settings.given("user"), None, "a flag that is not given is not a default");
    }

    #[test]
    fn the_file_is_an_argument_or_a_flag_and_not_both() {
        for line in [&["gateway.toml"][..], &["--config", "gateway.toml"], &["--shards", "1", "gateway.toml"]] {
            assert_eq!(
                given(line).given("config").map(|setting| setting.text.as_str()),
                Some("gateway.toml"),
                "{line:?}"
            );
        }
        assert_eq!(given(&["gateway.toml"]).given("config").unwrap().origin, Origin::Flag("FILE".into()));
        let command = with_settings(Command::new("run")).no_binary_name(true);
        let error = command.try_get_matches_from(["--config", "a.toml", "b.toml"]).unwrap_err().to_string();
        assert!(error.contains("cannot be used with"), "{error}");
    }

    #[test]
    fn a_switch_needs_no_value_and_takes_one() {
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
