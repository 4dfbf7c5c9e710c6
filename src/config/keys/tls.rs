//! The settings of TLS to upstreams.

use super::{Fallback, Key, Kind, Places};

pub(super) const TLS: &[Key] = &[
    Key {
        name: "tls.ca_file",
        flag: "tls-ca-file",
        places: Places::Everywhere,
        kind: Kind::Text,
        value_name: "FILE",
        heading: "TLS to the upstream",
        help: "The certificates (PEM) of the CAs that may issue the certificate of an upstream with https://, in place of \
               those that the system trusts",
        default: Fallback::Nothing,
    },
    Key {
        name: "tls.pin_sha256",
        flag: "tls-pin-sha256",
        places: Places::Everywhere,
        kind: Kind::List,
        value_name: "HASH",
        heading: "TLS to the upstream",
        help: "The SHA-256 hashes, in base64, of the public keys that the upstream's certificate may have, separated by \
               commas. Default: any key",
        default: Fallback::Nothing,
    },
    Key {
        name: "tls.server_name",
        flag: "tls-server-name",
        places: Places::Everywhere,
        kind: Kind::Text,
        value_name: "NAME",
        heading: "TLS to the upstream",
        help: "The name that the upstream's certificate must have, and that is sent as SNI. Default: the host names of its \
               addresses",
        default: Fallback::Nothing,
    },
    Key {
        name: "tls.client_cert_file",
        flag: "tls-client-cert-file",
        places: Places::Everywhere,
        kind: Kind::Text,
        value_name: "FILE",
        heading: "TLS to the upstream",
        help: "The gateway's own certificate (PEM) with its chain, for upstreams that require one",
        default: Fallback::Nothing,
    },
    Key {
        name: "tls.client_key_file",
        flag: "tls-client-key-file",
        places: Places::Everywhere,
        kind: Kind::Text,
        value_name: "FILE",
        heading: "TLS to the upstream",
        help: "The private key (PEM, without passphrase) of that certificate",
        default: Fallback::Nothing,
    },
    Key {
        name: "tls.kernel",
        flag: "tls-kernel",
        places: Places::Everywhere,
        kind: Kind::Switch,
        value_name: "true|false",
        heading: "TLS to the upstream",
        help: "Let the kernel encrypt and decrypt bulk data (kernel TLS), so that it is spliced; needs the kernel's module \
               tls, and without it nothing changes",
        default: Fallback::Value(|| "false".into()),
    },
];
