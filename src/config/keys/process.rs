//! The settings of the process itself: its configuration file, where it listens, what it logs.

use super::{Fallback, Key, Kind, Places};
use crate::limits;

pub(super) const CONFIGURATION: &[Key] = &[Key {
    name: "config",
    flag: "config",
    places: Places::FlagAndEnv,
    kind: Kind::Text,
    value_name: "FILE",
    heading: "Configuration",
    help: "A TOML file with any of these settings. Flags override the environment, and the environment overrides \
               the file",
    default: Fallback::Nothing,
}];

pub(super) const LISTENING: &[Key] = &[
    Key {
        name: "listen",
        flag: "listen",
        places: Places::Everywhere,
        kind: Kind::List,
        value_name: "ADDR:PORT",
        heading: "Listening",
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
        heading: "Listening",
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
        heading: "Listening",
        help: "The administration address, which serves /metrics, /healthz and /readyz",
        default: Fallback::Value(|| limits::ADMIN_ADDRESS.into()),
    },
    Key {
        name: "admin_tunnels",
        flag: "admin-tunnels",
        places: Places::Everywhere,
        kind: Kind::Switch,
        value_name: "true|false",
        heading: "Listening",
        help: "Serve /tunnels on the administration address: a list of the open tunnels with their clients and \
               destinations",
        default: Fallback::Value(|| "false".into()),
    },
];

pub(super) const OUTPUT: &[Key] = &[
    Key {
        name: "log_format",
        flag: "log-format",
        places: Places::Everywhere,
        kind: Kind::Text,
        value_name: "text|json",
        heading: "Output",
        help: "The format of log lines on standard error",
        default: Fallback::Value(|| "text".into()),
    },
    Key {
        name: "log_level",
        flag: "log-level",
        places: Places::Everywhere,
        kind: Kind::Text,
        value_name: "error|warn|info|debug|trace",
        heading: "Output",
        help: "The least severe level that is logged. RUST_LOG overrides it",
        default: Fallback::Value(|| "info".into()),
    },
];
