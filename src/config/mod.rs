//! The configuration: text from flags, environment and file becomes a [`Config`] that is valid throughout.
//!
//! ```text
//!   flags ───────┐
//!   environment ─┼─▶ Settings (text, each with its origin) ─▶ Config, or every error with its place
//!   file ────────┤
//!   defaults ────┘
//! ```
//!
//! | file | subject |
//! |---|---|
//! | `keys` | the table of all settings, from which everything else is made |
//! | `settings` | texts with their origin, and which of them wins |
//! | `file` | the TOML file |
//! | `environment` | variables that look like settings and are none |
//! | `values` | durations, sizes, numbers |
//! | `secrets` | where the password comes from |
//! | `table_keys` | the same table for the entries of the file's tables |
//! | `reading` | settings to values |
//! | `parties` | identities, upstreams and routes |
//! | `host_name` | the default workstation |
//! | `loops` | upstreams that are the gateway itself |
//! | `machine` | the memory that there is |
//! | `digest` | a number that tells two configurations apart |
//! | `error` | what can be wrong |
//! | `warning` | what is valid and most likely a mistake |
//! | `exposure` | who else can read a secret's file |
//! | `redact` | what of a text may be shown |

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use log::LevelFilter;

use crate::ntlm::{Identity, NtHash};
use crate::route::Rules;
use crate::upstream::HostPort;

mod digest;
mod egress;
pub mod environment;
mod error;
mod exposure;
mod file;
mod host_name;
pub mod keys;
mod loops;
mod machine;
mod parse;
#[cfg(test)]
mod place_tests;
pub mod redact;
pub mod secrets;
mod settings;
pub mod table_keys;
#[cfg(test)]
mod table_tests;
#[cfg(test)]
mod tests;
pub mod values;
mod warning;
#[cfg(test)]
mod warning_tests;

pub use error::{ConfigError, ConfigErrors, Problem};
pub use secrets::SecretStore;
pub use settings::{Entry, Origin, Part, Setting, Settings};
pub use warning::{Advice, Warning};

pub use crate::auth::FirstLeg;
pub use crate::timeouts::Timeouts;

/// The most event loops that can be asked for.
pub const MAX_SHARDS: usize = 1024;

/// What the gateway runs by. Every value has been checked; nothing in it is text to be parsed later.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where workloads are accepted; at least one, none twice.
    pub listen: Vec<SocketAddr>,
    /// Those of `listen` that are not an identity's own.
    pub common_listen: Vec<SocketAddr>,
    /// Where metrics and health are served.
    pub admin: SocketAddr,
    /// Whether the open tunnels are shown there.
    pub admin_tunnels: bool,
    /// The accounts to prove, with their secrets; at least one. The first is that of clients for whom nothing else is said.
    pub identities: Vec<IdentityConfig>,
    /// The parent proxies, at least one, in the order in which they are tried.
    pub upstreams: Vec<UpstreamConfig>,
    /// The names of the upstreams' groups; the first takes what no route names.
    pub groups: Vec<String>,
    /// Which upstream of a group a request goes to.
    pub order: Order,
    /// How an upstream that failed is brought back.
    pub check: Check,
    /// Where requests go.
    pub rules: Rules,
    /// Networks whose clients are served. Empty: whoever reaches the port; all listeners are then on loopback.
    pub allow_clients: Vec<IpNet>,
    /// Event loops, from 1 to [`MAX_SHARDS`].
    pub shards: usize,
    /// Tunnels open at once in the whole process, at least 1.
    pub max_tunnels: usize,
    /// Tunnels open at once of one client's address; 0 for no such limit.
    pub tunnels_per_client: usize,
    /// New tunnels of one client's address a second; 0 for no such limit.
    pub new_tunnels_per_client: usize,
    /// Failed logons that an account may have in 30 minutes, from 2 to 10.
    pub guard_attempts: usize,
    /// Pipes a shard lends out at once; 0 for no splicing.
    pub pipes_per_shard: usize,
    /// Bytes that a socket may hold back each way; 0 leaves it to the system.
    pub socket_buffer_bytes: usize,
    /// What requests and answers on their way may hold in all, in bytes; 0 for no such limit.
    pub memory_limit_bytes: usize,
    /// See [`Timeouts`].
    pub timeouts: Timeouts,
    /// The longest head, in bytes, from 1 KiB to 1 MiB.
    pub head_limit_bytes: usize,
    /// The most field lines of a head.
    pub field_limit: usize,
    /// Whether requests and answers say in their Via field that they came this way.
    pub via: bool,
    /// The gateway's name there; a token. Each process has one of its own where it is not given.
    pub via_name: Option<String>,
    /// How connections on which nothing moves are probed; `None` for not at all.
    pub keep_alive: Option<KeepAlive>,
    /// The form of log lines.
    pub log_format: LogFormat,
    /// The least grave log lines to write; `RUST_LOG` wins over it.
    pub log_level: LevelFilter,
    /// What is likely to be a mistake, in the order of the file's lines.
    pub warnings: Vec<Warning>,
    /// The files this was read from: a change in one of them calls for a reload.
    pub files: Vec<PathBuf>,
    /// A number of 48 bits made of the settings' texts, the secret not among them: the same in all processes that were
    /// configured alike.
    pub digest: u64,
}

