//! The settings of the file's tables, for the entries of `[[listeners]]`, `[[identities]]`, `[[upstreams]]`
//! and `[[routes]]`.
use super::keys::{Fallback, Key, Kind, Places};

/// All settings of all tables, as `table.setting`.
pub static TABLE_KEYS: &[Key] = &[
    key(
        "listeners.address",
        Kind::Text,
        "ADDR:PORT",
        "An address to listen on besides `listen`, which has no default if there are entries",
        Fallback::Required("name the address to listen on"),
    ),
    key(
        "listeners.protocols",
        Kind::List,
        "http|socks",
        "What clients may speak there: http, socks (SOCKS4, SOCKS4a and SOCKS5) or both. The first byte of a connection \
         shows which",
        Fallback::Value(|| "http,socks".into()),
    ),
    key(
        "listeners.target",
        Kind::Text,
        "HOST:PORT",
        "A fixed destination: each connection becomes a tunnel to it at once, whatever it carries",
        Fallback::Nothing,
    ),
    key(
        "listeners.transparent",
        Kind::Text,
        "redirect|tproxy",
        "Connections to other destinations are redirected here, by nft's or iptables' REDIRECT or by TPROXY. TLS goes to \
         the server name, HTTP to each request's host, and anything else to the address that the client connected to",
        Fallback::Nothing,
    ),
    key(
        "listeners.proxy_protocol_from",
        Kind::List,
        "CIDR",
        "Load balancers whose connections begin with a PROXY header (version 1 or 2). The client that it names counts \
         for allow_clients, identities, limits and logs",
        Fallback::Nothing,
    ),
    key("listeners.identity", Kind::Text, "NAME", "Clients that connect to it use this identity", Fallback::Nothing),
    key(
        "identities.name",
        Kind::Text,
        "NAME",
        "The name by which upstreams, logs and metrics refer to it",
        Fallback::Required("name the identity"),
    ),
    key(
        "identities.user",
        Kind::Text,
        "ACCOUNT",
        "Like `user`",
        Fallback::Required("name the account to authenticate with"),
    ),
    key("identities.domain", Kind::Text, "DOMAIN", "Like `domain`", Fallback::Nothing),
    key("identities.password_file", Kind::Text, "FILE", "Like `password_file`", Fallback::Nothing),
    key("identities.nt_hash_file", Kind::Text, "FILE", "Like `nt_hash_file`", Fallback::Nothing),
    key("identities.previous_password_file", Kind::Text, "FILE", "Like `previous_password_file`", Fallback::Nothing),
    key("identities.previous_nt_hash_file", Kind::Text, "FILE", "Like `previous_nt_hash_file`", Fallback::Nothing),
    key("identities.auth", Kind::List, "kerberos|ntlm", "Like `auth`, which is the default", Fallback::Nothing),
    key("identities.keytab", Kind::Text, "FILE", "Like `keytab`", Fallback::Nothing),
    key("identities.principal", Kind::Text, "NAME", "Like `principal`", Fallback::Nothing),
    key("identities.workstation", Kind::Text, "NAME", "Like `workstation`, which is the default", Fallback::Nothing),
    key("identities.method", Kind::Text, "ntlmv2|ntlmv1-ess", "Like `method`, which is the default", Fallback::Nothing),
    key(
        "identities.target_domain",
        Kind::Switch,
        "true|false",
        "Like `target_domain`, which is the default",
        Fallback::Nothing,
    ),
    key("identities.allow_basic", Kind::Switch, "true|false", "Like `allow_basic`", Fallback::Value(|| "false".into())),
    key(
        "identities.listen",
        Kind::List,
        "ADDR:PORT",
        "Addresses to listen on besides `listen`. Clients that connect to them use this identity",
        Fallback::Nothing,
    ),
    key("identities.clients", Kind::List, "CIDR", "Clients from these networks use this identity", Fallback::Nothing),
    key(
        "identities.proxy_user",
        Kind::Text,
        "NAME",
        "Clients that log on to the gateway with this name (by Basic, as in http://NAME:PASSWORD@gateway:3128) use this identity",
        Fallback::Nothing,
    ),
    key(
        "identities.proxy_password_file",
        Kind::Text,
        "FILE",
        "A file with the password for `proxy_user`",
        Fallback::Nothing,
    ),
    key(
        "upstreams.name",
        Kind::Text,
        "NAME",
        "The name by which logs and metrics refer to it. Default: its first address",
        Fallback::Nothing,
    ),
    key(
        "upstreams.address",
        Kind::List,
        "HOST:PORT",
        "Its addresses. If one accepts no connection, the next is used",
        Fallback::Required("name the proxy"),
    ),
    key(
        "upstreams.group",
        Kind::Text,
        "NAME",
        "The group that routes refer to. Requests that match no route use the group of the first upstream",
        Fallback::Value(|| "default".into()),
    ),
    key(
        "upstreams.weight",
        Kind::Integer,
        "NUMBER",
        "Its share of the tunnels with `order = \"balance\"`, from 1 to 1000",
        Fallback::Value(|| "1".into()),
    ),
    key(
        "upstreams.identity",
        Kind::Text,
        "NAME",
        "The identity for clients that have none of their own. Default: the first identity that is for everybody",
        Fallback::Nothing,
    ),
    key(
        "upstreams.first_leg",
        Kind::Text,
        "negotiate|plain",
        "Like `first_leg`, which is the default",
        Fallback::Nothing,
    ),
    key(
        "upstreams.auth",
        Kind::List,
        "kerberos|ntlm",
        "The mechanisms that may be used here, of those that the identity may use. Default: all of them",
        Fallback::Nothing,
    ),
    key("upstreams.spn", Kind::Text, "SERVICE/HOST", "Like `spn`, which is the default", Fallback::Nothing),
    key("upstreams.warm", Kind::IntegerOrAuto, "auto|NUMBER", "Like `warm`, which is the default", Fallback::Nothing),
    key("upstreams.keep", Kind::Integer, "NUMBER", "Like `keep`, which is the default", Fallback::Nothing),
    key(
        "routes.host",
        Kind::List,
        "HOST",
        "Destinations by name: example.com (that host only), .example.com (all hosts below it), or a glob with *",
        Fallback::Nothing,
    ),
    key(
        "routes.network",
        Kind::List,
        "CIDR",
        "Destinations by address, for requests that contain an address instead of a name",
        Fallback::Nothing,
    ),
    key(
        "routes.port",
        Kind::List,
        "PORT",
        "Destinations by port: single ports or ranges such as 8000-8999",
        Fallback::Nothing,
    ),
    key(
        "routes.to",
        Kind::Text,
        "GROUP|direct|deny",
        "Where to send the request: through the upstreams of this group, directly to the origin, or nowhere (403)",
        Fallback::Required("say where the route leads"),
    ),
];

const fn key(name: &'static str, kind: Kind, value_name: &'static str, help: &'static str, default: Fallback) -> Key {
    Key { name, flag: "", places: Places::Table, kind, value_name, heading: "", help, default }
}
