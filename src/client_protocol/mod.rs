//! How a client names its destination and is told the outcome. A protocol is a folder here and an arm of
//! [`ClientProtocol`] and [`RequestReader`]; sessions know only [`Demand`] and [`Verdict`].
//!
//! Pure: bytes in, a demand out; a verdict in, bytes out.

mod detect;
mod forward;
mod http;
mod login;
mod proxy_header;
mod socks;
mod transparent;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::auth::{Declined, Request};
use crate::fault::Fault;
use crate::forward::{ForwardOptions, append_via_received};
use crate::http::{Authority, Host, RequestSummary};

pub use detect::{Protocols, Redirection, Service};
pub use http::{error_type, status};
pub use login::{Logins, ShownLogin};
pub use proxy_header::NamedClient;
pub use socks::{Phase as Socks5Phase, reply as socks_reply};
pub use transparent::{HelloError, HelloReader, ServerName};

/// A protocol that clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientProtocol {
    /// Nothing has come that shows it, or what has come belongs to none that is served.
    Unknown,
    /// HTTP/1.1 to a proxy: CONNECT, or a plain request with its whole URL.
    Http,
    /// SOCKS4 or SOCKS4a.
    Socks4,
    /// SOCKS5, and what the client is in the middle of.
    Socks5(Socks5Phase),
    /// None: the listener has a fixed target.
    Forward,
    /// TLS to an origin, from a client that knows of no proxy.
    Tls,
    /// Anything else to an origin, from such a client.
    Tcp,
}

/// What Via calls clients of which only bytes are known.
const VIA_TCP: &str = "TCP/1";

/// Where the destination of a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DestinationSource {
    /// The client's request names it.
    Request,
    /// It is the listener's fixed target.
    Listener,
    /// The server name in the client's ClientHello.
    Sni,
    /// The host of a request to an origin.
    Host,
    /// The address that the client connected to.
    Address,
}

impl DestinationSource {
    /// Its name in the access log.
    pub fn label(self) -> &'static str {
        match self {
            DestinationSource::Request => "request",
            DestinationSource::Listener => "listener",
            DestinationSource::Sni => "sni",
            DestinationSource::Host => "host",
            DestinationSource::Address => "address",
        }
    }
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
    /// Where the target comes from.
    pub source: DestinationSource,
    /// Where the connection was going, if it was redirected.
    pub original: Option<SocketAddr>,
}

impl Demand {
    /// For a tunnel to `authority`, which the client asked for in the protocol that Via (RFC 9110 §7.6.3) calls `via`.
    fn tunnel(authority: &Authority<'_>, via: &str, source: DestinationSource, options: &ReadOptions<'_>) -> Demand {
        let mut fields = Vec::new();
        append_via_received(via, &options.forward, &mut fields);
        let request = Request::connect(authority.to_text(), fields);
        Demand { request, target: Target::of(authority), login: ShownLogin::Nothing, source, original: None }
    }
}

/// The host and port of the request's origin, in a form that needs no parsing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The host, if it is an address; a name is the text of the origin up to the port.
    address: Option<IpAddr>,
    /// The length of a name.
    name_bytes: u16,
    port: u16,
}

impl Target {
    /// The target that an authority names.
    pub fn of(authority: &Authority<'_>) -> Target {
        let (address, name) = match authority.host {
            Host::Name(name) => (None, name),
            Host::V4(address) => (Some(IpAddr::V4(address)), ""),
            Host::V6(address) => (Some(IpAddr::V6(address)), ""),
        };
        // A name is not longer than HOST_NAME_LIMIT_BYTES.
        Target { address, name_bytes: u16::try_from(name.len()).unwrap_or(u16::MAX), port: authority.port }
    }

    /// As an authority; `origin` is the request's, `host:port`.
    pub fn authority<'a>(&self, origin: &'a str) -> Authority<'a> {
        let host = match self.address {
            Some(IpAddr::V4(address)) => Host::V4(address),
            Some(IpAddr::V6(address)) => Host::V6(address),
            None => Host::Name(origin.get(..self.name_bytes.into()).unwrap_or(origin)),
        };
        Authority { host, port: self.port }
    }
}

/// Where a redirected connection was going.
#[derive(Clone, Copy, Debug)]
pub struct Redirected {
    /// The address that its client connected to.
    pub original: SocketAddr,
    /// That is the gateway itself.
    pub is_gateway: bool,
}

