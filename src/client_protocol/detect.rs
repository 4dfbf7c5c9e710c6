//! Which protocol a client speaks, by its first byte.

use super::socks::{RequestReader4, RequestReader5, VERSION_4, VERSION_5};
use super::{Rejected, RequestReader, http};
use crate::fault::{At, Cause};
use crate::http::{OtherProtocol, RequestSummary, detect_other_protocol};

/// The protocols that are served where a client connected, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocols {
    /// HTTP.
    pub http: bool,
    /// SOCKS4, SOCKS4a and SOCKS5.
    pub socks: bool,
}

impl Protocols {
    /// All of them.
    pub const ALL: Protocols = Protocols { http: true, socks: true };
}

/// A connection whose protocol is not served.
#[derive(Debug)]
pub(super) struct Unserved {
    /// What has an answer in the client's own protocol, if it has one.
    pub answered_by: Option<RequestReader>,
    pub rejected: Box<Rejected>,
}

/// The reader for what `bytes` begin; [`RequestReader::Detect`] while there are none.
pub(super) fn detect(protocols: Protocols, bytes: &[u8]) -> Result<RequestReader, Unserved> {
    let Some(first) = bytes.first() else { return Ok(RequestReader::Detect(protocols)) };
    let socks = match *first {
        VERSION_4 => Some((RequestReader::Socks4(RequestReader4), OtherProtocol::Socks4)),
        VERSION_5 => Some((RequestReader::Socks5(RequestReader5::default()), OtherProtocol::Socks5)),
        _ => None,
    };
    match socks {
        Some((reader, _)) if protocols.socks => Ok(reader),
        Some((reader, other)) => Err(unserved(Some(reader), other.describe().into(), bytes)),
        // This reader rejects whatever is not HTTP, by name if it knows it.
        None if protocols.http => Ok(RequestReader::Http(http::RequestReader::default())),
        None => Err(unserved(None, not_socks(bytes), bytes)),
    }
}

fn not_socks(bytes: &[u8]) -> String {
    const ONLY_SOCKS: &str = "but only SOCKS is served here: the proxy URL must begin with socks5h:// or socks5://";
    match detect_other_protocol(bytes) {
        None => format!("the client speaks HTTP, {ONLY_SOCKS}"),
        Some(OtherProtocol::Tls) => format!("the client speaks TLS, {ONLY_SOCKS}"),
        Some(_) => {
            let shown: Vec<String> = bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            format!("the first bytes cannot begin a SOCKS request: {}", shown.join(" "))
        }
    }
}

fn unserved(answered_by: Option<RequestReader>, detail: String, bytes: &[u8]) -> Unserved {
    let fault = At::ReadHead.fault(Cause::RequestMalformed, detail);
    Unserved { answered_by, rejected: Box::new(Rejected { fault, asked: RequestSummary::of(bytes) }) }
}
