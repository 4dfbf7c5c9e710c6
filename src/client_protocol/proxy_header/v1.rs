//! Version 1: a line of text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Header, HeaderError, NamedClient};

const START: &[u8] = b"PROXY ";

/// The longest line, CRLF included.
const LINE_LIMIT_BYTES: usize = 107;

pub(super) fn header(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    let start = bytes.get(..START.len()).unwrap_or(bytes);
    if !START.starts_with(start) {
        return Err(HeaderError::Missing);
    }
    let line = bytes.get(..LINE_LIMIT_BYTES).unwrap_or(bytes);
    let Some(end) = line.windows(2).position(|pair| pair == b"\r\n") else {
        return match bytes.len() < LINE_LIMIT_BYTES {
            true => Ok(None),
            false => Err(HeaderError::Malformed("its line does not end")),
        };
    };
    let text = line.get(START.len()..end).and_then(|text| std::str::from_utf8(text).ok());
    let client = client(text.ok_or(HeaderError::Malformed("its line is not text"))?)?;
    Ok(Some((end + 2, client)))
}

/// The client in what follows `PROXY `.
fn client(text: &str) -> Result<Option<NamedClient>, HeaderError> {
    let mut words = text.split(' ');
    let protocol = words.next().unwrap_or_default();
    // What follows is to be ignored.
    if protocol == "UNKNOWN" {
        return Ok(None);
    }
    let mut word = || words.next().ok_or(HeaderError::Malformed("a field is missing"));
    let (from, to, from_port, to_port) = (word()?, word()?, word()?, word()?);
    if words.next().is_some() {
        return Err(HeaderError::Malformed("it has too many fields"));
    }
    let address = |text: &str| match protocol {
        "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| HeaderError::Malformed("an address is wrong")),
        "TCP6" => text.parse::<Ipv6Addr>().map(IpAddr::V6).map_err(|_| HeaderError::Malformed("an address is wrong")),
        _ => Err(HeaderError::Family),
    };
    let (client, _) = (address(from)?, address(to)?);
    let (client_port, _) = (port(from_port)?, port(to_port)?);
    Ok(Some((client, client_port)))
}

fn port(text: &str) -> Result<u16, HeaderError> {
    let is_decimal = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_decimal).ok_or(HeaderError::Malformed("a port is wrong"))
}
