//! How a client names its destination and is told the outcome. A protocol is a folder here and an arm of
//! [`ClientProtocol`] and [`RequestReader`]; sessions know only [`Demand`] and [`Verdict`].
//!
//! Pure: bytes in, a demand out; a verdict in, bytes out.

mod http;
mod login;
mod transparent;

use std::net::IpAddr;

use crate::auth::{Declined, Request};
use crate::fault::Fault;
use crate::forward::ForwardOptions;
use crate::http::{Authority, Host, RequestSummary};

pub use http::{error_type, status};
pub use login::ShownLogin;
pub use transparent::{HelloError, HelloReader, ServerName};

/// A protocol that clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientProtocol {
    /// HTTP/1.1 to a proxy: CONNECT, or a plain request with its whole URL.
    Http,
}

/// What a client wants.
#[derive(Debug)]
pub struct Demand {
    /// The request as it goes upstream.
    pub request: Request,
    /// Where to.
    pub target: Target,
    /// The login to the gateway that the client shows.
    pub login: ShownLogin,
}

/// The host and port of the request's origin, in a form that needs no parsing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The host, if it is an address; a name is the text of the origin up to the port.
    address: Option<IpAddr>,
    port: u16,
}

impl Target {
    /// The target that an authority names.
    pub fn of(authority: &Authority<'_>) -> Target {
        let address = match authority.host {
            Host::Name(_) => None,
            Host::V4(address) => Some(IpAddr::V4(address)),
            Host::V6(address) => Some(IpAddr::V6(address)),
        };
        Target { address, port: authority.port }
    }

    /// As an authority; `origin` is the request's, `host:port`.
    pub fn authority<'a>(&self, origin: &'a str) -> Authority<'a> {
        let host = match self.address {
            Some(IpAddr::V4(address)) => Host::V4(address),
            Some(IpAddr::V6(address)) => Host::V6(address),
            None => Host::Name(origin.rsplit_once(':').map_or(origin, |(name, _)| name)),
        };
        Authority { host, port: self.port }
    }
}

/// A request that is not served.
#[derive(Debug)]
pub struct Rejected {
    /// Why.
    pub fault: Fault,
    /// What was asked for, as far as it could be read.
    pub asked: RequestSummary,
}

/// What requests are read by.
#[derive(Clone, Copy, Debug)]
pub struct ReadOptions<'a> {
    /// The longest head in bytes.
    pub head_limit_bytes: usize,
    /// The most field lines of a head.
    pub field_limit: usize,
    /// How requests are passed on.
    pub forward: ForwardOptions<'a>,
}

/// What becomes of a client's request, where the gateway answers it.
#[derive(Clone, Copy, Debug)]
pub enum Verdict<'a> {
    /// The tunnel is established.
    Established,
    /// Something failed.
    Failed {
        /// What.
        fault: &'a Fault,
        /// The upstream that the request was sent to, if it was.
        upstream: Option<&'a str>,
        /// The answer must have no body.
        omit_body: bool,
    },
    /// The upstream refused a tunnel by itself.
    Declined {
        /// Its answer.
        declined: &'a Declined,
        /// The page that came with it.
        body: &'a [u8],
        /// Its name.
        upstream: &'a str,
    },
}

impl ClientProtocol {
    /// Reads the next request of a connection.
    pub fn reader(self) -> RequestReader {
        match self {
            ClientProtocol::Http => RequestReader::Http(http::RequestReader::default()),
        }
    }

    /// Appends what the client is told to `out`. Returns the status that stands for it in logs and metrics; `None` when
    /// there is nobody to tell, and nothing was appended.
    pub fn answer(self, verdict: &Verdict<'_>, out: &mut Vec<u8>) -> Option<u16> {
        match self {
            ClientProtocol::Http => http::answer(verdict, out),
        }
    }
}

/// What is remembered of a request of which not all has come.
#[derive(Debug)]
pub enum RequestReader {
    /// An HTTP head.
    Http(http::RequestReader),
}

impl RequestReader {
    /// Looks at all bytes that have come and were not used. Returns how many the request used, and the request; `None`
    /// while more must come.
    pub fn read(
        &mut self,
        bytes: &[u8],
        options: &ReadOptions<'_>,
    ) -> (usize, Result<Option<Box<Demand>>, Box<Rejected>>) {
        match self {
            RequestReader::Http(reader) => reader.read(bytes, options),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_names_what_its_origin_names() {
        for text in ["example.com:443", "192.0.2.1:80", "[2001:db8::1]:8443", "[::ffff:192.0.2.1]:1"] {
            let authority = Authority::parse(text).unwrap();
            let origin = authority.to_string();
            assert_eq!(Target::of(&authority).authority(&origin), authority, "{text}");
        }
    }
}
