//! The settings of the account that authenticates to the upstreams.

use super::{Fallback, Key, Kind, Places};
use crate::config::host_name;

pub(super) const IDENTITY: &[Key] = &[
    Key {
        name: "user",
        flag: "user",
        places: Places::Everywhere,
        kind: Kind::Text,
        value_name: "ACCOUNT",
        heading: "Identity",
        help: r"The account to authenticate with: 'DOMAIN\name', 'name@domain', or a plain name together with --domain",
        default: Fallback::Required("name the account to authenticate with"),
    },
    Key {
        name: "domain",
        flag: "domain",
        places: Places::Everywhere,
        kind: Kind::Text,
        value_name: "DOMAIN",
        heading: "Identity",
        help: "The account's domain, if --user does not include it",
        default: Fallback::Nothing,
    },
    Key {
        name: "password_file",
        flag: "password-file",
        places: Places::Everywhere,
        kind: Kind::Text,
        value_name: "FILE",
        heading: "Identity",
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
        heading: "Identity",
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
        heading: "Identity",
        help: "An inherited file descriptor from which to read the password once, at the start; 0 is standard input",
        default: Fallback::Nothing,
    },
    Key {
        name: "password",
        flag: "password",
        places: Places::EnvOnly,
        kind: Kind::Text,
        value_name: "PASSWORD",
        heading: "Identity",
        help: "The password itself. A file is safer, because the environment of a process is easily shown",
        default: Fallback::Nothing,
    },
    Key {
        name: "workstation",
        flag: "workstation",
        places: Places::Everywhere,
        kind: Kind::Text,
        value_name: "NAME",
        heading: "Identity",
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
        heading: "Identity",
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
        heading: "Identity",
        help: "Authenticate in the domain that the proxy names in its challenge instead of the account's own domain",
        default: Fallback::Value(|| "false".into()),
    },
    Key {
        name: "allow_basic",
        flag: "allow-basic",
        places: Places::Everywhere,
        kind: Kind::Switch,
        value_name: "true|false",
        heading: "Identity",
        help: "Send the password itself (Basic) to a proxy that offers neither NTLM nor Negotiate. Requires \
               --password-file. Anyone who can read the connection to the proxy can read the password",
        default: Fallback::Value(|| "false".into()),
    },
];
