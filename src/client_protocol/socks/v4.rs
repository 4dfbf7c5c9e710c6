//! SOCKS4, and SOCKS4a with its names.

use std::net::Ipv4Addr;

use super::{Asked, Name, VERSION_4, host, rejected, understand};
use crate::client_protocol::{ReadOptions, Reading, Rejected, ShownLogin};
use crate::fault::Cause;
use crate::http::{HOST_NAME_LIMIT_BYTES, Host};

/// Version, command, port, address.
const FIXED_BYTES: usize = 8;

/// The longest user id, in bytes. It is a name of the client's system, which is not used.
const USER_ID_LIMIT_BYTES: usize = 255;

const NAME: Name = Name { shown: "SOCKS4", via: "SOCKS/4" };

/// An unfinished SOCKS4 request. A request is short, so it is read again from its beginning when more has come.
#[derive(Debug, Default)]
pub struct RequestReader4;

impl RequestReader4 {
    /// See [`crate::client_protocol::RequestReader::read`].
    pub fn read(&mut self, bytes: &[u8], options: &ReadOptions<'_>) -> (usize, Result<Reading, Box<Rejected>>) {
        match read(bytes) {
            Ok(None) => (0, Ok(Reading::More)),
            // The user id is not verified by anybody, so it is no login.
            Ok(Some((used, asked))) => (used, understand(&asked, ShownLogin::Nothing, &NAME, options)),
            Err(rejected) => (0, Err(rejected)),
        }
    }
}

/// The request at the start of `bytes`, with its length; `None` while it is not whole.
fn read(bytes: &[u8]) -> Result<Option<(usize, Asked<'_>)>, Box<Rejected>> {
    if let Some(version) = bytes.first().filter(|version| **version != VERSION_4) {
        let detail = format!("SOCKS4: the request has version {version} instead of {VERSION_4}");
        return Err(rejected(Cause::RequestMalformed, detail));
    }
    let Some((fixed, rest)) = bytes.split_at_checked(FIXED_BYTES) else { return Ok(None) };
    let &[_, command, high, low, a, b, c, d] = fixed else { return Ok(None) };
    let Some(user_id) = text(rest, USER_ID_LIMIT_BYTES, "user id")? else { return Ok(None) };
    let port = u16::from_be_bytes([high, low]);
    let mut used = FIXED_BYTES + user_id.len() + 1;
    let host = match [a, b, c, d] {
        // SOCKS4a: an address that cannot be one says that a name follows.
        [0, 0, 0, 1..=255] => {
            let rest = rest.get(user_id.len() + 1..).unwrap_or_default();
            let Some(name) = text(rest, HOST_NAME_LIMIT_BYTES, "host name")? else { return Ok(None) };
            used += name.len() + 1;
            host(name, &NAME)?
        }
        address => Host::V4(Ipv4Addr::from(address)),
    };
    Ok(Some((used, Asked { command, host, port })))
}

/// What comes before the first NUL; `None` while that has not come.
fn text<'b>(bytes: &'b [u8], limit_bytes: usize, what: &str) -> Result<Option<&'b [u8]>, Box<Rejected>> {
    match bytes.iter().take(limit_bytes + 1).position(|byte| *byte == 0) {
        Some(end) => Ok(Some(&bytes[..end])),
        None if bytes.len() > limit_bytes => {
            Err(rejected(Cause::RequestHeadTooLarge, format!("SOCKS4: the {what} is longer than {limit_bytes} bytes")))
        }
        None => Ok(None),
    }
}
