//! The settings of Kerberos that all identities have in common.

use super::{Fallback, Key, Kind, Places};

pub(super) const KERBEROS: &[Key] = &[
    Key {
        name: "kerberos.realm",
        flag: "kerberos-realm",
        places: Places::Everywhere,
        kind: Kind::Text,
        value_name: "REALM",
        heading: "Kerberos",
        help: "The realm of accounts that name none, usually the Active Directory domain in upper case. Default: that of \
               krb5.conf",
        default: Fallback::Nothing,
    },
    Key {
        name: "kerberos.kdc",
        flag: "kdc",
        places: Places::Everywhere,
        kind: Kind::List,
        value_name: "HOST",
        heading: "Kerberos",
        help: "The KDCs (domain controllers) of that realm, separated by commas, each with or without :port. Default: \
               those of krb5.conf, or else those that DNS has",
        default: Fallback::Nothing,
    },
    Key {
        name: "kerberos.krb5_conf",
        flag: "krb5-conf",
        places: Places::Everywhere,
        kind: Kind::Text,
        value_name: "FILE",
        heading: "Kerberos",
        help: "A krb5.conf with realms and their KDCs. Default: /etc/krb5.conf, if there is one",
        default: Fallback::Nothing,
    },
    Key {
        name: "kerberos.canonicalize",
        flag: "kerberos-canonicalize",
        places: Places::Everywhere,
        kind: Kind::Switch,
        value_name: "true|false",
        heading: "Kerberos",
        help: "In a service principal name that follows from the proxy's host name, replace an alias (CNAME) by the \
               name that DNS has for it",
        default: Fallback::Value(|| "false".into()),
    },
    Key {
        name: "kerberos.allow_rc4",
        flag: "allow-rc4",
        places: Places::Everywhere,
        kind: Kind::Switch,
        value_name: "true|false",
        heading: "Kerberos",
        help: "Also use RC4, which is broken: only for accounts or proxies that have no AES keys",
        default: Fallback::Value(|| "false".into()),
    },
];
