//! From settings to values: parses each text, and checks the rules between settings.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use log::LevelFilter;

use super::error::{ConfigError, Problem};
use super::keys::{self, Fallback};
use super::listeners::TableListener;
use super::redact;
use super::secrets::FILES;
use super::settings::{Part, Setting, Settings, Source};
use super::tls;
use super::values::{parse_duration, parse_integer, parse_size};
use super::warning::{self, Advice, Warning};
use super::{Config, FirstLeg, KeepAlive, LogFormat, MAX_SHARDS, SecretStore, Timeouts};
use crate::client_protocol::Service;
use crate::limits;
use crate::ntlm::{Account, Method};

/// The longest workstation name, in characters: that of a DNS name.
const WORKSTATION_LIMIT: usize = 255;

/// The largest limit of tunnels; descriptors run out long before.
const TUNNELS_LIMIT: usize = 1_000_000;

/// The largest limit of pipes per shard; each has two descriptors.
const PIPES_LIMIT: usize = 65_536;

/// At least two: one attempt shows that something is wrong, another one what. Domains that lock accounts do not wait
/// for many more.
pub(super) const WARM_LIMIT: usize = 1_000;

/// The sizes of socket buffers; 0 for the system's default.
const SOCKET_BUFFERS: std::ops::RangeInclusive<usize> = 0..=64 * 1024 * 1024;

/// The kernel's limits for TCP keep-alive (tcp(7)): times in whole seconds, and numbers of probes.
const TCP_TIMES_LIMIT: Duration = Duration::from_secs(32_767);
const TCP_PROBES: std::ops::RangeInclusive<usize> = 1..=127;

/// The longest name in Via, in bytes.
const VIA_NAME_LIMIT: usize = 64;

/// The possible limits on the length of a head.
const HEAD_LIMITS: std::ops::RangeInclusive<usize> = 1024..=1024 * 1024;

/// The possible limits on the number of field lines.
const FIELD_LIMITS: std::ops::RangeInclusive<usize> = 16..=10_000;

const SOME_LISTENER: Option<&str> = Some("give at least one ADDR:PORT, for example 127.0.0.1:3128");
/// An empty list is rejected: it could mean nobody or everybody.
pub(super) const SOME_NETWORK: Option<&str> =
    Some("leave the setting out, or give at least one network such as 10.0.0.0/8");

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

/// Builds a configuration from settings, reads the secrets that they name, and collects all errors and warnings.
///
/// If there is no configuration, there is an error, except for broken settings: the code that reads those reports an
/// error.
pub(super) fn read(settings: &Settings, secrets: &SecretStore) -> (Option<Config>, Vec<ConfigError>, Vec<Warning>) {
    let mut reader = Reader {
        settings,
        entry: None,
        is_open: false,
        addresses: Vec::new(),
        errors: Vec::new(),
        warnings: Vec::new(),
    };
    let config = reader.config(secrets);
    (config, reader.errors, reader.warnings)
}

/// A value and where it was given.
#[derive(Clone, Debug)]
pub(super) struct Placed<T> {
    pub value: T,
    pub source: Source,
}

/// The entries of a list that could be parsed.
pub(super) struct List<T> {
    pub entries: Vec<Placed<T>>,
    /// Whether all entries could be parsed; otherwise there is an error.
    pub is_whole: bool,
}

impl<T> List<T> {
    /// The values, if all could be parsed.
    pub fn values(self) -> Option<Vec<T>> {
        self.is_whole.then(|| self.entries.into_iter().map(|entry| entry.value).collect())
    }
}

/// Parses settings and continues after an error, so that all errors are found. A result of `None` means that an error
/// was added.
pub(super) struct Reader<'a> {
    pub settings: &'a Settings,
    /// The place of the entry, for the settings of an entry.
    pub entry: Option<&'a Source>,
    /// Whether clients are not restricted, so that listening beyond loopback is rejected.
    pub is_open: bool,
    /// All listening addresses with their settings.
    pub addresses: Vec<(&'static str, Placed<SocketAddr>)>,
    pub errors: Vec<ConfigError>,
    pub warnings: Vec<Warning>,
}

