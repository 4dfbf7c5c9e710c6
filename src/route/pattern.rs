//! Patterns for destinations.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// Why a text is not a valid pattern. It contains the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Not a host pattern.
    #[error(
        "{0:?} is not a host pattern; use a name (example.com), a suffix (.example.com) or a glob \
         (*.build-*.example.com)"
    )]
    Host(String),
    /// Not a port or a range of ports.
    #[error("{0:?} is not a port; use a number from 1 to 65535, or a range such as 8000-8999")]
    Port(String),
    /// Not an entry of NO_PROXY.
    #[error(
        "{0:?} is not an entry of NO_PROXY; use a domain, an address or a network such as 10.0.0.0/8, each with or \
         without :port, or *"
    )]
    NoProxy(String),
}

/// A pattern for host names. Case and a final dot are ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// This host only.
    Exact(Box<str>),
    /// All subdomains of a domain, but not the domain itself. Includes the leading dot.
    Suffix(Box<str>),
    /// `*` matches any number of any characters, including dots.
    Glob(Box<str>),
}

impl HostPattern {
    /// Whether the pattern matches `host`, which must be in lower case and without a final dot or brackets.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        match self {
            HostPattern::Exact(name) => **name == *host,
            HostPattern::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(&**suffix),
            HostPattern::Glob(glob) => glob_matches(glob, host),
        }
    }
}

impl FromStr for HostPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<HostPattern, PatternError> {
        let pattern = text.trim().to_ascii_lowercase();
        let pattern = pattern.strip_suffix('.').unwrap_or(&pattern);
        let pattern = pattern.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(pattern);
        // Destinations are compared in this form, whichever one the pattern has.
        if let Ok(address) = pattern.parse::<IpAddr>() {
            return Ok(HostPattern::Exact(address.to_canonical().to_string().into()));
        }
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.*:".contains(letter);
        let last_label = pattern.trim_start_matches('.');
        if last_label.is_empty() || !pattern.chars().all(is_plain) || pattern.contains("..") {
            return Err(PatternError::Host(text.into()));
        }
        Ok(match pattern {
            glob if glob.contains('*') => HostPattern::Glob(glob.into()),
            suffix if suffix.starts_with('.') => HostPattern::Suffix(suffix.into()),
            name => HostPattern::Exact(name.into()),
        })
    }
}

/// Takes linear time for each star: after a mismatch, only the last star is extended by one character.
fn glob_matches(glob: &str, text: &str) -> bool {
    let (glob, text) = (glob.as_bytes(), text.as_bytes());
    let (mut at, mut seen) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while seen < text.len() {
        if glob.get(at) == Some(&b'*') {
            star = Some((at, seen));
            at += 1;
        } else if glob.get(at) == text.get(seen) {
            at += 1;
            seen += 1;
        } else if let Some((star_at, taken)) = star {
            star = Some((star_at, taken + 1));
            at = star_at + 1;
            seen = taken + 1;
        } else {
            return false;
        }
    }
    glob.get(at..).is_none_or(|rest| rest.iter().all(|byte| *byte == b'*'))
}

/// A range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// The first port, from 1.
    pub from: u16,
    /// The last port, inclusive, not less than the first.
    pub to: u16,
}

impl PortRange {
    /// Whether the range contains the port.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        (self.from..=self.to).contains(&port)
    }
}

impl FromStr for PortRange {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<PortRange, PatternError> {
        let wrong = || PatternError::Port(text.into());
        let port = |digits: &str| {
            let all_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse::<u16>().ok().filter(|port| all_digits && *port != 0).ok_or_else(wrong)
        };
        let (from, to) = text.trim().split_once('-').unwrap_or((text.trim(), text.trim()));
        let range = PortRange { from: port(from.trim())?, to: port(to.trim())? };
        if range.from <= range.to { Ok(range) } else { Err(wrong()) }
    }
}

/// One entry of `NO_PROXY`, in the syntax that curl, Go and Python's requests have in common.
///
/// `example.com` matches that host and its subdomains, `.example.com` and `*.example.com` only the subdomains,
/// `10.0.0.0/8` the addresses of a network, and `*` everything. Each except the last two may end in `:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoProxyEntry {
    host: NoProxyHost,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum NoProxyHost {
    All,
    Domain(Box<str>),
    Below(Box<str>),
    Network(IpNet),
}

impl NoProxyEntry {
    /// Whether the entry matches a destination. `address` is `host` as an address, if it is one.
    #[must_use]
    pub fn matches(&self, host: &str, address: Option<IpAddr>, port: u16) -> bool {
        let is_below = |domain: &str| {
            host.strip_suffix(domain).and_then(|rest| rest.strip_suffix('.')).is_some_and(|rest| !rest.is_empty())
        };
        let host_matches = match &self.host {
            NoProxyHost::All => true,
            NoProxyHost::Domain(domain) => **domain == *host || is_below(domain),
            NoProxyHost::Below(domain) => is_below(domain),
            NoProxyHost::Network(network) => address.is_some_and(|address| network.contains(&address)),
        };
        host_matches && self.port.is_none_or(|wanted| wanted == port)
    }
}

