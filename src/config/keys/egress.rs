//! The settings of the upstreams and of the routes.

use super::{Fallback, Key, Kind, Places};
use crate::limits;

pub(super) const UPSTREAM: &[Key] = &[
    Key {
        name: "upstream",
        flag: "upstream",
        places: Places::Everywhere,
        kind: Kind::List,
        value_name: "HOST:PORT",
        heading: "Upstream proxy",
        help: "The corporate proxy that requires NTLM, with https:// in front if it is reached with TLS. Several are \
               separated by commas and tried in this order",
        default: Fallback::Required("name the corporate proxy"),
    },
    Key {
        name: "order",
        flag: "order",
        places: Places::Everywhere,
        kind: Kind::Text,
        value_name: "failover|balance",
        heading: "Upstream proxy",
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
        heading: "Upstream proxy",
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
        heading: "Upstream proxy",
        help: "The destination that --check handshake requests",
        default: Fallback::Nothing,
    },
    Key {
        name: "first_leg",
        flag: "first-leg",
        places: Places::Everywhere,
        kind: Kind::Text,
        value_name: "negotiate|plain",
        heading: "Upstream proxy",
        help: "What the first request on an upstream connection carries: the NEGOTIATE_MESSAGE, or no credentials \
               until the proxy asks for them. Use plain for proxies that reject a NEGOTIATE_MESSAGE they did not ask \
               for",
        default: Fallback::Value(|| "negotiate".into()),
    },
    Key {
        name: "spn",
        flag: "spn",
        places: Places::Everywhere,
        kind: Kind::Text,
        value_name: "SERVICE/HOST",
        heading: "Upstream proxy",
        help: "The proxy's service principal name for Kerberos. Default: HTTP/ and the proxy's host name as configured",
        default: Fallback::Nothing,
    },
    Key {
        name: "warm",
        flag: "warm",
        places: Places::Everywhere,
        kind: Kind::IntegerOrAuto,
        value_name: "auto|NUMBER",
        heading: "Upstream proxy",
        help: "How many connections each shard keeps pre-challenged for each upstream and identity while there is demand, \
               so that a tunnel opens in one round trip: as many as the demand can use, or at most NUMBER; 0 turns this \
               off. Squid reserves one NTLM helper for each",
        default: Fallback::Value(|| "auto".into()),
    },
    Key {
        name: "keep",
        flag: "keep",
        places: Places::Everywhere,
        kind: Kind::Integer,
        value_name: "NUMBER",
        heading: "Upstream proxy",
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
        heading: "Upstream proxy",
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
        heading: "Upstream proxy",
        help: "The gateway's name in Via fields. Default: ntlm-gateway- and 8 random digits, new at each start",
        default: Fallback::Nothing,
    },
];

pub(super) const ROUTES: &[Key] = &[
    Key {
        name: "no_proxy",
        flag: "no-proxy",
        places: Places::Everywhere,
        kind: Kind::List,
        value_name: "LIST",
        heading: "Routes",
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
        heading: "Routes",
        help: "Hosts to request from the upstream without credentials, because it exempts them from authentication and \
               mishandles a handshake for them: names, .suffixes and globs, separated by commas",
        default: Fallback::Nothing,
    },
];