/// A request that is not served.
#[derive(Debug)]
pub struct Rejected {
    /// Why.
    pub fault: Fault,
    /// What was asked for, as far as it could be read.
    pub asked: RequestSummary,
}

/// What a reader makes of the bytes that have come.
#[derive(Debug)]
pub enum Reading {
    /// They are a part of something.
    More,
    /// A PROXY header has ended. It names the client, or says that the connection is the load balancer's own. What
    /// follows is another reader's.
    Client(Option<NamedClient>),
    /// The client waits for these bytes before it goes on.
    Answer(&'static [u8]),
    /// The request is whole.
    Demand(Demand),
}

/// What requests are read by.
#[derive(Clone, Copy)]
pub struct ReadOptions<'a> {
    /// The longest head in bytes.
    pub head_limit_bytes: usize,
    /// The most field lines of a head.
    pub field_limit: usize,
    /// How requests are passed on.
    pub forward: ForwardOptions<'a>,
    /// The logins to the gateway.
    pub logins: &'a dyn Logins,
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

impl Verdict<'_> {
    /// The HTTP status of the outcome; `None` if the client has gone.
    fn status(&self) -> Option<u16> {
        match self {
            Verdict::Established => Some(200),
            Verdict::Failed { fault, .. } => status(fault.cause),
            Verdict::Declined { declined, .. } => Some(declined.status),
        }
    }
}

impl ClientProtocol {
    /// One of each.
    pub const ALL: [ClientProtocol; 7] = [
        ClientProtocol::Http,
        ClientProtocol::Socks4,
        ClientProtocol::Socks5(Socks5Phase::Greeting),
        ClientProtocol::Forward,
        ClientProtocol::Tls,
        ClientProtocol::Tcp,
        ClientProtocol::Unknown,
    ];

    /// Its name in metrics and the access log.
    pub fn label(self) -> &'static str {
        match self {
            ClientProtocol::Unknown => "unknown",
            ClientProtocol::Http => "http",
            ClientProtocol::Socks4 => "socks4",
            ClientProtocol::Socks5(_) => "socks5",
            ClientProtocol::Forward => "forward",
            ClientProtocol::Tls => "tls",
            ClientProtocol::Tcp => "tcp",
        }
    }

    /// Appends what the client is told to `out`. Returns the status that stands for it in logs and metrics; `None` when
    /// there is nobody to tell, and nothing was appended. Where the gateway speaks no protocol with the client, there
    /// are no words for anything.
    pub fn answer(self, verdict: &Verdict<'_>, out: &mut Vec<u8>) -> Option<u16> {
        match self {
            // Text that people can read if they look at the bytes.
            ClientProtocol::Unknown | ClientProtocol::Http => http::answer(verdict, out),
            ClientProtocol::Socks4 => socks::answer4(verdict, out),
            ClientProtocol::Socks5(phase) => socks::answer5(phase, verdict, out),
            ClientProtocol::Forward | ClientProtocol::Tcp => verdict.status(),
            ClientProtocol::Tls => transparent::answer_tls(verdict, out),
        }
    }
}

/// What is remembered of a request of which not all has come.
#[derive(Debug)]
pub enum RequestReader {
    /// Nothing has come that shows the protocol, which may be one of these.
    Detect(Protocols),
    /// An HTTP head.
    Http(http::RequestReader),
    /// A SOCKS4 request.
    Socks4(socks::RequestReader4),
    /// A SOCKS5 greeting, login or request.
    Socks5(socks::RequestReader5),
    /// Nothing is read: the destination is the listener's target.
    Forward(Arc<str>),
    /// What a client says to its origin. Boxed, because other listeners' connections must stay small.
    Transparent(Box<transparent::RequestReader>),
    /// A PROXY header. Until it has come, failures are answered in this protocol.
    ProxyHeader(ClientProtocol),
}

impl RequestReader {
    /// Reads the first request of a connection. `redirected` says where a redirected one was going.
    pub fn first(service: &Service, redirected: impl FnOnce() -> Redirected) -> RequestReader {
        match service {
            Service::Protocols(protocols) => RequestReader::Detect(*protocols),
            Service::Forward(target) => RequestReader::Forward(Arc::clone(target)),
            Service::Transparent(_) => {
                RequestReader::Transparent(Box::new(transparent::RequestReader::first(redirected())))
            }
        }
    }

