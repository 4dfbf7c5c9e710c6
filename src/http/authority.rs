//! Host and port of a request target (RFC 3986 §3.2, RFC 9112 §3.2.3).

use super::start_line::table_of;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// The longest host name accepted, in bytes (RFC 1035 §2.3.4).
pub const HOST_NAME_LIMIT_BYTES: usize = 255;

/// Why a text is not a valid authority. The error contains no bytes from the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// `user:password@`: deprecated, and a way to disguise a host (RFC 9110 §4.2.4).
    #[error("the authority contains user information")]
    UserInfo,
    /// A CONNECT target must include the port (RFC 9110 §9.3.6).
    #[error("the authority has no port")]
    MissingPort,
    /// Not a decimal number from 1 to 65535 without leading zeros.
    #[error("the port is not a decimal number from 1 to 65535")]
    InvalidPort,
    /// There is no host before the port.
    #[error("the host is empty")]
    EmptyHost,
    /// Longer than [`HOST_NAME_LIMIT_BYTES`].
    #[error("the host name is longer than {HOST_NAME_LIMIT_BYTES} bytes")]
    HostTooLong,
    /// A character other than a letter, a digit, `-`, `.` or `_`, or an empty label.
    #[error("the host is neither an IP address nor a name of letters, digits, '-', '.' and '_'")]
    InvalidHost,
    /// `127.1`, `0x7f000001`, `0177.0.0.1`: resolvers read these as addresses, filters do not.
    #[error("the host ends in a number but is not a dotted-quad IPv4 address")]
    AmbiguousIpv4,
    /// The text in brackets is not an IPv6 address. Zone identifiers are not allowed.
    #[error("the host in brackets is not an IPv6 address without a zone")]
    InvalidIpv6,
}

/// A host as the client wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Host<'b> {
    /// A non-empty name of at most [`HOST_NAME_LIMIT_BYTES`], in the client's letter case. It may end in a dot.
    Name(&'b str),
    /// A dotted-quad address.
    V4(Ipv4Addr),
    /// An address that was written in brackets.
    V6(Ipv6Addr),
}

impl<'b> Host<'b> {
    /// Parses a host that stands alone, as protocols other than HTTP send it: an IPv6 address has no brackets.
    ///
    /// # Errors
    /// [`AuthorityError`] if it is neither an address nor a valid name.
    pub fn parse(text: &'b str) -> Result<Self, AuthorityError> {
        if text.starts_with('[') {
            return Err(AuthorityError::InvalidHost);
        }
        // Most are names, which have no colon.
        match text.contains(':').then(|| text.parse()) {
            Some(Ok(address)) => Ok(Host::V6(address)),
            _ => parse_host(text),
        }
    }
}

/// Writes IPv6 addresses in brackets.
impl fmt::Display for Host<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::V4(address) => address.fmt(f),
            Self::V6(address) => write!(f, "[{address}]"),
        }
    }
}

/// A host and a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Authority<'b> {
    /// The host.
    pub host: Host<'b>,
    /// 1 to 65535.
    pub port: u16,
}

impl fmt::Display for Authority<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl<'b> Authority<'b> {
    /// What it displays. For a name, which most hosts are, it is put together without `fmt`.
    pub fn to_text(&self) -> Arc<str> {
        let name = match self.host {
            Host::Name(name) if name.len() <= HOST_NAME_LIMIT_BYTES => name.as_bytes(),
            _ => return self.to_string().into(),
        };
        let (mut room, mut digits) = ([b':'; HOST_NAME_LIMIT_BYTES + ":65535".len()], itoa::Buffer::new());
        let (port_at, port) = (name.len() + 1, digits.format(self.port));
        room[..name.len()].copy_from_slice(name);
        room[port_at..port_at + port.len()].copy_from_slice(port.as_bytes());
        str::from_utf8(&room[..port_at + port.len()]).unwrap_or_default().into()
    }

