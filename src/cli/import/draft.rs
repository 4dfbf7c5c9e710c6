//! The new configuration while it is being made.

use std::net::SocketAddr;

use ipnet::IpNet;
use zeroize::Zeroizing;

use super::report::Outcome;
use crate::config::redact;
use crate::upstream::HostPort;

/// A secret as the old configuration has it.
pub(super) enum Secret {
    Password(Zeroizing<String>),
    /// The NT hash, in hexadecimal digits.
    NtHash(Zeroizing<String>),
}

/// A further address, with what is served there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listener {
    pub address: String,
    /// The fixed destination; without one, the address is for SOCKS.
    pub target: Option<String>,
}

/// The settings.
#[derive(Default)]
pub(super) struct Draft {
    pub upstreams: Vec<String>,
    pub user: Option<String>,
    pub domain: Option<String>,
    pub secret: Option<Secret>,
    pub method: Option<&'static str>,
    pub workstation: Option<String>,
    pub allow_basic: bool,
    pub listen: Vec<String>,
    pub listeners: Vec<Listener>,
    pub allow_clients: Vec<IpNet>,
    /// Hosts that are reached directly.
    pub direct_hosts: Vec<String>,
    /// Networks that are reached directly.
    pub direct_networks: Vec<IpNet>,
    pub idle: Option<String>,
    pub connect: Option<String>,
}

impl Draft {
    /// The account: the user with the domain, where a name can contain it.
    pub fn account(&self) -> Option<String> {
        let user = self.user.as_deref()?;
        let domain = self.domain.as_deref().unwrap_or_default();
        let is_plain = !user.contains(['\\', '@']) && !domain.is_empty();
        Some(if is_plain { format!("{domain}\\{user}") } else { user.to_owned() })
    }

    /// Adds an upstream, and says what became of it. An account in its URL is left out.
    pub fn upstream(&mut self, text: &str) -> (Outcome, String) {
        let plain = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let (has_account, address) = plain.rsplit_once('@').map_or((false, plain), |(_, address)| (true, address));
        if address.parse::<HostPort>().is_err() {
            return (Outcome::Decide, format!("{} is not HOST:PORT; set upstream", redact::shown(text)));
        }
        self.upstreams.push(address.to_owned());
        match has_account {
            true => (Outcome::Decide, format!("upstream {address}; the account in the URL is left out, see user")),
            false => (Outcome::Imported, format!("upstream {address}")),
        }
    }

    /// Adds an address to listen on, and says what became of it.
    pub fn listen(&mut self, address: String) -> (Outcome, String) {
        if address.parse::<SocketAddr>().is_err() {
            return (Outcome::Decide, format!("{} is not ADDRESS:PORT; set listen", redact::shown(&address)));
        }
        let text = format!("listen {address}");
        self.listen.push(address);
        (Outcome::Imported, text)
    }

    /// Adds a listener, and says what became of it.
    pub fn listener(&mut self, address: String, target: Option<String>) -> (Outcome, String) {
        let is_target = target.as_ref().is_none_or(|target| target.parse::<HostPort>().is_ok());
        if address.parse::<SocketAddr>().is_err() || !is_target {
            return (Outcome::Decide, "it is not an address and a destination; write it as [[listeners]]".to_owned());
        }
        let text = match &target {
            Some(target) => format!("[[listeners]] {address} to {target}"),
            None => format!("[[listeners]] {address}; `listen` takes SOCKS as well"),
        };
        self.listeners.push(Listener { address, target });
        (Outcome::Imported, text)
    }

    /// Adds a pattern of a direct destination; false if it cannot be one.
    pub fn direct(&mut self, pattern: &str) -> bool {
        if let Some(networks) = super::networks::pattern(pattern) {
            self.direct_networks.extend(networks);
            return true;
        }
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.*".contains(letter);
        let is_host =
            pattern.contains(|letter| letter != '.') && pattern.chars().all(is_plain) && !pattern.contains("..");
        if is_host {
            self.direct_hosts.push(pattern.to_owned());
        }
        is_host
    }
}
