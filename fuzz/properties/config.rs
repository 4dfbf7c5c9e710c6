//! The configuration file: a valid configuration or errors that have a place; never a secret. The input is the file.
//!
//! The password comes from the environment, so that no file is read that the input names: two places for it are an error.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use ntlm_gateway::config::keys::{KEYS, TABLES};
use ntlm_gateway::config::table_keys::TABLE_KEYS;
use ntlm_gateway::config::values::{format_duration, format_size, parse_duration, parse_size};
use ntlm_gateway::config::{Config, ConfigErrors, MAX_SHARDS, Origin, Settings, Sources, load_with_settings, secrets};
use ntlm_gateway::ntlm::NtHash;

const PASSWORD: &str = "Qu33n-of-Spades";

/// Checks one file.
pub fn check(input: &[u8]) {
    let path = std::env::temp_dir().join(format!("ntlm-gateway-properties-{}.toml", std::process::id()));
    std::fs::write(&path, input).expect("the temporary folder can be written to");
    let outcome = load(&path);
    match &outcome {
        Ok((config, settings)) => {
            is_valid(config);
            let text = file_of(settings);
            std::fs::write(&path, &text).expect("the temporary folder can be written to");
            match load(&path) {
                Ok((again, _)) => assert_eq!(shown(&again), shown(config), "{text}"),
                Err(errors) => panic!("what was made of a valid configuration is none: {errors}\n{text}"),
            }
        }
        Err(errors) => have_their_places(errors, input),
    }
    let _ = std::fs::remove_file(&path);
    let shown = match &outcome {
        Ok((config, settings)) => format!("{config:?} {settings:?}"),
        Err(errors) => format!("{errors:?} {errors}"),
    };
    for secret in [PASSWORD, NtHash::from_password(PASSWORD).to_hex().as_str()] {
        let given = input.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(given || !shown.contains(secret), "the secret is shown");
    }
    if let Ok(text) = str::from_utf8(input) {
        values(text);
    }
}

/// Without the number of the texts: it tells a default from the same value given, where that depends on the machine.
fn shown(config: &Config) -> String {
    format!("{:?}", Config { digest: 0, ..config.clone() })
}

fn load(path: &Path) -> Result<(Config, Settings), ConfigErrors> {
    let variable = secrets::password_variable();
    let mut sources = Sources::new(Settings::default(), |name| (name == variable).then(|| OsString::from(PASSWORD)))
        .expect("the environment is right");
    sources.file = Some(path.to_owned());
    load_with_settings(&sources)
}

fn is_valid(config: &Config) {
    assert!(!config.listen.is_empty());
    for (index, address) in config.listen.iter().enumerate() {
        assert!(address.port() == 0 || !config.listen[..index].contains(address), "{address} twice");
        let local = address.ip().to_canonical().is_loopback();
        assert!(local || !config.allow_clients.is_empty(), "{address} is open to everybody");
    }
    assert!((1..=MAX_SHARDS).contains(&config.shards));
    assert!(config.max_tunnels >= 1);
    assert!((1024..=1024 * 1024).contains(&config.head_limit_bytes));
    assert_ne!(config.first_address().port(), 0);
    assert!(!config.first_identity().user().is_empty());
    let times = config.timeouts;
    let longest = Duration::from_secs(7 * 24 * 3600);
    for time in [times.connect, times.head, times.handshake, times.idle, times.warm, times.half_closed] {
        assert!((Duration::from_millis(1)..=longest).contains(&time));
    }
    assert!(times.drain <= longest && times.shutdown_delay <= longest);
}

/// Every error is one line that says something, and a place that is in the file.
fn have_their_places(errors: &ConfigErrors, input: &[u8]) {
    let lines: Vec<&[u8]> = input.split(|&byte| byte == b'\n').collect();
    assert_ne!(errors.iter().count(), 0);
    assert_eq!(errors.to_string().lines().count(), errors.iter().count(), "an error is a line: {errors}");
    for error in errors.iter() {
        let Origin::File { line, column, .. } = &error.origin else {
            continue;
        };
        let text = line.checked_sub(1).and_then(|index| lines.get(index));
        let text = text.unwrap_or_else(|| panic!("line {line} of {}", lines.len()));
        assert!((1..=text.len() + 1).contains(column), "column {column} of {}", text.len());
    }
}

