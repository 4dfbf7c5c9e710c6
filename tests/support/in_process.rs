//! A gateway inside the test's own process, for what needs no process of its own.

use std::net::SocketAddr;

use ntlm_gateway::config::{self, Origin, Setting, Settings, Sources, keys, secrets};
use ntlm_gateway::gateway::Gateway;

/// Domain, user and password that [`gateway`] proves.
pub const ACCOUNT: (&str, &str, &str) = ("CORP", "alice", "SecREt01");

/// Starts a gateway on free ports of loopback in front of `upstream`, with further settings by name.
///
/// # Panics
/// When the settings are wrong or the gateway does not start.
pub fn gateway(upstream: &str, further: &[(&str, &str)]) -> Gateway {
    let config = config::load(&sources(upstream, further)).unwrap_or_else(|errors| panic!("{errors}"));
    Gateway::start(&config, || {}).unwrap_or_else(|error| panic!("{error}"))
}

/// The settings of [`gateway`].
///
/// # Panics
/// When they are wrong.
pub fn sources(upstream: &str, further: &[(&str, &str)]) -> Sources {
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
        settings.give(key, Setting { text: (*text).to_owned(), origin: Origin::Default });
    }
    let lookup = |name: &str| (name == secrets::password_variable()).then(|| password.into());
    Sources::new(settings, lookup).unwrap_or_else(|errors| panic!("{errors}"))
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
