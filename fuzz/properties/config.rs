//! The configuration file: yields a valid configuration or errors with positions, and never shows a secret. The input
//! is the file.
//!
//! The first password comes from the environment. Those of further identities are in a folder that the input calls
//! `/s/`.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use ntlm_gateway::config::keys::{KEYS, TABLES};
use ntlm_gateway::config::table_keys::TABLE_KEYS;
use ntlm_gateway::config::values::{format_duration, format_size, parse_duration, parse_size};
use ntlm_gateway::config::{
    Config, ConfigErrors, Inputs, MAX_SHARDS, Setting, Settings, Source, load_with_settings, secrets,
};
use ntlm_gateway::http::{Authority, Host};
use ntlm_gateway::limits;
use ntlm_gateway::ntlm::NtHash;
use ntlm_gateway::route::Decision;
use ntlm_gateway::upstream::WarmSize;

const PASSWORD: &str = "Qu33n-of-Spades";
/// The files under `/s/` and their content; `hash` contains the NT hash of its password instead.
const FILES: [(&str, &str); 4] =
    [("one", "K1ng-of-Hearts\n"), ("two", "J4ck-of-Clubs"), ("hash", "T3n-of-Diamonds"), ("bad", "N1ne-of\nHearts")];
/// A password in the wrong place: the value of a setting that does not exist.
const MISPLACED: &str = "Kn4ve-in-the-file";

/// Checks one file.
pub fn check(input: &[u8]) {
    let path = folder().join("gateway.toml");
    let input = &*with_folder(input);
    std::fs::write(&path, input).expect("the temporary folder can be written to");
    let outcome = load(&path);
    match &outcome {
        Ok((config, settings)) => {
            check_config(config);
            check_references(config, settings);
            check_routes(config);
            let text = to_file(settings);
            std::fs::write(&path, &text).expect("the temporary folder can be written to");
            match load(&path) {
                Ok((again, _)) => assert_eq!(shown(&again), shown(config), "{text}"),
                Err(errors) => panic!("a valid configuration is rejected after rewriting: {errors}\n{text}"),
            }
        }
        Err(errors) => check_positions(errors, input),
    }
    let shown = match &outcome {
        Ok((config, settings)) => format!("{config:?} {settings:?}"),
        Err(errors) => format!("{errors:?} {errors}"),
    };
    for secret in secrets() {
        let given = input.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(given || !shown.contains(secret), "a secret is shown");
    }
    if outcome.is_err() && is_misplaced(input) {
        assert!(!shown.contains(MISPLACED), "a misplaced password is shown: {shown}");
    }
    if let Ok(text) = str::from_utf8(input) {
        check_values(text);
    }
}

/// A folder with the secrets' files, removed when its thread ends.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let path = std::env::temp_dir().join(format!("ntlm-gateway-properties-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the temporary folder can be written to");
        for (name, secret) in FILES {
            let hash = NtHash::from_password(secret).to_hex();
            let content = if name == "hash" { hash.as_str() } else { secret };
            std::fs::write(path.join(name), content).expect("the temporary folder can be written to");
        }
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn folder() -> PathBuf {
    thread_local! { static FOLDER: Folder = Folder::new(); }
    FOLDER.with(|folder| folder.0.clone())
}

fn with_folder(input: &[u8]) -> Cow<'_, [u8]> {
    match str::from_utf8(input) {
        Ok(text) if text.contains("/s/") => {
            let path = format!("{}/", folder().display());
            Cow::Owned(text.replace("/s/", &path).into_bytes())
        }
        _ => Cow::Borrowed(input),
    }
}

/// The passwords, their hashes, and both as lists of bytes, as a derived `Debug` would print them.
fn secrets() -> &'static [String] {
    static SECRETS: OnceLock<Vec<String>> = OnceLock::new();
    SECRETS.get_or_init(|| {
        let numbers = |bytes: &[u8]| bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
        let passwords = FILES.iter().flat_map(|(_, secret)| secret.trim_end().split('\n')).chain([PASSWORD]);
        let of = |password: &str| {
            let hash = NtHash::from_password(password).to_hex();
            let bytes =
                hash.as_bytes().chunks(2).filter_map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok());
            let bytes: Vec<u8> = bytes.collect();
            [password.to_owned(), hash.as_str().to_owned(), numbers(&bytes), numbers(password.as_bytes())]
        };
        passwords.flat_map(of).collect()
    })
}

