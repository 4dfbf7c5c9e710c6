//! The table of all settings: their names in the file, flags, variables, help texts and defaults.
//!
//! The flags, the environment, the file and the documentation are all derived from this table, so that they cannot
//! diverge.

use std::fmt;

use super::host_name;
use super::table_keys::TABLE_KEYS;
use super::values::{format_duration, format_size};
use crate::limits;

/// The prefix of all variables.
pub const ENV_PREFIX: &str = "NTLM_GATEWAY_";

/// One setting.
#[derive(Debug)]
pub struct Key {
    /// Its name in the file; `section.name` if it is in a section.
    pub name: &'static str,
    /// Its flag without the dashes. The variable's name is derived from it.
    pub flag: &'static str,
    /// Where it may be set.
    pub places: Places,
    /// The type of its value in the file.
    pub kind: Kind,
    /// The placeholder for the value in the help.
    pub value_name: &'static str,
    /// The heading of the help under which it is listed.
    pub heading: &'static str,
    /// What it does.
    pub help: &'static str,
    /// The value if it is not set.
    pub default: Fallback,
}

/// Where a setting may be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Places {
    /// As a flag, in the environment and in the file.
    Everywhere,
    /// Not in the file, because it names the file.
    FlagAndEnv,
    /// Only in the environment: everyone who lists the processes can see a flag.
    EnvOnly,
    /// In an entry of one of the file's tables.
    Table,
}

/// The type of a setting's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// Strings, or one string with commas.
    List,
    /// A whole number.
    Integer,
    /// A number with a unit of time.
    Duration,
    /// A number of bytes, with or without a unit.
    Size,
    /// `true` or `false`; its flag alone means `true`.
    Switch,
}

/// What applies if a setting is not set.
#[derive(Clone, Copy)]
pub enum Fallback {
    /// The setting is required; the text says what to do.
    Required(&'static str),
    /// No value.
    Nothing,
    /// A default, as the text to be parsed.
    Value(fn() -> String),
    /// A default that depends on the machine, and its description in the help.
    Machine(&'static str, fn() -> String),
}

impl fmt::Debug for Fallback {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.shown().unwrap_or_default())
    }
}

impl Fallback {
    /// The value, if there is one.
    #[must_use]
    pub fn value(&self) -> Option<String> {
        match self {
            Fallback::Value(value) | Fallback::Machine(_, value) => Some(value()),
            Fallback::Required(_) | Fallback::Nothing => None,
        }
    }

    /// The value as shown in the help.
    #[must_use]
    pub fn shown(&self) -> Option<String> {
        match self {
            Fallback::Value(value) => Some(value()),
            Fallback::Machine(shown, _) => Some((*shown).to_owned()),
            Fallback::Required(_) | Fallback::Nothing => None,
        }
    }
}

impl Key {
    /// The name of its variable.
    #[must_use]
    pub fn env(&self) -> String {
        format!("{ENV_PREFIX}{}", self.flag.replace('-', "_").to_ascii_uppercase())
    }

    /// Whether it may be set in the file.
    #[must_use]
    pub fn in_file(&self) -> bool {
        matches!(self.places, Places::Everywhere | Places::Table)
    }

    /// Whether there is a flag for it.
    #[must_use]
    pub fn has_flag(&self) -> bool {
        matches!(self.places, Places::Everywhere | Places::FlagAndEnv)
    }

    /// Its help text, variable and default.
    #[must_use]
    pub fn help_line(&self) -> String {
        let required = match self.default {
            Fallback::Required(_) => " [required]",
            _ => "",
        };
        let default = self.default.shown().map(|shown| format!(" [default: {shown}]")).unwrap_or_default();
        format!("{} [env: {}]{default}{required}", self.help, self.env())
    }