    /// Appends what it displays.
    pub fn append_to(&self, text: &mut String) {
        match self.host {
            Host::Name(name) => {
                text.push_str(name);
                text.push(':');
                text.push_str(itoa::Buffer::new().format(self.port));
            }
            Host::V4(_) | Host::V6(_) => text.push_str(&self.to_string()),
        }
    }

    /// The authority of an address.
    pub fn of(address: SocketAddr) -> Authority<'static> {
        let host = match address {
            SocketAddr::V4(address) => Host::V4(*address.ip()),
            SocketAddr::V6(address) => Host::V6(*address.ip()),
        };
        Authority { host, port: address.port() }
    }

    /// Parses `host:port`, the target of a CONNECT (RFC 9112 §3.2.3). The port is required.
    ///
    /// # Errors
    /// [`AuthorityError`] if either part is invalid or the port is missing.
    pub fn parse(text: &'b str) -> Result<Self, AuthorityError> {
        let (host, port) = split(text)?;
        Ok(Self { port: parse_port(port.ok_or(AuthorityError::MissingPort)?)?, host: parse_host(host)? })
    }

    /// Parses `host[:port]`, the authority of an absolute-form target (RFC 3986 §3.2).
    ///
    /// # Errors
    /// [`AuthorityError`], but not [`AuthorityError::MissingPort`].
    pub fn parse_with_default_port(text: &'b str, default_port: u16) -> Result<Self, AuthorityError> {
        let (host, port) = split(text)?;
        Ok(Self { port: port.map_or(Ok(default_port), parse_port)?, host: parse_host(host)? })
    }
}

fn split(text: &str) -> Result<(&str, Option<&str>), AuthorityError> {
    if text.starts_with('[') && !text.contains('@') {
        let (host, rest) = text.split_once(']').ok_or(AuthorityError::InvalidIpv6)?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(AuthorityError::InvalidHost),
        };
    }
    let end = text.bytes().position(|byte| !IS_NAME_BYTE[usize::from(byte)]).unwrap_or(text.len());
    let (host, rest) = text.split_at(end);
    match rest.strip_prefix(':') {
        None if rest.is_empty() => Ok((host, None)),
        _ if rest.contains('@') => Err(AuthorityError::UserInfo),
        Some(port) => Ok((host, Some(port))),
        // Not a host: the colon may follow later.
        None => Ok(text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)))),
    }
}

fn parse_port(text: &str) -> Result<u16, AuthorityError> {
    // `u16::from_str` alone would accept a sign.
    let decimal = text.bytes().all(|byte| byte.is_ascii_digit());
    if !decimal || text.starts_with('0') {
        return Err(AuthorityError::InvalidPort);
    }
    text.parse().map_err(|_| AuthorityError::InvalidPort)
}

/// A bracketed address still has its opening bracket; [`split`] has removed the closing one.
fn parse_host(text: &str) -> Result<Host<'_>, AuthorityError> {
    if let Some(address) = text.strip_prefix('[') {
        let address = address.parse().map_err(|_| AuthorityError::InvalidIpv6)?;
        return Ok(Host::V6(address));
    }
    if text.is_empty() {
        return Err(AuthorityError::EmptyHost);
    }
    if text.len() > HOST_NAME_LIMIT_BYTES {
        return Err(AuthorityError::HostTooLong);
    }
    let (mut label_start, mut last_label) = (0, 0..0);
    for (place, byte) in text.bytes().enumerate() {
        if !IS_NAME_BYTE[usize::from(byte)] || (byte == b'.' && place == label_start) {
            return Err(AuthorityError::InvalidHost);
        }
        if byte == b'.' {
            last_label = label_start..place;
            label_start = place + 1;
        }
    }
    // A final dot ends the last label.
    if label_start < text.len() {
        last_label = label_start..text.len();
    }
    let last_label = text.get(last_label).unwrap_or_default();
    if !is_number(last_label) {
        return Ok(Host::Name(text));
    }
    text.parse().map(Host::V4).map_err(|_| AuthorityError::AmbiguousIpv4)
}

