//! Settings to values: what each text means, and the rules that tie several settings together.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use log::LevelFilter;

use super::error::{ConfigError, Problem};
use super::keys::{self, Fallback};
use super::settings::{Origin, Setting, Settings};
use super::values::{parse_duration, parse_integer, parse_size};
use super::{Config, FirstLeg, IdentityConfig, LogFormat, MAX_SHARDS, SecretStore, Timeouts};
use crate::ntlm::{Account, Method};

/// The longest workstation name, in characters: that of a DNS name.
const WORKSTATION_LIMIT: usize = 255;

/// The most tunnels that can be asked for; descriptors run out long before.
const TUNNELS_LIMIT: usize = 1_000_000;

/// The most pipes a shard that can be asked for: two descriptors each.
const PIPES_LIMIT: usize = 65_536;
pub(super) const WARM_LIMIT: usize = 1_000;

/// What a socket may be asked to hold back each way, in bytes; 0 leaves it to the system.
const SOCKET_BUFFERS: std::ops::RangeInclusive<usize> = 0..=64 * 1024 * 1024;

/// The head limits that can be asked for, in bytes.
const HEAD_LIMITS: std::ops::RangeInclusive<usize> = 1024..=1024 * 1024;

pub(super) const METHODS: &[(&str, Method)] = &[("ntlmv2", Method::NtlmV2), ("ntlmv1-ess", Method::NtlmV1Ess)];
pub(super) const FIRST_LEGS: &[(&str, FirstLeg)] = &[("negotiate", FirstLeg::Negotiate), ("plain", FirstLeg::Plain)];
const LOG_FORMATS: &[(&str, LogFormat)] = &[("text", LogFormat::Text), ("json", LogFormat::Json)];
const LOG_LEVELS: &[(&str, LevelFilter)] = &[
    ("error", LevelFilter::Error),
    ("warn", LevelFilter::Warn),
    ("info", LevelFilter::Info),
    ("debug", LevelFilter::Debug),
    ("trace", LevelFilter::Trace),
];

/// Makes a configuration of settings, reading the secret that they name, and notes all that is wrong with them.
///
/// No configuration without an error, but for settings that are broken: theirs is with who read them.
pub(super) fn read(settings: &Settings, secrets: &SecretStore) -> (Option<Config>, Vec<ConfigError>) {
    let mut reader = Reader { settings, entry: None, errors: Vec::new() };
    let config = reader.config(secrets);
    (config, reader.errors)
}

/// Reads on after an error, so that all are found; `None` means that an error was noted.
pub(super) struct Reader<'a> {
    pub settings: &'a Settings,
    /// The place of the entry that the settings are those of, if they are.
    pub entry: Option<&'a Origin>,
    pub errors: Vec<ConfigError>,
}