impl Reader<'_> {
    fn config(&mut self, secrets: &SecretStore) -> Option<Config> {
        let account = self.account();
        let allow_clients = self.list("allow_clients", SOME_NETWORK, network);
        // A list of clients that cannot be parsed has its own error, and was meant to restrict them.
        self.is_open = allow_clients.is_whole && allow_clients.entries.is_empty();
        let shown_account = account.as_ref().map_or_else(|| "the configured account".into(), Account::to_string);
        let listen = self.short_listeners(&shown_account);
        let admin = self.admin();
        let admin_tunnels = self.flag("admin_tunnels");
        let egress = self.egress(account, secrets);
        let identities = egress.as_ref().map(|egress| egress.identities.as_slice());
        let table = self.table_listeners(identities, &shown_account);
        let shards = self.required("shards", |text| Ok(parse_integer(text, 1..=MAX_SHARDS)?));
        let max_tunnels = self.required("max_tunnels", |text| Ok(parse_integer(text, 1..=TUNNELS_LIMIT)?));
        let per_client = self.required("limits.tunnels_per_client", |text| Ok(parse_integer(text, 0..=TUNNELS_LIMIT)?));
        let per_client_second =
            self.required("limits.new_tunnels_per_client", |text| Ok(parse_integer(text, 0..=TUNNELS_LIMIT)?));
        let guard = self.guard();
        let pipes = self.required("limits.pipes_per_shard", |text| Ok(parse_integer(text, 0..=PIPES_LIMIT)?));
        let socket_buffer = self.required("limits.socket_buffer", |text| Ok(parse_size(text, SOCKET_BUFFERS)?));
        let memory_limit = self.required("limits.memory", memory_limit);
        let head_limit = self.required("limits.head", |text| Ok(parse_size(text, HEAD_LIMITS)?));
        let field_limit = self.required("limits.fields", |text| Ok(parse_integer(text, FIELD_LIMITS)?));
        let timeouts = Timeouts::read(|name, shortest| self.duration(name, shortest));
        let (via, via_name) = (self.flag("via"), self.optional("via_name", via_name));
        let keep_alive = self.keep_alive();
        let log_format = self.choice("log_format", LOG_FORMATS);
        let log_level = self.choice("log_level", LOG_LEVELS);
        self.warn_about_clients(&allow_clients);
        self.reject_duplicate_addresses();
        let mut egress = egress?;
        let mut common_listen = listen?;
        let of_identities = egress.identities.iter().flat_map(|identity| identity.listen.iter().copied());
        let mut listen: Vec<SocketAddr> = common_listen.iter().copied().chain(of_identities).collect();
        let mut services = vec![Service::default(); listen.len()];
        let mut trusted_proxies = vec![Vec::new(); listen.len()];
        let table = table?;
        listen.extend(table.iter().map(|entry| entry.address));
        self.reject_loops(listen.iter().copied().chain(admin).collect(), &egress.upstreams, &table);
        for TableListener { address, service, identity, trusted_proxies: trusted, .. } in table {
            services.push(service);
            trusted_proxies.push(trusted);
            match identity.and_then(|identity| egress.identities.get_mut(identity)) {
                Some(identity) => identity.listen.push(address),
                None => common_listen.push(address),
            }
        }
        Some(Config {
            listen,
            services,
            trusted_proxies,
            common_listen,
            admin: admin?,
            admin_tunnels: admin_tunnels?,
            allow_clients: allow_clients.values()?,
            shards: shards?,
            max_tunnels: max_tunnels?,
            tunnels_per_client: per_client?,
            new_tunnels_per_client: per_client_second?,
            guard: guard?,
            pipes_per_shard: pipes?,
            socket_buffer_bytes: socket_buffer?,
            memory_limit_bytes: memory_limit?,
            timeouts: timeouts?,
            head_limit_bytes: head_limit?,
            field_limit: field_limit?,
            via: via?,
            via_name: via_name?,
            keep_alive: keep_alive?,
            log_format: log_format?,
            log_level: log_level?,
            files: self.files().into_iter().chain(egress.system_store).collect(),
            identities: egress.identities,
            kerberos: egress.kerberos,
            upstreams: egress.upstreams,
            groups: egress.groups,
            order: egress.order,
            check: egress.check,
            rules: egress.rules,
            digest: 0,
            warnings: Vec::new(),
        })
    }

    /// The inner `None` disables TCP keep-alive.
    fn keep_alive(&mut self) -> Option<Option<KeepAlive>> {
        let mut seconds = |name, shortest| {
            self.required(name, |text| {
                let time = parse_duration(text, shortest)?;
                match time.subsec_nanos() == 0 && time <= TCP_TIMES_LIMIT {
                    true => Ok(time),
                    false => Err(Problem::WholeSeconds { text: text.into() }),
                }
            })
        };
        let idle = seconds("timeouts.tcp_idle", Duration::ZERO);
        let probe = seconds("timeouts.tcp_probe", Duration::from_secs(1));
        let probes = self.required("limits.tcp_probes", |text| Ok(parse_integer(text, TCP_PROBES)?));
        let keep_alive = KeepAlive { idle: idle?, probe: probe?, probes: u32::try_from(probes?).ok()? };
        Some(Some(keep_alive).filter(|keep_alive| !keep_alive.idle.is_zero()))
    }

    /// The account of the plain settings. It is optional if the file has `[[identities]]`.
    fn account(&mut self) -> Option<Account> {
        let domain = self.optional("domain", |text| Ok(text.to_owned()))?;
        match self.settings.given("user").is_none() && !self.settings.entries("identities").is_empty() {
            true => None,
            false => self.required("user", |text| Ok(Account::parse(text, domain.as_deref())?)),
        }
    }

    /// The listening addresses of a setting; `account` is the account that their clients use.
    pub(super) fn listeners(&mut self, name: &'static str, account: &str) -> Option<Vec<SocketAddr>> {
        let is_open = self.is_open;
        let list = self.list(name, SOME_LISTENER, |text| client_listener(text, is_open, account));
        self.addresses.extend(list.entries.iter().map(|entry| (name, entry.clone())));
        list.values()
    }

    /// The one listening address of a setting.
    pub(super) fn listener_address(&mut self, name: &'static str, account: &str) -> Option<SocketAddr> {
        let is_open = self.is_open;
        let value = self.required(name, |text| client_listener(text, is_open, account))?;
        let source = self.settings.given(name).map_or(Source::Default, |setting| setting.source.clone());
        self.addresses.push((name, Placed { value, source }));
        Some(value)
    }

    fn admin(&mut self) -> Option<SocketAddr> {
        let value = self.required("admin", |text| listener(text, limits::ADMIN_ADDRESS))?;
        let source = self.settings.given("admin").map_or(Source::Default, |setting| setting.source.clone());
        self.addresses.push(("admin", Placed { value, source }));
        Some(value)
    }

    /// Warns about networks that are too large, and about listeners that no client may use.
    fn warn_about_clients(&mut self, allowed: &List<IpNet>) {
        for Placed { value, source } in allowed.entries.iter().filter(|entry| warning::is_too_large(&entry.value)) {
            self.warn(source.clone(), "allow_clients", Advice::TooLarge(*value));
        }
        let networks: Vec<IpNet> = allowed.entries.iter().map(|entry| entry.value).collect();
        let shut_out = |(name, entry): &&(&'static str, Placed<SocketAddr>)| {
            *name != "admin" && allowed.is_whole && warning::shuts_out_loopback(entry.value, &networks)
        };
        let found: Vec<_> = self.addresses.iter().filter(shut_out).cloned().collect();
        for (name, Placed { value, source }) in found {
            self.warn(source, name, Advice::LoopbackShutOut(value));
        }
    }

    /// Adds an error for each address that conflicts with an earlier one: only one of them could be bound.
    fn reject_duplicate_addresses(&mut self) {
        let addresses = std::mem::take(&mut self.addresses);
        for (index, (name, placed)) in addresses.iter().enumerate() {
            let address = placed.value;
            let mut before = addresses.iter().take(index);
            let Some((key, first)) = before.find(|(_, first)| collide(first.value, address)) else { continue };
            let problem = match first.value == address {
                true => Problem::SameAddress { address, other: format!("{key} ({})", first.source) },
                false => {
                    Problem::Overlapping { address, other: format!("{} of {key} ({})", first.value, first.source) }
                }
            };
            self.note(ConfigError { source: placed.source.clone(), key: (*name).into(), problem });
        }
    }

    /// The files of secrets, of Kerberos and of TLS.
    fn files(&self) -> Vec<PathBuf> {
        let common = ["keytab"];
        let plain = FILES.into_iter().chain(common).chain(["kerberos.krb5_conf"]).map(str::to_owned);
        let plain = plain.chain(tls::FILES.map(|name| format!("{}{name}", tls::PLAIN)));
        let plain = plain.map(|name| (self.settings, name));
        let names = FILES.into_iter().chain(common).chain(["proxy_password_file"]);
        let entries = self.settings.entries("identities").iter();
        let in_entries =
            entries.flat_map(|entry| names.clone().map(|name| (&entry.settings, format!("identities.{name}"))));
        let upstreams = self.settings.entries("upstreams").iter();
        let of_upstreams =
            upstreams.flat_map(|entry| tls::FILES.map(|name| (&entry.settings, format!("{}{name}", tls::OF_UPSTREAM))));
        let named = plain.chain(in_entries).chain(of_upstreams).filter_map(|(settings, name)| settings.given(&name));
        named.map(Setting::path).collect()
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

    /// The value given, or the default; an error if there is neither.
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

    /// The entries of a list, given or by default. Errors have the place of their entry. If `when_empty` is given, an
    /// empty list is an error with that text.
    pub(super) fn list<T>(
        &mut self,
        name: &str,
        when_empty: Option<&'static str>,
        parse: impl Fn(&str) -> Result<T, Problem>,
    ) -> List<T> {
        let noted = self.errors.len();
        let mut entries = Vec::new();
        if let Some(setting) = self.settings.effective(name) {
            let parts = setting.parts();
            if let Some(help) = when_empty.filter(|_| parts.is_empty() && !self.settings.is_broken(name)) {
                self.note(ConfigError { source: setting.source, key: name.into(), problem: Problem::EmptyList(help) });
            }
            for Part { text, source } in parts {
                match checked(name, &text, &parse) {
                    Ok(value) => entries.push(Placed { value, source }),
                    Err(problem) => self.note(ConfigError { source, key: name.into(), problem }),
                }
            }
        } else {
            self.missing(name);
        }
        List { entries, is_whole: self.errors.len() == noted && !self.settings.is_broken(name) }
    }

    pub(super) fn parse<T>(
        &mut self,
        name: &str,
        setting: Setting,
        parse: impl FnOnce(&str) -> Result<T, Problem>,
    ) -> Option<T> {
        let noted = |problem| self.note(ConfigError { source: setting.source, key: name.into(), problem });
        checked(name, setting.text.trim(), parse).map_err(noted).ok()
    }

    fn missing(&mut self, name: &str) {
        let key = keys::find(name).filter(|_| !self.settings.is_broken(name));
        if let Some((key, Fallback::Required(purpose))) = key.map(|key| (key, key.default)) {
            let problem = Problem::Missing { purpose, ways: key.ways() };
            let source = self.entry.cloned().unwrap_or(Source::Default);
            self.note(ConfigError { source, key: name.into(), problem });
        }
    }

    pub(super) fn note(&mut self, error: ConfigError) {
        self.errors.push(error);
    }

    pub(super) fn warn(&mut self, source: Source, key: &str, advice: Advice) {
        self.warnings.push(Warning { source, key: key.into(), advice });
    }
}

