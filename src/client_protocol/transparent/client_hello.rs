//! The server name in a ClientHello (RFC 8446 §4.1.2, RFC 6066 §3). With Encrypted Client Hello this is the outer name,
//! which is the only one that can be seen.

use std::net::IpAddr;

use crate::http::Host;

/// The number of the extension server_name.
const SERVER_NAME: u16 = 0;

/// The type of a host name in that extension.
const HOST_NAME: u8 = 0;

/// What a client calls the server that it wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerName {
    /// By this name, as it was written.
    Name(Box<str>),
    /// By an address, which RFC 6066 does not allow but some clients send.
    Address(IpAddr),
    /// Not at all.
    Absent,
}

/// Why the first bytes of a connection do not say which server is wanted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// They are no TLS handshake.
    #[error("the connection does not begin with a TLS handshake")]
    NotHandshake,
    /// The handshake begins with another message.
    #[error("the TLS handshake begins with a message of type {0}, not with a ClientHello")]
    OtherMessage(u8),
    /// A record is empty or longer than it may be.
    #[error("a TLS record of the ClientHello has an invalid length")]
    RecordLength,
    /// The message is longer than the gateway reads.
    #[error("the ClientHello is too long")]
    TooLong,
    /// A field goes past its end, or something is there twice.
    #[error("the ClientHello is malformed: {0}")]
    Malformed(&'static str),
    /// The name is no host name.
    #[error("the server name in the ClientHello is not a host name: {0}")]
    InvalidName(Box<str>),
}

/// Finds the name in a ClientHello without its header.
///
/// # Errors
/// [`HelloError`], if the message is malformed or the name is not a host name.
pub fn server_name(hello: &[u8]) -> Result<ServerName, HelloError> {
    let mut rest = Bytes(hello);
    rest.take(2 + 32).ok_or(HelloError::Malformed("it ends before its session"))?;
    let session = rest.with_length::<1>().ok_or(HelloError::Malformed("its session"))?;
    let suites = rest.with_length::<2>().ok_or(HelloError::Malformed("its cipher suites"))?;
    let compression = rest.with_length::<1>().ok_or(HelloError::Malformed("its compression methods"))?;
    if session.0.len() > 32 || suites.0.is_empty() || suites.0.len() % 2 != 0 || compression.0.is_empty() {
        return Err(HelloError::Malformed("the length of a list"));
    }
    if rest.0.is_empty() {
        return Ok(ServerName::Absent);
    }
    let mut extensions = rest.with_length::<2>().ok_or(HelloError::Malformed("its extensions"))?;
    if !rest.0.is_empty() {
        return Err(HelloError::Malformed("it goes on after its extensions"));
    }
    let mut name = None;
    while !extensions.0.is_empty() {
        let (number, content) = extensions.extension().ok_or(HelloError::Malformed("an extension"))?;
        if number == SERVER_NAME && name.replace(content).is_some() {
            return Err(HelloError::Malformed("it has two extensions server_name"));
        }
    }
    match name {
        Some(content) => host_name(content),
        None => Ok(ServerName::Absent),
    }
}

/// Reads the content of the extension.
fn host_name(mut content: Bytes<'_>) -> Result<ServerName, HelloError> {
    const MALFORMED: HelloError = HelloError::Malformed("its extension server_name");
    let mut list = content.with_length::<2>().ok_or(MALFORMED)?;
    if !content.0.is_empty() || list.0.is_empty() {
        return Err(MALFORMED);
    }
    let mut name = None;
    while !list.0.is_empty() {
        let kind = list.take(1).ok_or(MALFORMED)?;
        let entry = list.with_length::<2>().ok_or(MALFORMED)?;
        // RFC 6066: no two names of one type. The receiver might choose another one than the gateway.
        if kind == [HOST_NAME] && name.replace(entry.0).is_some() {
            return Err(HelloError::Malformed("it has two server names"));
        }
    }
    match name {
        Some(name) => understand(name),
        None => Ok(ServerName::Absent),
    }
}

fn understand(name: &[u8]) -> Result<ServerName, HelloError> {
    let invalid = || {
        let shown = name.get(..64).unwrap_or(name).escape_ascii();
        HelloError::InvalidName(shown.to_string().into())
    };
    let text = std::str::from_utf8(name).map_err(|_| invalid())?;
    Ok(match Host::parse(text).map_err(|_| invalid())? {
        Host::Name(name) => ServerName::Name(name.into()),
        Host::V4(address) => ServerName::Address(address.into()),
        Host::V6(address) => ServerName::Address(address.into()),
    })
}

/// Bytes that are read from the front, never past the end.
#[derive(Clone, Copy)]
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// A vector preceded by its length in `N` bytes.
    fn with_length<const N: usize>(&mut self) -> Option<Bytes<'a>> {
        let length = self.take(N)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        self.take(length).map(Bytes)
    }

    fn extension(&mut self) -> Option<(u16, Bytes<'a>)> {
        let number = self.take(2)?.iter().fold(0, |number, byte| number << 8 | u16::from(*byte));
        Some((number, self.with_length::<2>()?))
    }
}