    /// The ways to set it, for an error's text.
    #[must_use]
    pub fn ways(&self) -> String {
        let Key { name, flag, value_name, .. } = self;
        if self.places == Places::Table {
            return format!("{} = \"{value_name}\" in this entry", name.rsplit('.').next().unwrap_or_default());
        }
        format!("--{flag} {value_name}, {} in the environment, or {name} = \"{value_name}\" in the file", self.env())
    }
}

/// The setting of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().chain(TABLE_KEYS).find(|key| key.name == name)
}

/// The tables of the file that can have several entries (`[[name]]`).
pub const TABLES: [&str; 3] = ["identities", "upstreams", "routes"];

/// The table of this name.
#[must_use]
pub fn find_table(name: &str) -> Option<&'static str> {
    TABLES.into_iter().find(|table| *table == name)
}

/// Whether the file has a section of this name.
#[must_use]
pub fn is_section(name: &str) -> bool {
    sections().any(|section| section == name)
}

fn sections() -> impl Iterator<Item = &'static str> {
    KEYS.iter().filter_map(|key| key.name.split_once('.').map(|(section, _)| section))
}

/// The name in the file that is most similar to an unknown one, if any is similar.
#[must_use]
pub fn nearest(unknown: &str) -> Option<&'static str> {
    let wanted = unknown.replace('-', "_").to_ascii_lowercase();
    let last = wanted.rsplit('.').next().unwrap_or_default();
    let mut nearest: Option<(&'static str, usize)> = None;
    let mut compare = |name: &'static str, left: &str, right: &str| {
        let distance = strsim::damerau_levenshtein(left, right);
        let near = distance <= left.len().min(right.len()).div_ceil(3);
        if near && nearest.is_none_or(|(_, best)| distance < best) {
            nearest = Some((name, distance));
        }
    };
    let in_table = |table: &str| wanted.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'));
    if TABLES.into_iter().any(in_table) {
        TABLE_KEYS.iter().for_each(|key| compare(key.name, &wanted, key.name));
        return nearest.map(|(name, _)| name);
    }
    for key in KEYS.iter().filter(|key| key.in_file()) {
        compare(key.name, &wanted, key.name);
    }
    for section in sections().chain(TABLES) {
        compare(section, &wanted, section);
    }
    // Also find a key in the wrong section, or a flag's name used in the file.
    for key in KEYS.iter().filter(|key| key.in_file()) {
        compare(key.name, last, &key.flag.replace('-', "_"));
        compare(key.name, last, key.name.rsplit('.').next().unwrap_or_default());
    }
    nearest.map(|(name, _)| name)
}

const CONFIGURATION: &str = "Configuration";
const LISTENING: &str = "Listening";
const UPSTREAM: &str = "Upstream proxy";
const IDENTITY: &str = "Identity";
const ROUTES: &str = "Routes";
const LIMITS: &str = "Limits";
const TIMEOUTS: &str = "Timeouts";
const OUTPUT: &str = "Output";