/// Parses a text. A text that looks like a URL with a password is rejected before an error could repeat it, unless the
/// setting may have that form; the errors of those settings do not repeat the text.
fn checked<T>(name: &str, text: &str, parse: impl FnOnce(&str) -> Result<T, Problem>) -> Result<T, Problem> {
    let setting = name.rsplit('.').next().unwrap_or(name);
    let may_be = matches!(setting, "user" | "proxy_user") || setting.ends_with("_file");
    match !may_be && redact::has_credentials(text) {
        true => Err(Problem::Credentials),
        false => parse(text),
    }
}

/// Whether only one of two addresses can be bound. Port 0 is a different port each time. A listener on all IPv6
/// addresses does not affect IPv4.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let covers_all = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0
        && one.port() == other.port()
        && (one.ip() == other.ip() || covers_all && one.is_ipv4() == other.is_ipv4())
}

/// A size; 0 for no limit.
fn memory_limit(text: &str) -> Result<usize, Problem> {
    match parse_size(text, 0..=usize::MAX / 2)? {
        0 => Ok(0),
        _ => Ok(parse_size(text, limits::MEMORY_MIN_BYTES..=usize::MAX / 2)?),
    }
}

fn choose<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, Problem> {
    let found = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    found.ok_or_else(|| {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        Problem::Choice { text: text.into(), choices: words.join(", ") }
    })
}

