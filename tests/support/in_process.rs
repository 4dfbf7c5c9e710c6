//! A gateway inside the test's own process.

use std::net::SocketAddr;

use ntlm_gateway::config::{self, Config, Inputs, Setting, Settings, Source, keys, secrets};
use ntlm_gateway::gateway::Gateway;
use ntlm_gateway::stub::{StubOptions, StubServer};

use super::client::ask;
use super::scratch::Scratch;

/// The domain, user and password with which [`gateway`] authenticates.
pub const ACCOUNT: (&str, &str, &str) = ("CORP", "alice", "SecREt01");

/// A stub that knows [`ACCOUNT`] and, in the same domain, `ci` with the password `ci-Secr3t`.
///
/// # Panics
/// If it does not start.
pub fn stub_with_ci() -> StubServer {
    let (domain, user, password) = ACCOUNT;
    let options = StubOptions::default().account(domain, user, password).account(domain, "ci", "ci-Secr3t");
    StubServer::start(options).expect("a stub")
}

/// Starts a gateway on free loopback ports that uses `upstream`, with further settings by name.
///
/// # Panics
/// If the settings are invalid or the gateway does not start.
pub fn gateway(upstream: &str, further: &[(&str, &str)]) -> Gateway {
    let config = config::load(&inputs(upstream, further)).unwrap_or_else(|errors| panic!("{errors}"));
    Gateway::start(&config, || {}).unwrap_or_else(|error| panic!("{error}"))
}

/// The settings of [`gateway`].
///
/// # Panics
/// If they are invalid.
pub fn inputs(upstream: &str, further: &[(&str, &str)]) -> Inputs {
    let (domain, user, password) = ACCOUNT;
    let account = format!("{domain}\\{user}");
    let given = [
        ("listen", "127.0.0.1:0"),
        ("admin", "127.0.0.1:0"),
        ("upstream", upstream),
        ("user", &account),
        ("shards", "1"),
        ("max_tunnels", "500"),
    ];
    let mut settings = Settings::default();
    for (name, text) in given.iter().chain(further) {
        let key = keys::find(name).unwrap_or_else(|| panic!("no setting is called {name}"));
        settings.give(key, Setting::new((*text).to_owned(), Source::Default));
    }
    let lookup = |name: &str| (name == secrets::password_variable()).then(|| password.into());
    Inputs::new(settings, lookup).unwrap_or_else(|errors| panic!("{errors}"))
}

/// Starts a gateway on free loopback ports from the text of a configuration file. Top-level settings that the text does
/// not contain are as for [`gateway`], except for the upstream and the account. The environment contains the password.
///
/// # Panics
/// If the text is invalid or the gateway does not start.
pub fn gateway_of(text: &str) -> Gateway {
    Gateway::start(&config_of(text), || {}).unwrap_or_else(|error| panic!("{error}"))
}

/// The configuration that [`gateway_of`] starts with.
///
/// # Panics
/// If the text is invalid.
pub fn config_of(text: &str) -> Config {
    let scratch = Scratch::new("config");
    let file = scratch.write("gateway.toml", text).display().to_string();
    let top = text.split("[[").next().unwrap_or_default();
    let is_set = |name: &str| top.lines().any(|line| line.split('=').next().is_some_and(|key| key.trim() == name));
    let given = [
        ("config", file.as_str()),
        ("listen", "127.0.0.1:0"),
        ("admin", "127.0.0.1:0"),
        ("shards", "1"),
        ("max_tunnels", "500"),
    ];
    let mut settings = Settings::default();
    for (name, text) in given.into_iter().filter(|(name, _)| !is_set(name)) {
        let key = keys::find(name).unwrap_or_else(|| panic!("no setting is called {name}"));
        settings.give(key, Setting::new(text.to_owned(), Source::Default));
    }
    let lookup = |name: &str| (name == secrets::password_variable()).then(|| ACCOUNT.2.into());
    let inputs = Inputs::new(settings, lookup).unwrap_or_else(|errors| panic!("{errors}"));
    config::load(&inputs).unwrap_or_else(|errors| panic!("{errors}"))
}

/// The status and the line of its `/readyz`.
///
/// # Panics
/// If the admin address does not answer.
pub fn readyz(gateway: &Gateway) -> (u16, String) {
    let mut answer = ask(gateway.admin_address(), b"GET /readyz HTTP/1.0\r\n\r\n").expect("an answer");
    let mut line = String::new();
    std::io::Read::read_to_string(&mut answer.stream, &mut line).expect("a line");
    (answer.status(), line)
}

/// The sum of a metric's samples with all of `labels`; 0 if there is none.
///
/// # Panics
/// If the metrics cannot be encoded.
pub fn metric(gateway: &Gateway, name: &str, labels: &[(&str, &str)]) -> f64 {
    super::metrics::sum(&metrics(gateway), &format!("ntlm_gateway_{name}"), labels).unwrap_or_default()
}

/// Its first listening address.
///
/// # Panics
/// If it has no listener.
pub fn address(gateway: &Gateway) -> SocketAddr {
    *gateway.listening().first().expect("a listening address")
}

/// All its metrics as text.
///
/// # Panics
/// If they cannot be encoded.
pub fn metrics(gateway: &Gateway) -> String {
    String::from_utf8(gateway.metrics().encode().expect("metrics")).expect("text")
}

/// Stops it and checks that no tunnel is left.
///
/// # Panics
/// If a shard failed, or a tunnel is still counted.
pub fn stop(gateway: Gateway) {
    gateway.stop();
    let metrics = std::sync::Arc::clone(gateway.metrics());
    gateway.join().expect("every shard ends well");
    assert_eq!(metrics.tunnels_open.get(), 0, "tunnels left");
    assert_eq!(metrics.tunnels_relaying.get(), 0, "relaying tunnels left");
}
