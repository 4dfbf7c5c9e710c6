//! The PROXY protocol, versions 1 and 2: a load balancer says before anything else for which client a connection is.
//!
//! The specification is `doc/proxy-protocol.txt` of HAProxy.

mod crc32c;
mod v1;
mod v2;

use std::net::IpAddr;

use super::{Reading, Rejected};
use crate::fault::{At, Cause};
use crate::http::RequestSummary;

/// The client that a header names: its address and port.
pub type NamedClient = (IpAddr, u16);

/// A header that is whole: its length, and the client that it names. `None`: the connection is the load balancer's own,
/// or it does not know the client.
type Header = (usize, Option<NamedClient>);

/// Why a header is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum HeaderError {
    #[error("the connection does not begin with a PROXY header, which the listener requires from this address")]
    Missing,
    #[error("the PROXY header is malformed: {0}")]
    Malformed(&'static str),
    #[error("the PROXY header names no client with an IPv4 or IPv6 address over TCP")]
    Family,
    #[error("the checksum of the PROXY header is wrong")]
    Checksum,
    #[error("the PROXY header has {length_bytes} bytes, more than the limit of {limit_bytes}")]
    TooLong { length_bytes: usize, limit_bytes: usize },
}

/// See [`super::RequestReader::read`]. A header is short, so it is read again from its beginning when more has come.
pub fn read(bytes: &[u8], limit_bytes: usize) -> (usize, Result<Reading, Box<Rejected>>) {
    match header(bytes, limit_bytes) {
        Ok(None) => (0, Ok(Reading::More)),
        Ok(Some((used, client))) => (used, Ok(Reading::Client(client))),
        Err(error) => {
            let cause = match error {
                HeaderError::TooLong { .. } => Cause::RequestHeadTooLarge,
                _ => Cause::RequestMalformed,
            };
            let fault = At::ReadHead.fault(cause, error.to_string());
            (0, Err(Box::new(Rejected { fault, asked: RequestSummary::default() })))
        }
    }
}

/// The header at the start of `bytes`; `None` while it is not whole.
fn header(bytes: &[u8], limit_bytes: usize) -> Result<Option<Header>, HeaderError> {
    match bytes.first() {
        None => Ok(None),
        Some(b'P') => v1::header(bytes),
        Some(_) => v2::header(bytes, limit_bytes),
    }
}

#[cfg(test)]
mod tests;
