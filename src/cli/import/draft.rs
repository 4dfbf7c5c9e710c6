//! The new configuration while it is being made.

use ipnet::IpNet;
use zeroize::Zeroizing;

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