/// A listener for clients, which are restricted unless `is_open`.
fn client_listener(text: &str, is_open: bool, account: &str) -> Result<SocketAddr, Problem> {
    let address = listener(text, "127.0.0.1:3128")?;
    match is_open && !is_loopback(address.ip()) {
        true => Err(Problem::OpenListener { address, account: account.to_owned() }),
        false => Ok(address),
    }
}

fn listener(text: &str, example: &'static str) -> Result<SocketAddr, Problem> {
    text.parse().map_err(|_| Problem::Address { text: text.into(), example })
}

/// A network; an address alone is a network of one address.
pub(super) fn network(text: &str) -> Result<IpNet, Problem> {
    let alone = || text.parse::<IpAddr>().map(IpNet::from);
    let network = text.parse::<IpNet>().or_else(|_| alone()).map_err(|_| Problem::Network(text.into()))?;
    Ok(network.trunc())
}

pub(super) fn workstation(text: &str) -> Result<String, Problem> {
    let fits = (1..=WORKSTATION_LIMIT).contains(&text.chars().count());
    match fits && !text.chars().any(char::is_control) {
        true => Ok(text.to_owned()),
        false => Err(Problem::Workstation { limit: WORKSTATION_LIMIT }),
    }
}

/// A pseudonym for Via (RFC 9110 §7.6.3): a token, so that it cannot be read as two.
fn via_name(text: &str) -> Result<String, Problem> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    match (1..=VIA_NAME_LIMIT).contains(&text.len()) && text.bytes().all(is_token) {
        true => Ok(text.to_owned()),
        false => Err(Problem::ViaName { text: text.into(), limit: VIA_NAME_LIMIT }),
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}