impl FromStr for NoProxyEntry {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<NoProxyEntry, PatternError> {
        let wrong = || PatternError::NoProxy(text.into());
        let entry = text.trim().to_ascii_lowercase();
        if entry == "*" {
            return Ok(NoProxyEntry { host: NoProxyHost::All, port: None });
        }
        if let Ok(network) = entry.parse::<IpNet>() {
            return Ok(NoProxyEntry { host: NoProxyHost::Network(network.trunc()), port: None });
        }
        // An IPv6 address has more than one colon, or is in brackets.
        let (host, port) = match entry.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                let port: PortRange = port.parse().map_err(|_| wrong())?;
                (host, Some(port.from).filter(|_| port.from == port.to).map(Some).ok_or_else(wrong)?)
            }
            _ => (entry.as_str(), None),
        };
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(NoProxyEntry { host: NoProxyHost::Network(IpNet::from(address)), port });
        }
        let domain = host.strip_prefix("*.").or_else(|| host.strip_prefix('.'));
        let below = domain.is_some();
        let host = match domain.unwrap_or(host).parse() {
            Ok(HostPattern::Exact(name)) if below => NoProxyHost::Below(name),
            Ok(HostPattern::Exact(name)) => NoProxyHost::Domain(name),
            _ => return Err(wrong()),
        };
        Ok(NoProxyEntry { host, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(pattern: &str, host: &str) -> bool {
        pattern.parse::<HostPattern>().unwrap().matches(host)
    }

    #[test]
    fn names_suffixes_and_globs_match_as_documented() {
        assert!(host("Example.COM.", "example.com"));
        assert!(!host("example.com", "www.example.com"));
        assert!(host(".example.com", "www.example.com"));
        assert!(!host(".example.com", "example.com"));
        assert!(!host(".example.com", "badexample.com"));
        assert!(host("*.example.com", "a.b.example.com"));
        assert!(host("build-*.example.*", "build-17.example.org"));
        assert!(!host("build-*.example.*", "build.example.org"));
        assert!(host("*", "anything"));
        assert!(host("**a", "bca"));
        assert!(host("2001:db8::*", "2001:db8::7"));
    }

    #[test]
    fn a_glob_with_many_stars_matches_in_reasonable_time() {
        let glob = format!("{}b", "*a".repeat(60));
        assert!(!host(&glob, &"a".repeat(250)));
    }

    #[test]
    fn invalid_patterns_are_rejected() {
        for text in ["", ".", "a b", "a..b", "exämple", "http://example.com", "a/b", "a,b"] {
            assert!(text.parse::<HostPattern>().is_err(), "{text}");
        }
        for text in ["", "0", "65536", "80-", "90-80", "+80", "http"] {
            assert!(text.parse::<PortRange>().is_err(), "{text}");
        }
        for text in ["", ".", "a*b", "host:0", "host:80-90", "http://x"] {
            assert!(text.parse::<NoProxyEntry>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_range_may_be_a_single_port() {
        assert!("443".parse::<PortRange>().unwrap().contains(443));
        assert!("8000-8999".parse::<PortRange>().unwrap().contains(8999));
        assert!(!"8000-8999".parse::<PortRange>().unwrap().contains(9000));
    }

    #[test]
    fn no_proxy_is_interpreted_as_by_other_programs() {
        let matches = |entry: &str, host: &str, port| {
            entry.parse::<NoProxyEntry>().unwrap().matches(host, host.parse().ok(), port)
        };
        assert!(matches("corp.example", "corp.example", 80));
        assert!(matches("corp.example", "git.corp.example", 80));
        assert!(!matches("corp.example", "mycorp.example", 80));
        assert!(matches(".svc", "redis.svc", 6379));
        assert!(!matches(".svc", "svc", 6379));
        assert!(matches("*.svc", "redis.svc", 6379));
        assert!(matches("git.example:8443", "git.example", 8443));
        assert!(!matches("git.example:8443", "git.example", 443));
        assert!(matches("10.0.0.0/8", "10.200.3.4", 1));
        assert!(!matches("10.0.0.0/8", "ten.example", 1));
        assert!(matches("127.0.0.1", "127.0.0.1", 1));
        assert!(matches("[2001:db8::1]:443", "2001:db8::1", 443));
        assert!(matches("2001:db8::1", "2001:db8::1", 8443));
        assert!(matches("*", "whatever", 1));
    }
}