impl Config {
    /// The first upstream: the one that is meant where there is no choice.
    #[must_use]
    pub fn first_upstream(&self) -> &UpstreamConfig {
        &self.upstreams[0]
    }

    /// The first address of the first upstream.
    #[must_use]
    pub fn first_address(&self) -> &HostPort {
        &self.first_upstream().addresses[0]
    }

    /// The account of the first identity.
    #[must_use]
    pub fn first_identity(&self) -> &Identity {
        &self.identities[0].identity
    }

    /// Keeps one upstream alone, by its name, with the identity of clients that have none of their own there. `false` when there is
    /// none of this name.
    pub fn keep_upstream(&mut self, name: &str) -> bool {
        let Some(place) = self.upstreams.iter().position(|upstream| upstream.name == name) else { return false };
        let upstream = self.upstreams.swap_remove(place);
        let for_all = || self.identities.iter().position(IdentityConfig::is_for_everybody);
        if let Some(identity) = upstream.identity.or_else(for_all) {
            self.identities.swap(0, identity);
        }
        self.upstreams = vec![upstream];
        true
    }
}

/// An account to prove, and the clients that it is for.
#[derive(Clone, Debug)]
pub struct IdentityConfig {
    /// Unique; what logs and metrics call it.
    pub name: String,
    /// The account with its secret.
    pub identity: Identity,
    /// The password itself, where it may be sent to a proxy that offers nothing better.
    pub basic_password: Option<secrets::Password>,
    /// Clients that come in here go by this identity; these are among [`Config::listen`].
    pub listen: Vec<SocketAddr>,
    /// Clients from these networks go by this identity.
    pub clients: Vec<IpNet>,
    /// Clients that log on like this go by this identity.
    pub login: Option<ProxyLogin>,
}

impl IdentityConfig {
    fn is_for_everybody(&self) -> bool {
        self.clients.is_empty() && self.listen.is_empty() && self.login.is_none()
    }
}

/// A name and a password that a client shows to the gateway (Basic, RFC 7617).
#[derive(Clone)]
pub struct ProxyLogin {
    /// The name; has no colon.
    pub user: String,
    /// Its password, as a hash: it is compared and never sent.
    pub password: NtHash,
}

impl std::fmt::Debug for ProxyLogin {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("ProxyLogin").field("user", &self.user).finish_non_exhaustive()
    }
}

/// A parent proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// Unique; what logs and metrics call it.
    pub name: String,
    /// Its addresses, at least one, in the order in which they are tried.
    pub addresses: Vec<HostPort>,
    /// Its group's place in [`Config::groups`].
    pub group: usize,
    /// Its share of the tunnels when they are balanced, from 1 to 1000.
    pub weight: u32,
    /// The identity of clients that have none of their own, by its place in [`Config::identities`].
    pub identity: Option<usize>,
    /// What the first request on a connection carries.
    pub first_leg: FirstLeg,
    /// Connections that a shard challenges ahead at most; 0 for none.
    pub warm: usize,
    /// Authenticated connections that a shard keeps for further requests at most; 0 for none.
    pub keep: usize,
}