/// All settings as they hold, as a file.
fn file_of(settings: &Settings) -> String {
    let mut text = String::new();
    let tables = TABLES.iter().any(|table| !settings.entries(table).is_empty());
    for key in KEYS.iter().filter(|key| key.in_file()) {
        // What the tables take the place of has no default.
        if let Some(setting) = settings.effective(key.name).filter(|_| !tables || settings.given(key.name).is_some()) {
            write_setting(&mut text, key.name, &setting.text);
        }
    }
    for table in TABLES {
        for entry in settings.entries(table) {
            let _ = writeln!(text, "[[{table}]]");
            for key in TABLE_KEYS.iter().filter(|key| key.name.starts_with(table)) {
                if let Some(setting) = entry.settings.given(key.name) {
                    write_setting(&mut text, key.name.rsplit('.').next().unwrap_or_default(), &setting.text);
                }
            }
        }
    }
    text
}

fn write_setting(text: &mut String, name: &str, value: &str) {
    let _ = write!(text, "{name} = \"");
    for letter in value.chars() {
        match letter {
            '"' | '\\' => text.extend(['\\', letter]),
            _ if letter.is_control() => {
                let _ = write!(text, "\\u{:04x}", u32::from(letter));
            }
            _ => text.push(letter),
        }
    }
    text.push_str("\"\n");
}

/// Durations and sizes mean the same when they are written again.
fn values(text: &str) {
    if let Ok(duration) = parse_duration(text, Duration::ZERO) {
        assert_eq!(parse_duration(&format_duration(duration), Duration::ZERO), Ok(duration));
    }
    if let Ok(size) = parse_size(text, 0..=usize::MAX) {
        assert_eq!(parse_size(&format_size(size), 0..=usize::MAX), Ok(size));
    }
}

/// The example, every setting with its default, and every way to be wrong.
pub fn seeds() -> Vec<Vec<u8>> {
    let least = "upstream = \"proxy.corp.example:8080\"\nuser = 'CORP\\svc'\n";
    let defaults = KEYS
        .iter()
        .filter(|key| key.in_file())
        .filter_map(|key| Some(format!("{} = \"{}\"\n", key.name, key.default.value()?)));
    let texts = [
        include_str!("../../deploy/gateway.example.toml").to_owned(),
        least.to_owned(),
        format!("{least}{}", defaults.collect::<String>()),
        format!(
            "{least}listen = [\"0.0.0.0:3128\", \"[::1]:0\"]\nallow_clients = \"10.0.0.0/8, 2001:db8::1\"\nwarm = 0\n"
        ),
        format!("{least}listen = \"0.0.0.0:3128\"\n"),
        format!("{least}domain = \"OTHER\"\npassword_file = \"/nowhere\"\nworkstation = \"\"\n"),
        format!("{least}[timeouts]\nidle = 30\nhead = \"1h\"\ndrain = \"0s\"\n[limits]\nhead = 4096\nunknown = true\n"),
        "upstream = \"CORP\\x:1\"\nuser = 1.5\ntimeouts = 3\nlog_level = [1]\n".to_owned(),
        "[[upstream]]\n'a\nb = {c = 1979-05-27}\n\"a\\nb\" = 0x10\n".to_owned(),
        "shards = 99999\nmax_tunnels = -1\nmethod = \"ntlm\"\npasswd = \"x\"\nconfig = \"y\"\n".to_owned(),
        format!("{least}\"a\\nb\" = 1\n[limits]\n\"\\u0007\" = 1\nhead = \"\\n\"\n"),
        "90s".to_owned(),
        "64KiB".to_owned(),
    ];
    let mut seeds: Vec<Vec<u8>> = texts.into_iter().map(String::into_bytes).collect();
    seeds.push(b"\xff".to_vec());
    seeds
}
