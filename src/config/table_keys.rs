//! The settings of the file's tables: each entry of `[[identities]]`, `[[upstreams]]` and `[[routes]]` has its own.

use super::keys::{Fallback, Key, Kind, Places};

/// Every setting of every table, `table.setting`.
pub static TABLE_KEYS: &[Key] = &[
    key(
        "identities.name",
        Kind::Text,
        "NAME",
        "What upstreams, logs and metrics call it",
        Fallback::Required("name the identity"),
    ),
    key("identities.user", Kind::Text, "ACCOUNT", "As `user`", Fallback::Required("name the account to prove")),
    key("identities.domain", Kind::Text, "DOMAIN", "As `domain`", Fallback::Nothing),
    key("identities.password_file", Kind::Text, "FILE", "As `password_file`", Fallback::Nothing),
    key("identities.nt_hash_file", Kind::Text, "FILE", "As `nt_hash_file`", Fallback::Nothing),
    key("identities.workstation", Kind::Text, "NAME", "As `workstation`; that one is the default", Fallback::Nothing),
    key(
        "identities.method",
        Kind::Text,
        "ntlmv2|ntlmv1-ess",
        "As `method`; that one is the default",
        Fallback::Nothing,
    ),
    key(
        "identities.target_domain",
        Kind::Switch,
        "true|false",
        "As `target_domain`; that one is the default",
        Fallback::Nothing,
    ),
    key("identities.allow_basic", Kind::Switch, "true|false", "As `allow_basic`", Fallback::Value(|| "false".into())),
    key(
        "identities.listen",
        Kind::List,
        "ADDR:PORT",
        "Clients that come in here go by this identity; these addresses are listened on besides `listen`",
        Fallback::Nothing,
    ),
    key("identities.clients", Kind::List, "CIDR", "Clients from these networks go by this identity", Fallback::Nothing),
    key(
        "identities.proxy_user",
        Kind::Text,
        "NAME",
        "Clients that log on to the gateway by this name (Basic, as in http://NAME:PASSWORD@gateway:3128) go by this identity",
        Fallback::Nothing,
    ),
    key(
        "identities.proxy_password_file",
        Kind::Text,
        "FILE",
        "A file with the password that belongs to `proxy_user`",
        Fallback::Nothing,
    ),
    key(
        "upstreams.name",
        Kind::Text,
        "NAME",
        "What logs and metrics call it; its first address unless given",
        Fallback::Nothing,
    ),
    key(
        "upstreams.address",
        Kind::List,
        "HOST:PORT",
        "Its addresses; one that takes no connection is passed over for the next",
        Fallback::Required("name the proxy"),
    ),
    key(
        "upstreams.group",
        Kind::Text,
        "NAME",
        "What routes call it, together with the others of the group. The first upstream's group takes what no route names",
        Fallback::Value(|| "default".into()),
    ),
    key(
        "upstreams.weight",
        Kind::Integer,
        "NUMBER",
        "Its share of the tunnels with `order` balance, from 1 to 1000",
        Fallback::Value(|| "1".into()),
    ),
    key(
        "upstreams.identity",
        Kind::Text,
        "NAME",
        "The identity of clients that have none of their own; the first that is for everybody unless given",
        Fallback::Nothing,
    ),
    key(
        "upstreams.first_leg",
        Kind::Text,
        "negotiate|plain",
        "As `first_leg`; that one is the default",
        Fallback::Nothing,
    ),
    key("upstreams.warm", Kind::Integer, "NUMBER", "As `warm`; that one is the default", Fallback::Nothing),
    key("upstreams.keep", Kind::Integer, "NUMBER", "As `keep`; that one is the default", Fallback::Nothing),
    key(
        "routes.host",
        Kind::List,
        "HOST",
        "Destinations by name: example.com (that host), .example.com (all below it), or a glob with *",
        Fallback::Nothing,
    ),
    key(
        "routes.network",
        Kind::List,
        "CIDR",
        "Destinations by address, where a request names an address",
        Fallback::Nothing,
    ),
    key("routes.port", Kind::List, "PORT", "Only these ports; ranges as 8000-8999", Fallback::Nothing),
    key(
        "routes.to",
        Kind::Text,
        "GROUP|direct|deny",
        "Through the upstreams of this group, straight to the origin, or nowhere (403)",
        Fallback::Required("say where the route leads"),
    ),
];

const fn key(name: &'static str, kind: Kind, value_name: &'static str, help: &'static str, default: Fallback) -> Key {
    Key { name, flag: "", places: Places::Table, kind, value_name, heading: "", help, default }
}