/// All settings, in the order of the help.
pub static KEYS: &[Key] = &[
    Key {
        name: "config",
        flag: "config",
        places: Places::FlagAndEnv,
        kind: Kind::Text,
        value_name: "FILE",
        heading: CONFIGURATION,
        help: "A TOML file with any of these settings. Flags override the environment, and the environment overrides \
               the file",
        default: Fallback::Nothing,
    },
    Key {
        name: "listen",
        flag: "listen",
        places: Places::Everywhere,
        kind: Kind::List,
        value_name: "ADDR:PORT",
        heading: LISTENING,
        help: "Addresses on which the gateway serves clients, separated by commas. Any address beyond loopback \
               requires --allow-clients",
        default: Fallback::Value(|| "127.0.0.1:3128".into()),
    },
    Key {
        name: "allow_clients",
        flag: "allow-clients",
        places: Places::Everywhere,
        kind: Kind::List,
        value_name: "CIDR",
        heading: LISTENING,
        help: "Networks whose clients may use the gateway, separated by commas, for example 10.0.0.0/8. By default \
               only loopback clients may",
        default: Fallback::Nothing,
    },
    Key {
        name: "admin",
        flag: "admin",
        places: Places::Everywhere,
        kind: Kind::Text,
        value_name: "ADDR:PORT",
        heading: LISTENING,
        help: "The administration address, which serves /metrics, /healthz and /readyz",
        default: Fallback::Value(|| limits::ADMIN_ADDRESS.into()),
    },
    Key {
        name: "admin_tunnels",
        flag: "admin-tunnels",
        places: Places::Everywhere,
        kind: Kind::Switch,
        value_name: "true|false",
        heading: LISTENING,
        help: "Serve /tunnels on the administration address: a list of the open tunnels with their clients and \
               destinations",
        default: Fallback::Value(|| "false".into()),
    },
    Key {
        name: "upstream",
        flag: "upstream",
        places: Places::Everywhere,
        kind: Kind::List,
        value_name: "HOST:PORT",
        heading: UPSTREAM,
        help: "The corporate proxy that requires NTLM. Several are separated by commas and tried in this order",
        default: Fallback::Required("name the corporate proxy"),
    },
    Key {
        name: "order",
        flag: "order",
        places: Places::Everywhere,
        kind: Kind::Text,
        value_name: "failover|balance",
        heading: UPSTREAM,
        help: "How to choose between several upstreams: the first one that is up, or the one with the fewest tunnels \
               for its weight",
        default: Fallback::Value(|| "failover".into()),
    },
    Key {
        name: "check",
        flag: "check",
        places: Places::Everywhere,
        kind: Kind::Text,
        value_name: "tcp|handshake",
        heading: UPSTREAM,
        help: "How to check whether a failed upstream has recovered: by connecting to it, or by a full handshake for \
               --check-target if the credential guard allows one",
        default: Fallback::Value(|| "tcp".into()),
    },
    Key {
        name: "check_target",
        flag: "check-target",
        places: Places::Everywhere,
        kind: Kind::Text,
        value_name: "HOST:PORT",
        heading: UPSTREAM,
        help: "The destination that --check handshake requests",
        default: Fallback::Nothing,
    },
    Key {
        name: "first_leg",
        flag: "first-leg",
        places: Places::Everywhere,
        kind: Kind::Text,
        value_name: "negotiate|plain",
        heading: UPSTREAM,
        help: "What the first request on an upstream connection carries: the NEGOTIATE_MESSAGE, or no credentials \
               until the proxy asks for them. Use plain for proxies that reject a NEGOTIATE_MESSAGE they did not ask \
               for",
        default: Fallback::Value(|| "negotiate".into()),
    },
    Key {
        name: "warm",
        flag: "warm",
        places: Places::Everywhere,
        kind: Kind::Integer,
        value_name: "NUMBER",
        heading: UPSTREAM,
        help: "How many connections each shard keeps pre-challenged for each upstream and identity while there is demand, \
               so that a tunnel opens in one round trip; 0 turns this off. Squid reserves one NTLM helper for each",
        default: Fallback::Value(|| limits::WARM_PER_SHARD.to_string()),
    },
    Key {
        name: "keep",
        flag: "keep",
        places: Places::Everywhere,
        kind: Kind::Integer,
        value_name: "NUMBER",
        heading: UPSTREAM,
        help: "How many authenticated connections each shard keeps open for each upstream and identity, for later \
               requests of any client; 0 turns this off",
        default: Fallback::Value(|| limits::KEEP_PER_SHARD.to_string()),
    },
    Key {
        name: "via",
        flag: "via",
        places: Places::Everywhere,
        kind: Kind::Switch,
        value_name: "true|false",
        heading: UPSTREAM,
        help: "Add the gateway's name to the Via field of CONNECT requests and of plain HTTP requests and responses, \
               so that a request that loops back is recognised",
        default: Fallback::Value(|| "true".into()),
    },
    Key {
        name: "via_name",
        flag: "via-name",
        places: Places::Everywhere,
        kind: Kind::Text,
        value_name: "NAME",
        heading: UPSTREAM,
        help: "The gateway's name in Via fields. Default: ntlm-gateway- and 8 random digits, new at each start",
        default: Fallback::Nothing,
    },
    Key {
        name: "user",
        flag: "user",
        places: Places::Everywhere,
        kind: Kind::Text,
        value_name: "ACCOUNT",
        heading: IDENTITY,
        help: r"The account to authenticate with: 'DOMAIN\name', 'name@domain', or a plain name together with --domain",
        default: Fallback::Required("name the account to authenticate with"),
    },
    Key {
        name: "domain",
        flag: "domain",
        places: Places::Everywhere,
        kind: Kind::Text,
        value_name: "DOMAIN",
        heading: IDENTITY,
        help: "The account's domain, if --user does not include it",
        default: Fallback::Nothing,
    },
    Key {
        name: "password_file",
        flag: "password-file",
        places: Places::Everywhere,
        kind: Kind::Text,
        value_name: "FILE",
        heading: IDENTITY,
        help: "A file with the account's password, such as a mounted Kubernetes Secret. One newline at its end is \
               ignored",
        default: Fallback::Nothing,
    },
    Key {
        name: "nt_hash_file",
        flag: "nt-hash-file",
        places: Places::Everywhere,
        kind: Kind::Text,
        value_name: "FILE",
        heading: IDENTITY,
        help: "A file with the NT hash of the password instead of the password: 32 hexadecimal digits, as printed by \
               `ntlm-gateway hash`",
        default: Fallback::Nothing,
    },
    Key {
        name: "password_fd",
        flag: "password-fd",
        places: Places::Everywhere,
        kind: Kind::Integer,
        value_name: "NUMBER",
        heading: IDENTITY,
        help: "An inherited file descriptor from which to read the password once, at the start; 0 is standard input",
        default: Fallback::Nothing,
    },
    Key {
        name: "password",
        flag: "password",
        places: Places::EnvOnly,
        kind: Kind::Text,
        value_name: "PASSWORD",
        heading: IDENTITY,
        help: "The password itself. A file is safer, because the environment of a process is easily shown",
        default: Fallback::Nothing,
    },
    Key {
        name: "workstation",
        flag: "workstation",
        places: Places::Everywhere,
        kind: Kind::Text,
        value_name: "NAME",
        heading: IDENTITY,
        help: "The workstation name to send to the proxy. It matters for accounts that may log on only from certain \
               workstations",
        default: Fallback::Machine("this host's name in upper case", host_name::workstation),
    },
    Key {
        name: "method",
        flag: "method",
        places: Places::Everywhere,
        kind: Kind::Text,
        value_name: "ntlmv2|ntlmv1-ess",
        heading: IDENTITY,
        help: "The authentication method. ntlmv1-ess can be cracked by anyone who records a handshake: use it only for \
               proxies that accept nothing better",
        default: Fallback::Value(|| "ntlmv2".into()),
    },
    Key {
        name: "target_domain",
        flag: "target-domain",
        places: Places::Everywhere,
        kind: Kind::Switch,
        value_name: "true|false",
        heading: IDENTITY,
        help: "Authenticate in the domain that the proxy names in its challenge instead of the account's own domain",
        default: Fallback::Value(|| "false".into()),
    },
    Key {
        name: "allow_basic",
        flag: "allow-basic",
        places: Places::Everywhere,
        kind: Kind::Switch,
        value_name: "true|false",
        heading: IDENTITY,
        help: "Send the password itself (Basic) to a proxy that offers neither NTLM nor Negotiate. Requires \
               --password-file. Anyone who can read the connection to the proxy can read the password",
        default: Fallback::Value(|| "false".into()),
    },
    Key {
        name: "no_proxy",
        flag: "no-proxy",
        places: Places::Everywhere,
        kind: Kind::List,
        value_name: "LIST",
        heading: ROUTES,
        help: "Destinations that are reached directly, without an upstream, in the syntax of NO_PROXY: domains, \
               addresses and networks, each with or without :port, separated by commas",
        default: Fallback::Nothing,
    },
    Key {
        name: "without_credentials",
        flag: "without-credentials",
        places: Places::Everywhere,
        kind: Kind::List,
        value_name: "HOST",
        heading: ROUTES,
        help: "Hosts to request from the upstream without credentials, because it exempts them from authentication and \
               mishandles a handshake for them: names, .suffixes and globs, separated by commas",
        default: Fallback::Nothing,
    },
    Key {
        name: "shards",
        flag: "shards",
        places: Places::Everywhere,
        kind: Kind::Integer,
        value_name: "NUMBER",
        heading: LIMITS,
        help: "The number of event loops, each on its own thread",
        default: Fallback::Machine("one per available core", || {
            std::thread::available_parallelism().map_or(1, |cores| cores.get().min(super::MAX_SHARDS)).to_string()
        }),
    },
    Key {
        name: "max_tunnels",
        flag: "max-tunnels",
        places: Places::Everywhere,
        kind: Kind::Integer,
        value_name: "NUMBER",
        heading: LIMITS,
        help: "The maximum number of client connections in the whole process; reduced to what the limit on open files \
               allows",
        default: Fallback::Value(|| limits::MAX_TUNNELS.to_string()),
    },
    Key {
        name: "limits.tunnels_per_client",
        flag: "tunnels-per-client",
        places: Places::Everywhere,
        kind: Kind::Integer,
        value_name: "NUMBER",
        heading: LIMITS,
        help: "The maximum number of open connections from one client address, so that one client cannot use up all of \
               max_tunnels; 0 sets no limit",
        default: Fallback::Value(|| "0".into()),
    },
    Key {
        name: "limits.new_tunnels_per_client",
        flag: "new-tunnels-per-client",
        places: Places::Everywhere,
        kind: Kind::Integer,
        value_name: "NUMBER",
        heading: LIMITS,
        help: "The maximum number of new connections per second from one client address; 0 sets no limit",
        default: Fallback::Value(|| "0".into()),
    },
    Key {
        name: "guard.attempts",
        flag: "guard-attempts",
        places: Places::Everywhere,
        kind: Kind::Integer,
        value_name: "NUMBER",
        heading: LIMITS,
        help: "The maximum number of failed logons for one account in 30 minutes, from 2 to 10. Keep it at least one \
               below the domain's lockout threshold",
        default: Fallback::Value(|| limits::GUARD_ATTEMPTS.to_string()),
    },
    Key {
        name: "limits.head",
        flag: "head-limit",
        places: Places::Everywhere,
        kind: Kind::Size,
        value_name: "SIZE",
        heading: LIMITS,
        help: "The maximum size of a request or response head, from 1KiB to 1MiB. It also limits the total size of all \
               interim (1xx) responses to one request",
        default: Fallback::Value(|| format_size(limits::HEAD_LIMIT_BYTES)),
    },
    Key {
        name: "limits.fields",
        flag: "field-limit",
        places: Places::Everywhere,
        kind: Kind::Integer,
        value_name: "NUMBER",
        heading: LIMITS,
        help: "The maximum number of field lines in a request or response head, from 16 to 10000",
        default: Fallback::Value(|| limits::FIELD_LIMIT.to_string()),
    },
    Key {
        name: "limits.pipes_per_shard",
        flag: "pipes-per-shard",
        places: Places::Everywhere,
        kind: Kind::Integer,
        value_name: "NUMBER",
        heading: LIMITS,
        help: "How many pipes each shard may use at the same time to splice bulk data; with 0 all data is copied",
        default: Fallback::Value(|| limits::PIPES_PER_SHARD.to_string()),
    },
    Key {
        name: "limits.tcp_probes",
        flag: "tcp-probes",
        places: Places::Everywhere,
        kind: Kind::Integer,
        value_name: "NUMBER",
        heading: LIMITS,
        help: "How many TCP keep-alive probes may stay unanswered before a connection is closed, from 1 to 127",
        default: Fallback::Value(|| limits::TCP_PROBES.to_string()),
    },
    Key {
        name: "limits.memory",
        flag: "memory-limit",
        places: Places::Everywhere,
        kind: Kind::Size,
        value_name: "SIZE",
        heading: LIMITS,
        help: "The maximum memory for the buffered data of all requests and responses in progress, at least 4MiB; at \
               this limit new requests get 503. 0B sets no limit",
        default: Fallback::Machine("half of the memory of the control group or the machine", || {
            format_size(super::machine::memory_bytes() / 2)
        }),
    },
    Key {
        name: "limits.socket_buffer",
        flag: "socket-buffer",
        places: Places::Everywhere,
        kind: Kind::Size,
        value_name: "SIZE",
        heading: LIMITS,
        help: "The maximum amount of data that a socket buffers in each direction for a peer that does not read, up to \
               64MiB; 0B leaves it to the kernel",
        default: Fallback::Value(|| format_size(0)),
    },
    Key {
        name: "timeouts.connect",
        flag: "connect-timeout",
        places: Places::Everywhere,
        kind: Kind::Duration,
        value_name: "DURATION",
        heading: TIMEOUTS,
        help: "The time limit for one connection attempt to one address",
        default: Fallback::Value(|| format_duration(limits::CONNECT_TIMEOUT)),
    },
    Key {
        name: "timeouts.head",
        flag: "head-timeout",
        places: Places::Everywhere,
        kind: Kind::Duration,
        value_name: "DURATION",
        heading: TIMEOUTS,
        help: "The time limit for a client to send a complete request head, counted from accept",
        default: Fallback::Value(|| format_duration(limits::HEAD_TIMEOUT)),
    },
    Key {
        name: "timeouts.challenge",
        flag: "challenge-timeout",
        places: Places::Everywhere,
        kind: Kind::Duration,
        value_name: "DURATION",
        heading: TIMEOUTS,
        help: "The time limit for the proxy to send a challenge, counted from the connection. The origin plays no part \
               in it. When it is over, the next proxy is tried",
        default: Fallback::Value(|| format_duration(limits::CHALLENGE_TIMEOUT)),
    },
    Key {
        name: "timeouts.handshake",
        flag: "handshake-timeout",
        places: Places::Everywhere,
        kind: Kind::Duration,
        value_name: "DURATION",
        heading: TIMEOUTS,
        help: "The time limit from the request head to the response for the client, including the proxy's own attempt \
               to reach the origin",
        default: Fallback::Value(|| format_duration(limits::HANDSHAKE_TIMEOUT)),
    },
    Key {
        name: "timeouts.idle",
        flag: "idle-timeout",
        places: Places::Everywhere,
        kind: Kind::Duration,
        value_name: "DURATION",
        heading: TIMEOUTS,
        help: "A tunnel in which nothing moves in either direction is closed after this time",
        default: Fallback::Value(|| format_duration(limits::IDLE_TIMEOUT)),
    },
    Key {
        name: "timeouts.warm",
        flag: "warm-timeout",
        places: Places::Everywhere,
        kind: Kind::Duration,
        value_name: "DURATION",
        heading: TIMEOUTS,
        help: "How long a pre-challenged connection may stay unused. Keep it below the proxy's own limit for idle \
               connections",
        default: Fallback::Value(|| format_duration(limits::WARM_AGE)),
    },
    Key {
        name: "timeouts.body",
        flag: "body-timeout",
        places: Places::Everywhere,
        kind: Kind::Duration,
        value_name: "DURATION",
        heading: TIMEOUTS,
        help: "A client is too slow if, within this time, it sends less than 4 KiB of a plain HTTP request's body or \
               reads less than 4 KiB of the response",
        default: Fallback::Value(|| format_duration(limits::BODY_TIMEOUT)),
    },
    Key {
        name: "timeouts.response",
        flag: "response-timeout",
        places: Places::Everywhere,
        kind: Kind::Duration,
        value_name: "DURATION",
        heading: TIMEOUTS,
        help: "The time limit from the end of a plain HTTP request to the beginning of its response",
        default: Fallback::Value(|| format_duration(limits::RESPONSE_TIMEOUT)),
    },
    Key {
        name: "timeouts.keep_alive",
        flag: "keep-alive-timeout",
        places: Places::Everywhere,
        kind: Kind::Duration,
        value_name: "DURATION",
        heading: TIMEOUTS,
        help: "A client connection that is idle between two plain HTTP requests is closed after this time",
        default: Fallback::Value(|| format_duration(limits::KEEP_ALIVE_TIMEOUT)),
    },
    Key {
        name: "timeouts.keep",
        flag: "keep-timeout",
        places: Places::Everywhere,
        kind: Kind::Duration,
        value_name: "DURATION",
        heading: TIMEOUTS,
        help: "How long an authenticated connection may stay unused. Keep it below the proxy's own limit for idle \
               connections",
        default: Fallback::Value(|| format_duration(limits::KEEP_AGE)),
    },
    Key {
        name: "timeouts.half_closed",
        flag: "half-closed-timeout",
        places: Places::Everywhere,
        kind: Kind::Duration,
        value_name: "DURATION",
        heading: TIMEOUTS,
        help: "A tunnel in which one direction has ended is closed when nothing moves in the other for this time",
        default: Fallback::Value(|| format_duration(limits::HALF_CLOSED_TIMEOUT)),
    },
    Key {
        name: "timeouts.tcp_idle",
        flag: "tcp-idle",
        places: Places::Everywhere,
        kind: Kind::Duration,
        value_name: "DURATION",
        heading: TIMEOUTS,
        help: "How long a connection to a client, a proxy or an origin may be idle before TCP keep-alive probes it; 0s \
               turns probes off",
        default: Fallback::Value(|| format_duration(limits::TCP_IDLE)),
    },
    Key {
        name: "timeouts.tcp_probe",
        flag: "tcp-probe-timeout",
        places: Places::Everywhere,
        kind: Kind::Duration,
        value_name: "DURATION",
        heading: TIMEOUTS,
        help: "The time between two TCP keep-alive probes, in whole seconds",
        default: Fallback::Value(|| format_duration(limits::TCP_PROBE)),
    },
    Key {
        name: "timeouts.drain",
        flag: "drain-timeout",
        places: Places::Everywhere,
        kind: Kind::Duration,
        value_name: "DURATION",
        heading: TIMEOUTS,
        help: "How long open tunnels may continue after the shutdown delay before they are closed",
        default: Fallback::Value(|| format_duration(limits::DRAIN_TIMEOUT)),
    },
    Key {
        name: "timeouts.shutdown_delay",
        flag: "shutdown-delay",
        places: Places::Everywhere,
        kind: Kind::Duration,
        value_name: "DURATION",
        heading: TIMEOUTS,
        help: "How long the gateway still accepts connections after SIGTERM while /readyz already fails, so that load \
               balancers notice",
        default: Fallback::Value(|| format_duration(limits::SHUTDOWN_DELAY)),
    },
    Key {
        name: "log_format",
        flag: "log-format",
        places: Places::Everywhere,
        kind: Kind::Text,
        value_name: "text|json",
        heading: OUTPUT,
        help: "The format of log lines on standard error",
        default: Fallback::Value(|| "text".into()),
    },
    Key {
        name: "log_level",
        flag: "log-level",
        places: Places::Everywhere,
        kind: Kind::Text,
        value_name: "error|warn|info|debug|trace",
        heading: OUTPUT,
        help: "The least severe level that is logged. RUST_LOG overrides it",
        default: Fallback::Value(|| "info".into()),
    },
];

#[cfg(test)]
mod tests;