impl Reader<'_> {
    fn config(&mut self, secrets: &SecretStore) -> Option<Config> {
        let account = self.account();
        let allow_clients = self.optional("allow_clients", networks).map(Option::unwrap_or_default);
        let listen = self.listen(allow_clients.as_deref(), account.as_ref());
        let admin = self.admin(listen.as_deref());
        let admin_tunnels = self.flag("admin_tunnels");
        let parties = self.parties(account, secrets);
        let shards = self.required("shards", |text| Ok(parse_integer(text, 1..=MAX_SHARDS)?));
        let max_tunnels = self.required("max_tunnels", |text| Ok(parse_integer(text, 1..=TUNNELS_LIMIT)?));
        let per_client = self.required("limits.tunnels_per_client", |text| Ok(parse_integer(text, 0..=TUNNELS_LIMIT)?));
        let per_client_second =
            self.required("limits.new_tunnels_per_client", |text| Ok(parse_integer(text, 0..=TUNNELS_LIMIT)?));
        let pipes = self.required("limits.pipes_per_shard", |text| Ok(parse_integer(text, 0..=PIPES_LIMIT)?));
        let socket_buffer = self.required("limits.socket_buffer", |text| Ok(parse_size(text, SOCKET_BUFFERS)?));
        let head_limit = self.required("limits.head", |text| Ok(parse_size(text, HEAD_LIMITS)?));
        let timeouts = self.timeouts();
        let via = self.flag("via");
        let log_format = self.choice("log_format", LOG_FORMATS);
        let log_level = self.choice("log_level", LOG_LEVELS);
        let parties = parties?;
        let listen = self.all_listeners(listen?, &parties.identities, allow_clients.as_deref())?;
        Some(Config {
            listen,
            admin: admin?,
            admin_tunnels: admin_tunnels?,
            allow_clients: allow_clients?,
            shards: shards?,
            max_tunnels: max_tunnels?,
            tunnels_per_client: per_client?,
            new_tunnels_per_client: per_client_second?,
            pipes_per_shard: pipes?,
            socket_buffer_bytes: socket_buffer?,
            timeouts: timeouts?,
            head_limit_bytes: head_limit?,
            via: via?,
            log_format: log_format?,
            log_level: log_level?,
            files: self.files(),
            identities: parties.identities,
            upstreams: parties.upstreams,
            groups: parties.groups,
            order: parties.order,
            check: parties.check,
            rules: parties.rules,
            digest: 0,
        })
    }

    fn timeouts(&mut self) -> Option<Timeouts> {
        let mut some_time = |name| self.duration(name, Duration::from_millis(1));
        let (connect, head) = (some_time("timeouts.connect"), some_time("timeouts.head"));
        let (handshake, idle) = (some_time("timeouts.handshake"), some_time("timeouts.idle"));
        let (warm, half_closed) = (some_time("timeouts.warm"), some_time("timeouts.half_closed"));
        let (body, response) = (some_time("timeouts.body"), some_time("timeouts.response"));
        let (keep_alive, keep) = (some_time("timeouts.keep_alive"), some_time("timeouts.keep"));
        let drain = self.duration("timeouts.drain", Duration::ZERO);
        let shutdown_delay = self.duration("timeouts.shutdown_delay", Duration::ZERO);
        Some(Timeouts {
            connect: connect?,
            head: head?,
            handshake: handshake?,
            idle: idle?,
            warm: warm?,
            body: body?,
            response: response?,
            keep_alive: keep_alive?,
            keep: keep?,
            half_closed: half_closed?,
            drain: drain?,
            shutdown_delay: shutdown_delay?,
        })
    }

    /// The account of the plain settings; it need not be given where the file has `[[identities]]`.
    fn account(&mut self) -> Option<Account> {
        let domain = self.optional("domain", |text| Ok(text.to_owned()))?;
        match self.settings.given("user").is_none() && !self.settings.entries("identities").is_empty() {
            true => None,
            false => self.required("user", |text| Ok(Account::parse(text, domain.as_deref())?)),
        }
    }

    /// The addresses of `listen`, and those of the identities that have some of their own.
    fn all_listeners(
        &mut self,
        mut listen: Vec<SocketAddr>,
        identities: &[IdentityConfig],
        allow_clients: Option<&[IpNet]>,
    ) -> Option<Vec<SocketAddr>> {
        let open = allow_clients.is_some_and(<[IpNet]>::is_empty);
        for identity in identities {
            for address in &identity.listen {
                let problem = if open && !is_loopback(address.ip()) {
                    Problem::OpenListener { address: *address, account: identity.name.clone() }
                } else if address.port() != 0 && listen.contains(address) {
                    Problem::SameAddress(*address)
                } else {
                    listen.push(*address);
                    continue;
                };
                self.note(ConfigError { origin: Origin::Default, key: "identities.listen".into(), problem });
                return None;
            }
        }
        Some(listen)
    }

    fn listen(&mut self, allow_clients: Option<&[IpNet]>, account: Option<&Account>) -> Option<Vec<SocketAddr>> {
        // A list of clients that cannot be read has its own error, and there was the will to restrict.
        let open = allow_clients.is_some_and(<[IpNet]>::is_empty);
        let lent = account.map_or_else(|| "the configured account".into(), name_of);
        self.required("listen", |text| {
            let addresses = listeners(text)?;
            match addresses.iter().find(|address| open && !is_loopback(address.ip())) {
                Some(address) => Err(Problem::OpenListener { address: *address, account: lent }),
                None => Ok(addresses),
            }
        })
    }

    fn admin(&mut self, listen: Option<&[SocketAddr]>) -> Option<SocketAddr> {
        self.required("admin", |text| {
            let address = listener(text, "127.0.0.1:9100")?;
            let taken = address.port() != 0 && listen.is_some_and(|listen| listen.contains(&address));
            if taken { Err(Problem::SameAddress(address)) } else { Ok(address) }
        })
    }

    /// The files that secrets are read from.
    fn files(&self) -> Vec<PathBuf> {
        let plain = ["password_file", "nt_hash_file"].map(|name| (self.settings, name));
        let names = ["identities.password_file", "identities.nt_hash_file", "identities.proxy_password_file"];
        let entries = self.settings.entries("identities").iter();
        let in_entries = entries.flat_map(|entry| names.map(|name| (&entry.settings, name)));
        let named = plain.into_iter().chain(in_entries).filter_map(|(settings, name)| settings.given(name));
        named.map(|setting| PathBuf::from(&setting.text)).collect()
    }

    fn duration(&mut self, name: &str, shortest: Duration) -> Option<Duration> {
        self.required(name, |text| Ok(parse_duration(text, shortest)?))
    }

    pub(super) fn choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)]) -> Option<T> {
        self.required(name, |text| choose(text, choices))
    }

    pub(super) fn optional_choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)]) -> Option<Option<T>> {
        self.optional(name, |text| choose(text, choices))
    }

    /// The value given or the default; an error where there is neither.
    pub(super) fn required<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, Problem>) -> Option<T> {
        match self.settings.effective(name) {
            Some(setting) => self.parse(name, setting, parse),
            None => {
                self.missing(name);
                None
            }
        }
    }

    /// The value given, if any.
    pub(super) fn optional<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, Problem>,
    ) -> Option<Option<T>> {
        match self.settings.given(name) {
            Some(setting) => self.parse(name, setting.clone(), parse).map(Some),
            None if self.settings.is_broken(name) => None,
            None => Some(None),
        }
    }

    pub(super) fn parse<T>(
        &mut self,
        name: &str,
        setting: Setting,
        parse: impl FnOnce(&str) -> Result<T, Problem>,
    ) -> Option<T> {
        let noted = |problem| self.note(ConfigError { origin: setting.origin, key: name.into(), problem });
        parse(setting.text.trim()).map_err(noted).ok()
    }

    fn missing(&mut self, name: &str) {
        let key = keys::find(name).filter(|_| !self.settings.is_broken(name));
        if let Some((key, Fallback::Required(purpose))) = key.map(|key| (key, key.default)) {
            let problem = Problem::Missing { purpose, ways: key.ways() };
            let origin = self.entry.cloned().unwrap_or(Origin::Default);
            self.note(ConfigError { origin, key: name.into(), problem });
        }
    }

    pub(super) fn note(&mut self, error: ConfigError) {
        self.errors.push(error);
    }
}

