//! The name of an upstream as the operator writes it.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// `host:port`; an IPv6 address stands in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    host: String,
    port: u16,
}

/// Why a text is no `host:port`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HostPortError {
    /// There is no colon with a port behind it.
    #[error("{0:?} has no port; write HOST:PORT, for example proxy.corp.example:8080")]
    NoPort(String),
    /// The port is not a number from 1 to 65535.
    #[error("{1:?} in {0:?} is no port; it must be a number from 1 to 65535")]
    BadPort(String, String),
    /// The host is empty or has characters that no host name has.
    #[error("{0:?} has no valid host; write HOST:PORT, and an IPv6 address in brackets: [2001:db8::1]:8080")]
    BadHost(String),
}

impl HostPort {
    /// The name or address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The form in which people copy a proxy's address from HTTPS_PROXY.
        let bare = text.strip_prefix("http://").unwrap_or(text);
        let bare = bare.strip_suffix('/').unwrap_or(bare);
        let (host, port) = bare.rsplit_once(':').ok_or_else(|| HostPortError::NoPort(text.into()))?;
        let number = port.parse().ok().filter(|number| *number != 0 && port.bytes().all(|byte| byte.is_ascii_digit()));
        let port = number.ok_or_else(|| HostPortError::BadPort(text.into(), port.into()))?;
        let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(address) => address.parse::<Ipv6Addr>().ok().map(|address| address.to_string()),
            None => is_name(host).then(|| host.to_owned()),
        };
        let host = host.ok_or_else(|| HostPortError::BadHost(text.into()))?;
        Ok(HostPort { host, port })
    }
}

fn is_name(host: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !host.is_empty() && host.len() <= 253 && host.bytes().all(allowed)
}

impl fmt::Display for HostPort {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(out, "[{}]:{}", self.host, self.port),
            false => write!(out, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_of_both_families_are_read() {
        for (text, host, port) in [
            ("proxy.corp:8080", "proxy.corp", 8080),
            ("10.1.2.3:3128", "10.1.2.3", 3128),
            ("[2001:db8::1]:80", "2001:db8::1", 80),
            ("http://proxy.corp:8080/", "proxy.corp", 8080),
        ] {
            let parsed: HostPort = text.parse().unwrap();
            assert_eq!((parsed.host(), parsed.port()), (host, port), "{text}");
        }
        assert_eq!("[2001:db8::1]:80".parse::<HostPort>().unwrap().to_string(), "[2001:db8::1]:80");
    }

    #[test]
    fn what_is_no_host_and_port_says_why() {
        for text in [
            "proxy.corp",
            "proxy.corp:",
            "proxy.corp:0",
            "proxy.corp:65536",
            "proxy.corp:+1",
            ":80",
            "a b:80",
            "::1:80",
            "[::1:80",
        ] {
            let error = text.parse::<HostPort>().expect_err(text).to_string();
            assert!(error.contains(text), "{error}");
        }
    }
}
