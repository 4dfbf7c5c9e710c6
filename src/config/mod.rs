//! The configuration: text from flags, environment and file becomes a valid [`Config`].
//!
//! ```text
//!   flags ───────┐
//!   environment ─┼─▶ Settings (texts with their sources) ─▶ Config, or all errors with their places
//!   file ────────┤
//!   defaults ────┘
//! ```
//!
//! | file | subject |
//! |---|---|
//! | `keys` | the table of all settings: names, flags, help, defaults |
//! | `table_keys` | the same for the entries of the file's tables |
//! | `settings` | texts with their sources, and their precedence |
//! | `file` | reading the TOML file |
//! | `environment` | unknown variables that look like settings |
//! | `values` | parsing durations, sizes and numbers |
//! | `secrets` | reading passwords and hashes |
//! | `parse` | from settings to values |
//! | `egress` | identities, upstreams and routes |
//! | `mechanisms` | the lists of mechanisms, and what is left of two |
//! | `kerberos` | names, keys and KDCs for Kerberos |
//! | `tls` | CAs, certificates and keys for TLS to upstreams |
//! | `listeners` | what is served at which address |
//! | `host_name` | the default workstation |
//! | `loops` | upstreams that are the gateway itself |
//! | `machine` | the available memory |
//! | `digest` | a number that differs between configurations |
//! | `error` | errors |
//! | `warning` | warnings: settings that are valid but probably a mistake |
//! | `exposure` | who else can read a secret's file |
//! | `redact` | keeping passwords out of texts |

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use log::LevelFilter;

use crate::client_protocol::Service;
use crate::kerberos::PrincipalName;
use crate::ntlm::{Identity, NtHash};
use crate::route::Rules;
use crate::tls::TlsSettings;
use crate::transport::Transport;
use crate::upstream::{HostPort, WarmSize};

mod digest;
mod egress;
pub mod environment;
mod error;
mod exposure;
mod file;
mod guard;
mod host_name;
mod kerberos;
pub mod keys;
mod listeners;
mod loops;
mod machine;
mod mechanisms;
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
mod tls;
#[cfg(test)]
mod tls_tests;
pub mod values;
mod warning;
#[cfg(test)]
mod warning_tests;

pub use error::{ConfigError, ConfigErrors, Problem};
pub use guard::{GuardConfig, GuardStore};
pub use kerberos::{KerberosConfig, KerberosIdentity, KerberosProblem, Spn};
pub use mechanisms::Mechanisms;
pub use secrets::{Password, SecretStore};
pub use settings::{Entry, Part, Setting, Settings, Source};
pub use tls::TlsProblem;
pub use warning::{Advice, Warning};

pub use crate::auth::FirstLeg;
pub use crate::egress::UpstreamOrder;
pub use crate::timeouts::Timeouts;

/// The largest number of event loops.
pub const MAX_SHARDS: usize = 1024;

