//! A gateway inside the test's own process, for what needs no process of its own.

use std::net::SocketAddr;

use ntlm_gateway::config::{self, Config, Inputs, Setting, Settings, Source, keys, secrets};
use ntlm_gateway::gateway::Gateway;

use super::client::ask;
use super::scratch::Scratch;

/// Domain, user and password that [`gateway`] proves.
pub const ACCOUNT: (&str, &str, &str) = ("CORP", "alice", "SecREt01");

/// Starts a gateway on free ports of loopback in front of `upstream`, with further settings by name.
///
/// # Panics
/// When the settings are wrong or the gateway does not start.
pub fn gateway(upstream: &str, further: &[(&str, &str)]) -> Gateway {
    let config = config::load(&inputs(upstream, further)).unwrap_or_else(|errors| panic!("{errors}"));
    Gateway::start(&config, || {}).unwrap_or_else(|error| panic!("{error}"))
}

/// The settings of [`gateway`].
///
/// # Panics
/// When they are wrong.
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

/// Starts a gateway on free ports of loopback from a configuration file's text. What the text does not say at its top is as for
/// [`gateway`], but for the upstream and the account; the environment has the password of the plain account.
///
/// # Panics
/// When the text is wrong or the gateway does not start.
pub fn gateway_of(text: &str) -> Gateway {
    Gateway::start(&config_of(text), || {}).unwrap_or_else(|error| panic!("{error}"))
}

/// The configuration that [`gateway_of`] starts with.
///
/// # Panics
/// When the text is wrong.
pub fn config_of(text: &str) -> Config {
    let scratch = Scratch::new("config");
    let file = scratch.write("gateway.toml", text).display().to_string();
    let top = text.split("[[").next().unwrap_or_default();
    let is_said = |name: &str| top.lines().any(|line| line.split('=').next().is_some_and(|key| key.trim() == name));
    let given = [
        ("config", file.as_str()),
        ("listen", "127.0.0.1:0"),
        ("admin", "127.0.0.1:0"),
        ("shards", "1"),
        ("max_tunnels", "500"),
    ];
    let mut settings = Settings::default();
    for (name, text) in given.into_iter().filter(|(name, _)| !is_said(name)) {
        let key = keys::find(name).unwrap_or_else(|| panic!("no setting is called {name}"));
        settings.give(key, Setting::new(text.to_owned(), Source::Default));
    }
    let lookup = |name: &str| (name == secrets::password_variable()).then(|| ACCOUNT.2.into());
    let inputs = Inputs::new(settings, lookup).unwrap_or_else(|errors| panic!("{errors}"));
    config::load(&inputs).unwrap_or_else(|errors| panic!("{errors}"))
}

/// The status of its `/readyz`, and the line that it says.
///
/// # Panics
/// When the administration address does not answer.
pub fn readyz(gateway: &Gateway) -> (u16, String) {
    let mut answer = ask(gateway.admin_address(), b"GET /readyz HTTP/1.0\r\n\r\n").expect("an answer");
    let mut line = String::new();
    std::io::Read::read_to_string(&mut answer.stream, &mut line).expect("a line");
    (answer.status(), line)
}

/// The sum of a metric's samples that carry all of `labels`; 0 when there is none.
///
/// # Panics
/// When the metrics cannot be written.
pub fn metric(gateway: &Gateway, name: &str, labels: &[(&str, &str)]) -> f64 {
    super::metrics::sum(&metrics(gateway), &format!("ntlm_gateway_{name}"), labels).unwrap_or_default()
}

/// Where its clients go.
///
/// # Panics
/// When it listens nowhere.
pub fn address(gateway: &Gateway) -> SocketAddr {
    *gateway.listening().first().expect("a listening address")
}

/// All its metrics as text.
///
/// # Panics
/// When they cannot be written.
pub fn metrics(gateway: &Gateway) -> String {
    String::from_utf8(gateway.metrics().encode().expect("metrics")).expect("text")
}

/// Ends it and checks that nothing is left.
///
/// # Panics
/// When a shard failed, or a pipe or tunnel is still counted.
pub fn stop(gateway: Gateway) {
    gateway.stop();
    let metrics = std::sync::Arc::clone(gateway.metrics());
    gateway.join().expect("every shard ends well");
    assert_eq!(metrics.tunnels_open.get(), 0, "tunnels left");
    assert_eq!(metrics.tunnels_relaying.get(), 0, "relaying tunnels left");
}
