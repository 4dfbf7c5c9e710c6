//! How a client names its destination and is told the outcome. A protocol is a folder here and an arm of
//! [`ClientProtocol`] and [`RequestReader`]; sessions know only [`Demand`] and [`Verdict`].
//!
//! Pure: bytes in, a demand out; a verdict in, bytes out.

mod http;
mod login;

use crate::auth::{Declined, Request};
use crate::fault::Fault;
use crate::forward::ForwardOptions;
use crate::http::RequestSummary;

pub use http::{error_type, status};
pub use login::ShownLogin;

/// A protocol that clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientProtocol {
    /// HTTP/1.1 to a proxy: CONNECT, or a plain request with its whole URL.
    Http,
}

/// What a client wants.
#[derive(Debug)]
pub struct Demand {
    /// The request as it goes upstream, its target included.
    pub request: Request,
    /// The login to the gateway that the client shows.
    pub login: ShownLogin,
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