/// The configuration of a gateway. All values have been validated; none is text that has to be parsed later.
#[derive(Clone, Debug)]
pub struct Config {
    /// The addresses for clients: at least one, without duplicates.
    pub listen: Vec<SocketAddr>,
    /// What is served at each of the addresses of `listen`.
    pub services: Vec<Service>,
    /// From which networks each of the addresses of `listen` takes PROXY headers, which name the client.
    pub trusted_proxies: Vec<Vec<IpNet>>,
    /// The addresses of `listen` that do not belong to an identity.
    pub common_listen: Vec<SocketAddr>,
    /// Where metrics and health are served.
    pub admin: SocketAddr,
    /// Whether the open tunnels are listed there.
    pub admin_tunnels: bool,
    /// The accounts to authenticate with, at least one. The first is the default for clients.
    pub identities: Vec<IdentityConfig>,
    /// What identities with Kerberos have in common; `None` if there are none.
    pub kerberos: Option<KerberosConfig>,
    /// The corporate proxies, at least one, in the order in which they are tried.
    pub upstreams: Vec<UpstreamConfig>,
    /// The names of the upstream groups. The first group takes requests that no route matches.
    pub groups: Vec<String>,
    /// How the upstream of a group is chosen.
    pub order: UpstreamOrder,
    /// How an ejected upstream is checked.
    pub check: Check,
    /// The routes.
    pub rules: Rules,
    /// Networks whose clients are served. If empty, every client is served, and all listeners are on loopback.
    pub allow_clients: Vec<IpNet>,
    /// Event loops, from 1 to [`MAX_SHARDS`].
    pub shards: usize,
    /// Tunnels open at once in the whole process, at least 1.
    pub max_tunnels: usize,
    /// Tunnels open at once for one client address; 0 for no limit.
    pub tunnels_per_client: usize,
    /// New tunnels per second for one client address; 0 for no limit.
    pub new_tunnels_per_client: usize,
    /// See [`GuardConfig`].
    pub guard: GuardConfig,
    /// Pipes that a shard lends at once; 0 disables splicing.
    pub pipes_per_shard: usize,
    /// Size of each socket's send and receive buffers; 0 for the system's default.
    pub socket_buffer_bytes: usize,
    /// The most memory for requests and responses in transit; 0 for no limit.
    pub memory_limit_bytes: usize,
    /// See [`Timeouts`].
    pub timeouts: Timeouts,
    /// The longest head, from 1 KiB to 1 MiB.
    pub head_limit_bytes: usize,
    /// The most field lines of a head.
    pub field_limit: usize,
    /// Whether the gateway adds a Via field to requests and responses.
    pub via: bool,
    /// The gateway's name in the Via field, a token. By default, each process has a unique name.
    pub via_name: Option<String>,
    /// TCP keep-alive; `None` if it is disabled.
    pub keep_alive: Option<KeepAlive>,
    /// The format of log lines.
    pub log_format: LogFormat,
    /// The least severe level to log; `RUST_LOG` takes precedence.
    pub log_level: LevelFilter,
    /// Probable mistakes, in the order of the file's lines.
    pub warnings: Vec<Warning>,
    /// The files this was read from; a change in one of them triggers a reload.
    pub files: Vec<PathBuf>,
    /// A 48-bit hash of the settings' texts, without secrets: the same in all processes with the same configuration.
    pub digest: u64,
}

impl Config {
    /// The first upstream, used where only one can be.
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

    /// Whether some client uses an identity, by its index, at an upstream.
    #[must_use]
    pub fn is_used_at(&self, identity: usize, upstream: &UpstreamConfig) -> bool {
        mechanisms::is_used_at(&self.identities, identity, upstream)
    }

    /// Removes all upstreams but the named one, and makes the identity that clients use there by default the first.
    /// `false` if there is no upstream of this name.
    pub fn keep_upstream(&mut self, name: &str) -> bool {
        let Some(place) = self.upstreams.iter().position(|upstream| upstream.name == name) else { return false };
        let upstream = self.upstreams.swap_remove(place);
        let default = || self.identities.iter().position(IdentityConfig::has_no_own_clients);
        if let Some(identity) = upstream.identity.or_else(default) {
            self.identities.swap(0, identity);
        }
        self.upstreams = vec![upstream];
        true
    }
}

/// An account to authenticate with, and the clients that use it.
#[derive(Clone, Debug)]
pub struct IdentityConfig {
    /// The unique name in logs and metrics.
    pub name: String,
    /// The account with its secret.
    ///
    /// Where NTLM is not among [`IdentityConfig::mechanisms`] and there is no password, its hash is that of an empty
    /// one, which is never used.
    pub identity: Identity,
    /// The mechanisms that it may use, besides Basic, where the upstream allows them: see
    /// [`UpstreamConfig::mechanisms_of`].
    pub mechanisms: Mechanisms,
    /// The account as a client of Kerberos, if it may use it.
    pub kerberos: Option<KerberosIdentity>,
    /// The password itself, if Basic is allowed for proxies that offer nothing better.
    pub basic_password: Option<Password>,
    /// The secret before it, if there is one that differs.
    pub previous: Option<PreviousSecret>,
    /// The identity of the plain settings. Clients without an identity of their own still use it when a listener names
    /// it.
    pub is_default: bool,
    /// Clients of these addresses use this identity. They are part of [`Config::listen`].
    pub listen: Vec<SocketAddr>,
    /// Clients from these networks use this identity.
    pub clients: Vec<IpNet>,
    /// Clients with this login use this identity.
    pub login: Option<ProxyLogin>,
}