fn choose<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, Problem> {
    let found = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    found.ok_or_else(|| {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        Problem::Choice { text: text.into(), choices: words.join(", ") }
    })
}

pub(super) fn listeners(text: &str) -> Result<Vec<SocketAddr>, Problem> {
    let mut addresses = Vec::new();
    for entry in entries(text) {
        let address = listener(entry, "127.0.0.1:3128")?;
        if address.port() != 0 && addresses.contains(&address) {
            return Err(Problem::SameAddress(address));
        }
        addresses.push(address);
    }
    match addresses.is_empty() {
        true => Err(Problem::EmptyList("name at least one ADDR:PORT, for example 127.0.0.1:3128")),
        false => Ok(addresses),
    }
}

fn listener(text: &str, example: &'static str) -> Result<SocketAddr, Problem> {
    text.parse().map_err(|_| Problem::Address { text: text.into(), example })
}

/// Networks; an address alone is a network of its own. An empty list is refused: it could be read as nobody and as all.
pub(super) fn networks(text: &str) -> Result<Vec<IpNet>, Problem> {
    let network = |entry: &str| {
        let alone = || entry.parse::<IpAddr>().map(IpNet::from);
        entry.parse::<IpNet>().or_else(|_| alone()).map(|network| network.trunc())
    };
    let networks: Result<Vec<IpNet>, Problem> =
        entries(text).map(|entry| network(entry).map_err(|_| Problem::Network(entry.into()))).collect();
    match networks?.as_slice() {
        [] => Err(Problem::EmptyList("leave the setting out, or name at least one network such as 10.0.0.0/8")),
        networks => Ok(networks.to_vec()),
    }
}

pub(super) fn entries(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty())
}

pub(super) fn workstation(text: &str) -> Result<String, Problem> {
    let fits = (1..=WORKSTATION_LIMIT).contains(&text.chars().count());
    match fits && !text.chars().any(char::is_control) {
        true => Ok(text.to_owned()),
        false => Err(Problem::Workstation { limit: WORKSTATION_LIMIT }),
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

fn name_of(account: &Account) -> String {
    match account.domain.as_str() {
        "" => account.user.clone(),
        domain => format!(r"{domain}\{}", account.user),
    }
}