/// The bytes of a host name.
const IS_NAME_BYTE: [bool; 256] = table_of(b"-._");

/// Whether a resolver may read `label` as a number: decimal, octal, or hexadecimal with `0x`.
fn is_number(label: &str) -> bool {
    let hexadecimal = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    match hexadecimal {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => label.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use AuthorityError as E;

    #[test]
    fn names_and_addresses_are_distinguished() {
        for (text, host, port) in [
            ("server.domain.net:443", Host::Name("server.domain.net"), 443),
            ("A_b-c.:1", Host::Name("A_b-c."), 1),
            ("1password.com:65535", Host::Name("1password.com"), 65535),
            ("10.0.0.1:8080", Host::V4(Ipv4Addr::new(10, 0, 0, 1)), 8080),
            ("[::1]:443", Host::V6(Ipv6Addr::LOCALHOST), 443),
        ] {
            let authority = Authority::parse(text).unwrap();
            assert_eq!(authority, Authority { host, port });
            assert_eq!(authority.to_string(), text);
            assert_eq!(&*authority.to_text(), text);
        }
    }

    #[test]
    fn invalid_and_ambiguous_authorities_are_rejected() {
        for (text, error) in [
            ("host", E::MissingPort),
            ("[::1]", E::MissingPort),
            ("host:", E::InvalidPort),
            ("host:0", E::InvalidPort),
            ("host:00443", E::InvalidPort),
            ("host:65536", E::InvalidPort),
            ("host:+443", E::InvalidPort),
            ("host:-1", E::InvalidPort),
            ("host:443/", E::InvalidPort),
            ("host:4:43", E::InvalidPort),
            ("::1:443", E::InvalidPort),
            ("user@host:443", E::UserInfo),
            ("user:pw@host:443", E::UserInfo),
            (":443", E::EmptyHost),
            ("", E::MissingPort),
            ("ho st:443", E::InvalidHost),
            ("host/path:443", E::InvalidHost),
            ("h%6fst:443", E::InvalidHost),
            ("a..b:443", E::InvalidHost),
            ("a..:443", E::InvalidHost),
            ("..:443", E::InvalidHost),
            (".a:443", E::InvalidHost),
            (".:443", E::InvalidHost),
            ("h\u{f6}st:443", E::InvalidHost),
            ("127.1:443", E::AmbiguousIpv4),
            ("0177.0.0.1:443", E::AmbiguousIpv4),
            ("2130706433:443", E::AmbiguousIpv4),
            ("0x7f000001:443", E::AmbiguousIpv4),
            ("a.0x1:443", E::AmbiguousIpv4),
            ("256.0.0.1:443", E::AmbiguousIpv4),
            ("10.0.0.1.:443", E::AmbiguousIpv4),
            ("[::1%25eth0]:443", E::InvalidIpv6),
            ("[fe80::1%eth0]:443", E::InvalidIpv6),
            ("[::1:443", E::InvalidIpv6),
            ("[]:443", E::InvalidIpv6),
            ("[10.0.0.1]:443", E::InvalidIpv6),
            ("[::1]x:443", E::InvalidHost),
        ] {
            assert_eq!(Authority::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn host_names_are_limited_in_length() {
        let name = "a".repeat(HOST_NAME_LIMIT_BYTES);
        assert!(Authority::parse(&format!("{name}:1")).is_ok());
        assert_eq!(Authority::parse(&format!("{name}a:1")), Err(E::HostTooLong));
    }

    #[test]
    fn the_default_port_replaces_only_a_missing_port() {
        let authority = Authority::parse_with_default_port("host", 80).unwrap();
        assert_eq!(authority.port, 80);
        let authority = Authority::parse_with_default_port("[::1]:81", 80).unwrap();
        assert_eq!(authority.port, 81);
        assert_eq!(Authority::parse_with_default_port("host:", 80), Err(E::InvalidPort));
    }
}