/// The secret that an identity had before the present one.
#[derive(Clone, Debug)]
pub struct PreviousSecret {
    /// The same account with this secret.
    pub identity: Identity,
    /// As [`IdentityConfig::basic_password`].
    pub basic_password: Option<Password>,
}

/// What an identity authenticates with.
#[derive(Clone, Copy, Debug)]
pub struct Logon<'a> {
    /// The account with its secret.
    pub identity: &'a Identity,
    /// As [`IdentityConfig::basic_password`].
    pub basic: Option<&'a Password>,
}

impl IdentityConfig {
    /// The present secret.
    #[must_use]
    pub fn present(&self) -> Logon<'_> {
        Logon { identity: &self.identity, basic: self.basic_password.as_ref() }
    }

    /// The previous secret, if there is one.
    #[must_use]
    pub fn previous(&self) -> Option<Logon<'_>> {
        let PreviousSecret { identity, basic_password } = self.previous.as_ref()?;
        Some(Logon { identity, basic: basic_password.as_ref() })
    }

    fn has_no_own_clients(&self) -> bool {
        self.clients.is_empty() && (self.is_default || self.listen.is_empty()) && self.login.is_none()
    }
}

/// The name and password with which a client authenticates to the gateway (Basic, RFC 7617).
#[derive(Clone)]
pub struct ProxyLogin {
    /// The name, without a colon.
    pub user: String,
    /// The hash of its password, which is only compared and never sent.
    pub password: NtHash,
}

impl std::fmt::Debug for ProxyLogin {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("ProxyLogin").field("user", &self.user).finish_non_exhaustive()
    }
}

/// A corporate proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// The unique name in logs and metrics.
    pub name: String,
    /// Its addresses, at least one, in the order in which they are tried.
    pub addresses: Vec<HostPort>,
    /// The index of its group in [`Config::groups`].
    pub group: usize,
    /// Its share of the tunnels with [`UpstreamOrder::Balance`], from 1 to 1000.
    pub weight: u32,
    /// The index in [`Config::identities`] of the identity for clients that have none of their own.
    pub identity: Option<usize>,
    /// What the first request on a connection carries.
    pub first_leg: FirstLeg,
    /// The mechanisms that identities may use here; `None` for all that they have.
    pub auth: Option<Mechanisms>,
    /// The name of its service in Kerberos, if that is not `HTTP/<its first host>`.
    pub spn: Option<Spn>,
    /// How it is reached with TLS, if it is.
    pub tls: Option<Arc<TlsSettings>>,
    /// How many connections a shard may keep pre-challenged.
    pub warm: WarmSize,
    /// The most authenticated connections that a shard keeps for further requests; 0 for none.
    pub keep: usize,
}

impl UpstreamConfig {
    /// The name of its service in Kerberos.
    #[must_use]
    pub fn service(&self) -> Spn {
        self.spn.clone().unwrap_or_else(|| {
            let host = self.addresses.first().map(HostPort::host).unwrap_or_default();
            Spn { name: PrincipalName::of_service("HTTP", host), realm: None, is_of_host: true }
        })
    }

    /// The mechanisms that an identity may use here: those that both list.
    #[must_use]
    pub fn mechanisms_of(&self, identity: &IdentityConfig) -> Mechanisms {
        identity.mechanisms.restricted_to(self.auth)
    }

    /// What carries the bytes to it.
    #[must_use]
    pub fn transport(&self) -> Transport {
        self.tls.clone().map_or(Transport::Tcp, Transport::Tls)
    }
}

