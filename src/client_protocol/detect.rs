//! What is served to a client, and which protocol it speaks, by its first byte.

use std::sync::Arc;

use super::socks::{RequestReader4, RequestReader5, VERSION_4, VERSION_5};
use super::{Rejected, RequestReader, http};
use crate::fault::{At, Cause};
use crate::http::{Authority, AuthorityError, OtherProtocol, RequestSummary, detect_other_protocol, first_bytes};

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

/// What is served where a client connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Service {
    /// Clients say where they want to go, in one of these protocols.
    Protocols(Protocols),
    /// Every connection goes to this target, `host:port`, whatever the client sends.
    Forward(Arc<str>),
    /// Connections to other destinations are redirected here.
    Transparent(Redirection),
}

/// How the kernel redirects connections to a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redirection {
    /// By a changed destination address (REDIRECT), which the kernel remembers.
    Redirect,
    /// By a rule that hands connections to other addresses to the listener (TPROXY).
    Tproxy,
}

impl Default for Service {
    fn default() -> Service {
        Service::DEFAULT
    }
}

impl Service {
    /// All protocols.
    pub const DEFAULT: Service = Service::Protocols(Protocols::ALL);

    /// Whether its listener gets connections to addresses of other machines.
    pub fn takes_foreign(&self) -> bool {
        *self == Service::Transparent(Redirection::Tproxy)
    }

    /// Forwards every connection to `target`, `host:port`.
    ///
    /// # Errors
    /// [`AuthorityError`] if that is not a valid destination.
    pub fn forward(target: &str) -> Result<Service, AuthorityError> {
        Authority::parse(target).map(|authority| Service::Forward(authority.to_string().into()))
    }
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
        Some(other @ (OtherProtocol::ProxyHeader | OtherProtocol::Ssh)) => other.describe().into(),
        Some(OtherProtocol::Socks4 | OtherProtocol::Socks5 | OtherProtocol::Unknown) => {
            format!("the first bytes cannot begin a SOCKS request: {}", first_bytes(bytes))
        }
    }
}

fn unserved(answered_by: Option<RequestReader>, detail: String, bytes: &[u8]) -> Unserved {
    let fault = At::ReadHead.fault(Cause::RequestMalformed, detail);
    Unserved { answered_by, rejected: Box::new(Rejected { fault, asked: RequestSummary::of(bytes) }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client_protocol::{ClientProtocol, Socks5Phase, Verdict};

    const HTTP: Protocols = Protocols { http: true, socks: false };
    const SOCKS: Protocols = Protocols { http: false, socks: true };

    fn served(protocols: Protocols, bytes: &[u8]) -> ClientProtocol {
        detect(protocols, bytes).unwrap().protocol()
    }

    /// The answer to bytes that are not served, and the sentence about them.
    fn refusal(protocols: Protocols, bytes: &[u8]) -> (Vec<u8>, String) {
        let Unserved { answered_by, rejected } = detect(protocols, bytes).unwrap_err();
        let protocol = answered_by.map_or(ClientProtocol::Unknown, |reader| reader.protocol());
        let mut out = Vec::new();
        protocol.answer(&Verdict::Failed { fault: &rejected.fault, upstream: None, omit_body: false }, &mut out);
        (out, rejected.fault.detail.into_owned())
    }

    #[test]
    fn the_first_byte_selects_the_protocol() {
        let socks5 = ClientProtocol::Socks5(Socks5Phase::Greeting);
        for protocols in [Protocols::ALL, SOCKS] {
            assert_eq!(served(protocols, b"\x05"), socks5);
            assert_eq!(served(protocols, b"\x04"), ClientProtocol::Socks4);
        }
        for protocols in [Protocols::ALL, HTTP] {
            for bytes in [&b"C"[..], b"\r", b"\x16", b"\0"] {
                assert_eq!(served(protocols, bytes), ClientProtocol::Http, "whose reader knows the others");
            }
        }
        assert_eq!(served(Protocols::ALL, b""), ClientProtocol::Unknown);
    }

    #[test]
    fn what_is_not_served_is_answered_in_its_own_protocol_if_it_has_answers() {
        for (bytes, answer, detail) in [
            (&b"\x05\x01\x00"[..], &b"\x05\xff"[..], "speaks SOCKS5"),
            (b"\x04", b"\x00\x5b\0\0\0\0\0\0", "speaks SOCKS4"),
        ] {
            let (answered, said) = refusal(HTTP, bytes);
            assert!(answered == answer && said.contains(detail), "{said}");
        }
        for (bytes, detail) in [
            (&b"GET http://a.test/ HTTP/1.1"[..], "speaks HTTP"),
            (b"C", "speaks HTTP"),
            (b"\x16\x03\x01", "speaks TLS"),
            (b"\0\x01", "cannot begin a SOCKS request: 00 01"),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "begins with a PROXY header"),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x11", "begins with a PROXY header"),
            (b"SSH-2.0-OpenSSH_9.2\r\n", "speaks SSH to the gateway itself"),
        ] {
            let (answered, said) = refusal(SOCKS, bytes);
            assert!(answered.starts_with(b"HTTP/1.1 400 ") && said.contains(detail), "{said}");
        }
    }
}