/// Whether the misplaced password only occurs as the value of a name that is no setting, or that is not allowed in the
/// file.
fn is_misplaced(input: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(input) else {
        return false;
    };
    let is_value = |line: &str| {
        ["password", "passwd", "secret", "proxy_password"].iter().any(|name| {
            let value = line.strip_prefix(name).and_then(|rest| rest.trim_start().strip_prefix('='));
            value.is_some_and(|value| value.trim() == format!("'{MISPLACED}'"))
        })
    };
    // A proxy URL with a password, in any setting except paths, which errors may show.
    let is_in_url = |line: &str| {
        let setting = line.split_once('=').filter(|(name, _)| !name.trim_end().ends_with("_file"));
        setting.is_some_and(|(_, value)| value.trim() == format!("'http://u:{MISPLACED}@p:1'"))
    };
    let is_value = |line: &str| is_value(line) || is_in_url(line);
    let one_line = !text.contains("'''") && !text.contains("\"\"\"") && text.contains(MISPLACED);
    one_line && text.lines().filter(|line| line.contains(MISPLACED)).all(is_value)
}

/// Ignores the digest, which distinguishes a default from the same value given explicitly, and the warnings, which
/// contain line numbers.
fn shown(config: &Config) -> String {
    format!("{:?}", Config { digest: 0, warnings: Vec::new(), ..config.clone() })
}

fn load(path: &Path) -> Result<(Config, Settings), ConfigErrors> {
    let variable = secrets::password_variable();
    let mut inputs = Inputs::new(Settings::default(), |name| (name == variable).then(|| OsString::from(PASSWORD)))
        .expect("the environment is right");
    inputs.file = Some(path.to_owned());
    load_with_settings(&inputs)
}

