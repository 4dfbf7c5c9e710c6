//! The address of an upstream as the operator writes it.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// A host, which is a name or an IP address, and a port. Parsed from `host:port`, with an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    host: String,
    port: u16,
}

/// Why a text is not a valid `host:port`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HostPortError {
    /// There is no colon followed by a port.
    #[error("{0:?} has no port; write HOST:PORT, for example proxy.corp.example:8080")]
    NoPort(String),
    /// The port is not a number from 1 to 65535.
    #[error("{1:?} in {0:?} is not a port; it must be a number from 1 to 65535")]
    BadPort(String, String),
    /// The host is empty, too long, or has characters that are not allowed in a host name.
    #[error("{0:?} has no valid host; write HOST:PORT, and an IPv6 address in brackets: [2001:db8::1]:8080")]
    BadHost(String),
    /// An `https://` URL where there is no choice.
    #[error("{0:?}: write HOST:PORT only; https:// belongs in front of the address of an upstream")]
    Tls(String),
    /// A URL with a scheme other than `http`.
    #[error("{text:?}: the scheme {scheme} is not supported, only HTTP proxies are; write HOST:PORT")]
    Scheme {
        /// The whole text.
        text: String,
        /// The part before `://`.
        scheme: String,
    },
    /// A URL with more than a host and a port.
    #[error("{0:?} has a path after the port; write HOST:PORT only")]
    Path(String),
    /// There is something before an `@`. It is not kept here, because it is likely to be a password.
    #[error(
        "has a user name or password before the @, which is not shown here; write HOST:PORT only, name the account with \
         user, and put its password into a file for password_file"
    )]
    Credentials,
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

    /// The address of a proxy, and whether it is reached with TLS: it then begins with `https://`, and the port is 443
    /// if none is given, as in every URL.
    ///
    /// # Errors
    /// [`HostPortError`].
    pub fn of_proxy(text: &str) -> Result<(HostPort, bool), HostPortError> {
        if text.contains('@') {
            return Err(HostPortError::Credentials);
        }
        let Some((scheme, rest)) = text.split_once("://") else { return Ok((text.parse()?, false)) };
        if !scheme.eq_ignore_ascii_case("https") {
            return Ok((text.parse()?, false));
        }
        let has_port = rest.trim_end_matches('/').rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
        let whole = match has_port {
            true => rest.to_owned(),
            false => match rest.split_once('/') {
                Some((host, path)) => format!("{host}:{HTTPS_PORT}/{path}"),
                None => format!("{rest}:{HTTPS_PORT}"),
            },
        };
        Ok((whole.parse()?, true))
    }
}

/// The default port of `https` URLs.
const HTTPS_PORT: u16 = 443;

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Comes first, because all other errors repeat the text.
        if text.contains('@') {
            return Err(HostPortError::Credentials);
        }
        // People copy URLs from HTTPS_PROXY.
        let bare = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => return Err(HostPortError::Tls(text.into())),
            Some((scheme, _)) => return Err(HostPortError::Scheme { text: text.into(), scheme: scheme.into() }),
            None => text,
        };
        let bare = bare.strip_suffix('/').unwrap_or(bare);
        if bare.contains('/') {
            return Err(HostPortError::Path(text.into()));
        }
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
    fn names_and_addresses_of_both_families_are_parsed() {
        for (text, host, port) in [
            ("proxy.corp:8080", "proxy.corp", 8080),
            ("10.1.2.3:3128", "10.1.2.3", 3128),
            ("[2001:db8::1]:80", "2001:db8::1", 80),
            ("http://proxy.corp:8080/", "proxy.corp", 8080),
            ("HTTP://proxy.corp:8080", "proxy.corp", 8080),
        ] {
            let parsed: HostPort = text.parse().unwrap();
            assert_eq!((parsed.host(), parsed.port()), (host, port), "{text}");
        }
        assert_eq!("[2001:db8::1]:80".parse::<HostPort>().unwrap().to_string(), "[2001:db8::1]:80");
    }

    #[test]
    fn an_invalid_host_and_port_is_named_in_the_error() {
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

    #[test]
    fn a_url_is_rejected_for_its_scheme_or_path_not_for_its_host() {
        for (text, expected) in [
            ("https://proxy.corp:8443", "https:// belongs in front of the address of an upstream"),
            ("HTTPS://proxy.corp", "https:// belongs in front of the address of an upstream"),
            ("socks5://proxy.corp:1080", "the scheme socks5 is not supported"),
            ("http://proxy.corp:8080/proxy.pac", "has a path after the port"),
        ] {
            let error = text.parse::<HostPort>().expect_err(text).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_proxy_with_https_is_reached_with_tls_by_default_on_port_443() {
        for (text, shown, is_tls) in [
            ("https://proxy.corp:8443", "proxy.corp:8443", true),
            ("HTTPS://proxy.corp:8443/", "proxy.corp:8443", true),
            ("https://proxy.corp", "proxy.corp:443", true),
            ("https://proxy.corp/", "proxy.corp:443", true),
            ("https://[2001:db8::1]", "[2001:db8::1]:443", true),
            ("https://[2001:db8::1]:8443", "[2001:db8::1]:8443", true),
            ("http://proxy.corp:8080", "proxy.corp:8080", false),
            ("proxy.corp:8080", "proxy.corp:8080", false),
        ] {
            let (host, tls) = HostPort::of_proxy(text).unwrap();
            assert_eq!((host.to_string().as_str(), tls), (shown, is_tls), "{text}");
        }
        for (text, expected) in [
            ("https://", "no valid host"),
            ("https://proxy.corp:x", "is not a port"),
            ("https://proxy.corp:", "is not a port"),
            ("https://proxy.corp/path", "has a path"),
            ("https://proxy.corp:8443/path", "has a path"),
            ("https://user:s3cret@proxy.corp", "before the @"),
            ("http://proxy.corp", "has no port"),
            ("socks5://proxy.corp:1080", "the scheme socks5 is not supported"),
        ] {
            let error = HostPort::of_proxy(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn errors_never_contain_what_precedes_an_at_sign() {
        for text in [r"http://CORP\svc:s3cret@proxy:8080", "s3cret@proxy:8080", "https://u:s3@cret@proxy", "u:s3cret@"]
        {
            let error = text.parse::<HostPort>().expect_err(text);
            let shown = format!("{error} {error:?}");
            assert!(shown.contains("Credentials") && !shown.contains("s3"), "{shown}");
        }
    }
}