/// Which upstream of a group a request goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The first that is up.
    Failover,
    /// The one with the fewest tunnels for its weight.
    Balance,
}

/// How an upstream that failed is tried before it gets clients again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// By a TCP connection.
    Tcp,
    /// By a handshake for a CONNECT, as far as the credential guard allows it.
    Handshake {
        /// `host:port`.
        target: String,
    },
}

/// TCP keep-alive: how a peer that is gone without a word is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Rest before the first probe, in whole seconds.
    pub idle: Duration,
    /// Between two probes, in whole seconds.
    pub probe: Duration,
    /// Probes without an answer after which the connection is given up, from 1 to 127.
    pub probes: u32,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people: time, level, message, fields.
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// All that a configuration is read from, kept so that it can be read again.
#[derive(Debug)]
pub struct Sources {
    /// Flags, and below them the environment. They hold for the life of the process.
    pub overrides: Settings,
    /// The file, read afresh at each load.
    pub file: Option<PathBuf>,
    /// Secrets that can be read only once.
    pub secrets: SecretStore,
}

impl Sources {
    /// Takes the flags, and the environment by `lookup` of a variable's name.
    ///
    /// # Errors
    /// What is wrong with the environment's texts as such. What they mean is [`load`]'s to judge.
    pub fn new(flags: Settings, lookup: impl Fn(&str) -> Option<OsString>) -> Result<Sources, ConfigErrors> {
        let (sources, errors) = Sources::gather(flags, lookup);
        match ConfigErrors::of(errors, Vec::new()) {
            Some(errors) => Err(errors),
            None => Ok(sources),
        }
    }

    /// [`Sources::new`], with what could be read beside the errors, so that [`load_beside`] can add all that is wrong with that.
    pub fn gather(flags: Settings, lookup: impl Fn(&str) -> Option<OsString>) -> (Sources, Vec<ConfigError>) {
        let (environment, mut errors) = Settings::from_environment(&lookup);
        let (secrets, error) = SecretStore::from_environment(&lookup);
        errors.extend(error);
        let overrides = flags.over(environment);
        let file = overrides.given("config").map(|setting| PathBuf::from(&setting.text));
        (Sources { overrides, file, secrets }, errors)
    }
}

/// Reads the file, where there is one, and makes a configuration of everything; for the start and for each reload.
///
/// # Errors
/// All that is wrong, not only the first of it.
pub fn load(sources: &Sources) -> Result<Config, ConfigErrors> {
    load_with_settings(sources).map(|(config, _)| config)
}

/// [`load`], and the texts that the configuration was made of.
///
/// # Errors
/// As of [`load`].
pub fn load_with_settings(sources: &Sources) -> Result<(Config, Settings), ConfigErrors> {
    load_beside(sources, Vec::new(), Vec::new())
}

/// [`load_with_settings`], together with what is known already to be wrong, or likely to be.
///
/// # Errors
/// As of [`load`]; also where there are `errors`.
pub fn load_beside(
    sources: &Sources,
    mut errors: Vec<ConfigError>,
    mut warnings: Vec<Warning>,
) -> Result<(Config, Settings), ConfigErrors> {
    let settings = match &sources.file {
        Some(path) => {
            let named_by = sources.overrides.given("config").map_or(Origin::Default, |setting| setting.origin.clone());
            let (in_file, more) = file::read(path, named_by);
            errors.extend(more);
            sources.overrides.clone().over(in_file)
        }
        None => sources.overrides.clone(),
    };
    let (config, more, further) = parse::read(&settings, &sources.secrets);
    errors.extend(more);
    warnings.extend(further);
    warnings.sort_by(|one, other| one.origin.order().cmp(&other.origin.order()));
    match (config, ConfigErrors::of(errors, warnings.clone())) {
        (_, Some(errors)) => Err(errors),
        (Some(mut config), None) => {
            config.warnings = warnings;
            config.files.extend(sources.file.clone());
            config.digest = digest::of(&settings);
            Ok((config, settings))
        }
        (None, None) => unreachable!("a configuration was refused without an error"),
    }
}