fn check_config(config: &Config) {
    assert!(!config.listen.is_empty());
    for (index, address) in config.listen.iter().enumerate() {
        assert!(address.port() == 0 || !config.listen[..index].contains(address), "{address} occurs twice");
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

/// Every reference to another part of the configuration has a target.
fn check_references(config: &Config, settings: &Settings) {
    let Config { identities, upstreams, groups, .. } = config;
    assert!((1..=limits::MAX_IDENTITIES).contains(&identities.len()));
    assert!((1..=limits::MAX_UPSTREAMS).contains(&upstreams.len()));
    let unique = |names: Vec<&str>| names.len() == names.iter().collect::<BTreeSet<_>>().len();
    assert!(unique(identities.iter().map(|identity| identity.name.as_str()).collect()), "two identities with one name");
    assert!(unique(upstreams.iter().map(|upstream| upstream.name.as_str()).collect()), "two upstreams with one name");
    assert!(unique(groups.iter().map(String::as_str).collect()), "two groups with one name");
    for upstream in upstreams {
        assert!(!upstream.addresses.is_empty() && upstream.addresses.iter().all(|address| address.port() != 0));
        assert!(upstream.group < groups.len());
        assert!((1..=1000).contains(&upstream.weight) && upstream.keep <= 1000);
        assert!(matches!(upstream.warm, WarmSize::Auto | WarmSize::Fixed(0..=1000)));
        assert!(upstream.identity.is_none_or(|identity| identity < identities.len()));
    }
    assert!((0..groups.len()).all(|group| upstreams.iter().any(|upstream| upstream.group == group)), "an empty group");
    assert_eq!(upstreams[0].group, 0);
    for identity in identities {
        assert!(identity.listen.iter().all(|address| config.listen.contains(address)));
        assert!(!identity.identity.user().is_empty() && !identity.name.is_empty());
        assert!(identity.login.as_ref().is_none_or(|login| !login.user.contains(':') && !login.user.is_empty()));
    }
    for (entry, upstream) in settings.entries("upstreams").iter().zip(upstreams) {
        let given = |name: &str| entry.settings.given(name).map(|setting| setting.text.trim());
        assert_eq!(given("upstreams.identity"), upstream.identity.map(|index| identities[index].name.as_str()));
        assert_eq!(given("upstreams.group").unwrap_or("default"), groups[upstream.group]);
    }
    let entries = settings.entries("identities");
    for (entry, identity) in entries.iter().rev().zip(identities.iter().rev()) {
        let given = |name: &str| entry.settings.given(name).map(|setting| setting.text.trim());
        assert_eq!(given("identities.name"), Some(identity.name.as_str()));
        assert_eq!(identity.basic_password.is_some(), given("identities.allow_basic") == Some("true"));
        assert_eq!(identity.login.is_some(), given("identities.proxy_user").is_some());
        for file in [
            "identities.password_file",
            "identities.nt_hash_file",
            "identities.previous_password_file",
            "identities.previous_nt_hash_file",
            "identities.proxy_password_file",
        ] {
            let path = entry.settings.given(file).map(Setting::path);
            assert!(path.is_none_or(|path| config.files.contains(&path)));
        }
    }
    let rules = &config.rules.rules;
    assert_eq!(rules.len(), settings.entries("routes").len());
    for (entry, rule) in settings.entries("routes").iter().zip(rules) {
        let given = |name: &str| entry.settings.given(name).is_some();
        assert_eq!(given("routes.host"), !rule.hosts.is_empty(), "an empty list of hosts would match every host");
        assert_eq!(
            given("routes.network"),
            !rule.networks.is_empty(),
            "an empty list of networks would match every network"
        );
        let to = match rule.decision {
            Decision::Group(group) => groups[group].as_str(),
            Decision::Direct => "direct",
            Decision::Deny => "deny",
        };
        assert_eq!(entry.settings.given("routes.to").map(|setting| setting.text.trim()), Some(to));
        assert_eq!(given("routes.port"), !rule.ports.is_empty(), "an empty list of ports would match every port");
    }
}

/// Routing decisions lead to existing groups, and to link-local addresses only by a route that names their network.
fn check_routes(config: &Config) {
    let hosts = [Host::Name("h"), Host::Name("A.example."), Host::V4([10, 1, 2, 3].into()), Host::V6([0; 8].into())];
    for host in hosts {
        for port in [25, 80, 443] {
            match config.rules.decide(&Authority { host, port }) {
                Decision::Group(group) => assert!(group < config.groups.len()),
                Decision::Direct | Decision::Deny => {}
            }
        }
        let _ = config.rules.goes_without_credentials(host);
    }
    if config.rules.rules.is_empty() {
        let metadata = Authority { host: Host::V4([169, 254, 169, 254].into()), port: 80 };
        assert_eq!(config.rules.decide(&metadata), Decision::Deny);
    }
}

/// Every error is one line of text and has a position within the file.
fn check_positions(errors: &ConfigErrors, input: &[u8]) {
    let lines: Vec<&[u8]> = input.split(|&byte| byte == b'\n').collect();
    assert_ne!(errors.iter().count(), 0);
    assert_eq!(errors.to_string().lines().count(), errors.iter().count(), "an error is not one line: {errors}");
    for error in errors.iter() {
        let Source::File { line, column, .. } = &error.source else {
            continue;
        };
        let text = line.checked_sub(1).and_then(|index| lines.get(index));
        let text = text.unwrap_or_else(|| panic!("line {line} of {}", lines.len()));
        assert!((1..=text.len() + 1).contains(column), "column {column} of {}", text.len());
    }
}

/// All effective settings, as a file.
fn to_file(settings: &Settings) -> String {
    let mut text = String::new();
    let tables = TABLES.iter().any(|table| !settings.entries(table).is_empty());
    for key in KEYS.iter().filter(|key| key.in_file()) {
        // Settings that are replaced by tables have no default.
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

/// Durations and sizes are the same after formatting.
fn check_values(text: &str) {
    if let Ok(duration) = parse_duration(text, Duration::ZERO) {
        assert_eq!(parse_duration(&format_duration(duration), Duration::ZERO), Ok(duration));
    }
    if let Ok(size) = parse_size(text, 0..=usize::MAX) {
        assert_eq!(parse_size(&format_size(size), 0..=usize::MAX), Ok(size));
    }
}

/// The example, every setting with its default, and every kind of error.
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
    seeds.extend(TABLE_SEEDS.iter().map(|text| text.as_bytes().to_vec()));
    for before in [least, "user = 'CORP\\svc'\n"] {
        seeds.extend(TABLE_SEEDS.iter().map(|text| format!("{before}{text}").into_bytes()));
    }
    let example = include_str!("../../deploy/gateway.example.toml");
    let tables = example.split_once("# Several upstreams").map(|(_, tables)| tables).unwrap_or_default();
    let tables: Vec<&str> = tables.lines().filter_map(|line| line.strip_prefix("#   ")).collect();
    let tables = tables.join("\n").replace("/run/secrets/ntlm-gateway/batch-nt-hash", "/s/hash");
    let tables = tables.replace("/run/secrets/ntlm-gateway/batch-login", "/s/two");
    let tables = ["ci", "partner"]
        .iter()
        .fold(tables, |tables, name| tables.replace(&format!("/run/secrets/ntlm-gateway/{name}-password"), "/s/one"));
    seeds.push(format!("user = 'CORP\\svc'\n{tables}\n").into_bytes());
    seeds.push(b"\xff".to_vec());
    seeds
}

/// Tables, valid and invalid, alone and after the plain settings.
const TABLE_SEEDS: &[&str] = &[
    "[[upstreams]]\naddress = 'a:1'\n[[identities]]\nname = 'one'\nuser = 'x@corp'\npassword_file = '/s/one'\n",
    "[[identities]]\nname = 'a'\nuser = 'a'\ndomain = 'D'\npassword_file = '/s/one'\nallow_basic = true\n\
     listen = '127.0.0.1:9'\n[[identities]]\nname = 'b'\nuser = 'b'\nnt_hash_file = '/s/hash'\nproxy_user = 'b'\n\
     proxy_password_file = '/s/two'\nclients = ['10.0.0.0/8', '::1']\nmethod = 'ntlmv1-ess'\ntarget_domain = true\n",
    "[[identities]]\nname = 'a'\nuser = 'a'\npassword_file = '/s/bad'\n[[identities]]\nname = 'b'\nuser = 'b'\n\
     nt_hash_file = '/s/one'\nproxy_user = 'x:y'\n",
    "[[identities]]\nname = 'a'\nuser = 'a'\nnt_hash_file = '/s/hash'\nallow_basic = true\nlisten = '0.0.0.0:1'\n",
    "[[identities]]\nname = 'default'\nuser = 'a'\npassword_file = '/s/one'\nnt_hash_file = '/s/hash'\nlisten = '127.0.0.1:3128'\n",
    "[[identities]]\nname = 'a'\nuser = 'a'\nproxy_password_file = '/s/two'\npassword = 'Kn4ve-in-the-file'\n",
    "password = 'Kn4ve-in-the-file'\npasswd = 'Kn4ve-in-the-file'\n[[upstreams]]\nsecret = 'Kn4ve-in-the-file'\n",
    "password = 'Kn4ve-in-the-file'\nuser = \"CORP\\svc\"\n",
    "[[upstreams]]\nname = 'e'\naddress = ['a:1', '[::1]:2']\nweight = 3\n[[upstreams]]\naddress = 'b:1'\ngroup = 'g'\n\
     identity = 'default'\nfirst_leg = 'plain'\nwarm = 0\nkeep = 1000\n[[routes]]\nhost = ['.p.example', 'b-*.x']\nto = 'g'\n\
     [[routes]]\nnetwork = ['169.254.0.0/16']\nport = [443, '8000-8999']\nto = 'direct'\n[[routes]]\nport = 25\nto = 'deny'\n",
    "order = 'balance'\ncheck = 'handshake'\ncheck_target = 'h:443'\nno_proxy = '.svc, 10.0.0.0/8:80, *.a'\n\
     without_credentials = ['x.y']\n",
    "[[routes]]\nhost = []\nto = 'direct'\n",
    "[[routes]]\nnetwork = ''\nto = 'direct'\n",
    "[[routes]]\nport = ','\nto = 'deny'\n",
    "[[routes]]\nhost = 'x'\nto = 'west'\nport = 0\n[[routes]]\n[[routes]]\nto = ['direct']\n",
    "[[upstreams]]\nadress = 'a:1'\n[[upstreams]]\naddress = 'a:1'\nweight = 0\nidentity = 'nobody'\n[[upstreams]]\naddress = 'a:1'\n",
    "[[upstreams]]\naddress = 'a:1'\nidentity = 'nobody'\n",
    "[[upstreams]]\naddress = 'a:1'\n[[routes]]\nto = 'nowhere'\n",
    "[[upstreams]]\naddress = 'a:1'\n[[upstreams]]\nname = 'a:1'\naddress = 'b:1'\n",
    "[[upstreams]]\naddress = 'a:1'\n[[identities]]\nname = 'default'\nuser = 'a'\npassword_file = '/s/one'\n",
    "upstreams = 'a:1'\n",
    "upstream = 'http://u:Kn4ve-in-the-file@p:1'\n",
    "listen = 'http://u:Kn4ve-in-the-file@p:1'\nshards = 'http://u:Kn4ve-in-the-file@p:1'\norder = 'http://u:Kn4ve-in-the-file@p:1'\n",
    "[[routes]]\nhost = 'http://u:Kn4ve-in-the-file@p:1'\nto = 'http://u:Kn4ve-in-the-file@p:1'\n",
    "upstream = ['a:1', 'b', 'https://c:1', 'a:1']\nlisten = '127.0.0.1:1, 127.0.0.1:1 x'\nno_proxy = ['a/b', 7]\n",
    "listen = '127.0.0.1:1'\nlisten = '127.0.0.1:2'\n[limits]\n[limits]\n",
    "[[upstreams]]\nname = 'a'\nname = 'b'\n[limits]\nhead = 1\n\"head\" = 2\n",
    "upstream = 'a:1'\nuser = 'D/x'\ndomain = 'D '\nallow_clients = ['0.0.0.0/0', '10.0.0.0/8']\n",
    "identities = [1, {name = 'x'}]\nroutes = {}\n",
];