/// How an ejected upstream is checked before it gets clients again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// With a TCP connection.
    Tcp,
    /// With a handshake for a CONNECT, if the credential guard allows it.
    Handshake {
        /// `host:port`.
        target: String,
    },
}

/// TCP keep-alive, to notice peers that have vanished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Idle time before the first probe, in whole seconds.
    pub idle: Duration,
    /// Time between two probes, in whole seconds.
    pub probe: Duration,
    /// Unanswered probes after which the connection is closed, from 1 to 127.
    pub probes: u32,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people: time, level, message, fields.
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// Everything that a configuration is read from, kept for reloads.
#[derive(Debug)]
pub struct Inputs {
    /// Flags and, below them, the environment. They are fixed for the life of the process.
    pub overrides: Settings,
    /// The file, read again at each load.
    pub file: Option<PathBuf>,
    /// Secrets that can be read only once.
    pub secrets: SecretStore,
}

impl Inputs {
    /// Takes the flags, and reads the environment with `lookup`.
    ///
    /// # Errors
    /// Variables that cannot be read as text. Their values are parsed by [`load`].
    pub fn new(flags: Settings, lookup: impl Fn(&str) -> Option<OsString>) -> Result<Inputs, ConfigErrors> {
        let (inputs, errors) = Inputs::gather(flags, lookup);
        match ConfigErrors::of(errors, Vec::new()) {
            Some(errors) => Err(errors),
            None => Ok(inputs),
        }
    }

    /// [`Inputs::new`], but returns everything that could be read as well as the errors, so that [`load_beside`] can
    /// find the remaining errors too.
    pub fn gather(flags: Settings, lookup: impl Fn(&str) -> Option<OsString>) -> (Inputs, Vec<ConfigError>) {
        let (environment, mut errors) = Settings::from_environment(&lookup);
        let (secrets, error) = SecretStore::from_environment(&lookup);
        errors.extend(error);
        let overrides = flags.over(environment);
        let file = overrides.given("config").map(|setting| PathBuf::from(&setting.text));
        (Inputs { overrides, file, secrets }, errors)
    }
}

/// Reads the file, if there is one, and builds the configuration; at the start and at each reload.
///
/// # Errors
/// All errors, not only the first.
pub fn load(inputs: &Inputs) -> Result<Config, ConfigErrors> {
    load_with_settings(inputs).map(|(config, _)| config)
}

/// [`load`], with the settings that the configuration was made from.
///
/// # Errors
/// As for [`load`].
pub fn load_with_settings(inputs: &Inputs) -> Result<(Config, Settings), ConfigErrors> {
    load_beside(inputs, Vec::new(), Vec::new())
}

/// [`load_with_settings`], in addition to errors and warnings that are already known.
///
/// # Errors
/// As for [`load`]; also if `errors` is not empty.
pub fn load_beside(
    inputs: &Inputs,
    mut errors: Vec<ConfigError>,
    mut warnings: Vec<Warning>,
) -> Result<(Config, Settings), ConfigErrors> {
    let settings = match &inputs.file {
        Some(path) => {
            let named_by = inputs.overrides.given("config").map_or(Source::Default, |setting| setting.source.clone());
            let (in_file, more) = file::read(path, named_by);
            errors.extend(more);
            inputs.overrides.clone().over(in_file)
        }
        None => inputs.overrides.clone(),
    };
    let (config, more, further) = parse::read(&settings, &inputs.secrets);
    errors.extend(more);
    warnings.extend(further);
    warnings.sort_by(|one, other| one.source.order().cmp(&other.source.order()));
    match (config, ConfigErrors::of(errors, warnings.clone())) {
        (_, Some(errors)) => Err(errors),
        (Some(mut config), None) => {
            config.warnings = warnings;
            config.files.extend(inputs.file.clone());
            config.digest = digest::of(&settings);
            Ok((config, settings))
        }
        (None, None) => unreachable!("no configuration, but also no error"),
    }
}