    /// Reads the PROXY header that comes before everything else.
    pub fn proxy_header(service: &Service) -> RequestReader {
        RequestReader::ProxyHeader(match service {
            Service::Forward(_) => ClientProtocol::Forward,
            Service::Protocols(_) | Service::Transparent(_) => ClientProtocol::Unknown,
        })
    }

    /// Reads a further request of a connection. Only HTTP has any.
    pub fn next(service: &Service, redirected: impl FnOnce() -> Redirected) -> RequestReader {
        match service {
            Service::Transparent(_) => {
                RequestReader::Transparent(Box::new(transparent::RequestReader::next(redirected())))
            }
            Service::Protocols(_) | Service::Forward(_) => RequestReader::Http(http::RequestReader::default()),
        }
    }

    /// The protocol of what has come so far.
    pub fn protocol(&self) -> ClientProtocol {
        match self {
            RequestReader::Detect(_) => ClientProtocol::Unknown,
            RequestReader::Http(reader) if reader.is_foreign() => ClientProtocol::Unknown,
            RequestReader::Http(_) => ClientProtocol::Http,
            RequestReader::Socks4(_) => ClientProtocol::Socks4,
            RequestReader::Socks5(reader) => ClientProtocol::Socks5(reader.phase()),
            RequestReader::Forward(_) => ClientProtocol::Forward,
            RequestReader::Transparent(reader) => reader.protocol(),
            RequestReader::ProxyHeader(protocol) => *protocol,
        }
    }

    /// Whether the client may be one that waits for the server to speak first. After `timeouts.sniff` it is taken for
    /// one, by [`RequestReader::after_silence`].
    pub fn is_sniffing(&self) -> bool {
        matches!(self, RequestReader::Transparent(reader) if reader.is_sniffing())
    }

    /// The demand of a client that has waited for the server to speak; `None` if it cannot do that.
    pub fn after_silence(&mut self, options: &ReadOptions<'_>) -> Option<Result<Demand, Box<Rejected>>> {
        match self {
            RequestReader::Transparent(reader) if reader.is_sniffing() => Some(reader.after_silence(options)),
            _ => None,
        }
    }

    /// Whether the request is known before the client has sent anything.
    pub fn needs_no_bytes(&self) -> bool {
        matches!(self, RequestReader::Forward(_))
    }

    /// Whether it has used bytes of a request that is not whole.
    pub fn is_under_way(&self) -> bool {
        matches!(self, RequestReader::Socks5(reader) if reader.phase() != Socks5Phase::Greeting)
    }

    /// Looks at all bytes that have come and were not used. Returns how many it used, and what they are. After
    /// [`Reading::Answer`], the rest of the bytes must be shown again.
    pub fn read(&mut self, bytes: &[u8], options: &ReadOptions<'_>) -> (usize, Result<Reading, Box<Rejected>>) {
        if let RequestReader::Detect(protocols) = self {
            match detect::detect(*protocols, bytes) {
                Ok(reader) => *self = reader,
                Err(detect::Unserved { answered_by, rejected }) => {
                    if let Some(reader) = answered_by {
                        *self = reader;
                    }
                    return (0, Err(rejected));
                }
            }
        }
        match self {
            RequestReader::Detect(_) => (0, Ok(Reading::More)),
            RequestReader::Http(reader) => reader.read(bytes, options),
            RequestReader::Socks4(reader) => reader.read(bytes, options),
            RequestReader::Socks5(reader) => reader.read(bytes, options),
            RequestReader::Forward(target) => (0, forward::demand(target, options)),
            RequestReader::Transparent(reader) => reader.read(bytes, options),
            RequestReader::ProxyHeader(_) => proxy_header::read(bytes, options.head_limit_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_protocols_are_listed_once() {
        // A new protocol has no number here until it is in the list.
        let number = |protocol| match protocol {
            ClientProtocol::Http => 0,
            ClientProtocol::Socks4 => 1,
            ClientProtocol::Socks5(_) => 2,
            ClientProtocol::Forward => 3,
            ClientProtocol::Tls => 4,
            ClientProtocol::Tcp => 5,
            ClientProtocol::Unknown => 6,
        };
        assert_eq!(ClientProtocol::ALL.map(number), [0, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn a_target_names_what_its_origin_names() {
        for text in ["example.com:443", "192.0.2.1:80", "[2001:db8::1]:8443", "[::ffff:192.0.2.1]:1"] {
            let authority = Authority::parse(text).unwrap();
            let origin = authority.to_string();
            assert_eq!(Target::of(&authority).authority(&origin), authority, "{text}");
        }
    }
}
