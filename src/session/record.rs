//! What the access log tells of a session.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;

use super::connection_source::ConnectionSource;
use crate::auth::{Request, Scheme};
use crate::client_protocol::{ClientProtocol, DestinationSource};
use crate::egress::HopLease;
use crate::fault::Fault;
use crate::forward::ForwardRequest;
use crate::logging::{self, Entry, Fields, log_field_name};

/// How a session, or a request of it, ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Both directions came to their end.
    Finished,
    /// The upstream declined the request with this status, and its answer was passed on.
    Declined(u16),
    /// Something failed.
    Fault(Fault),
    /// It was idle, and others needed its place.
    GaveWay,
    /// The client connected and went away without a word, as TCP health checks do.
    Silent,
}

impl End {
    /// The metric label.
    pub fn label(&self) -> &'static str {
        match self {
            End::Finished => "finished",
            End::Declined(_) => "declined",
            End::Fault(fault) => fault.cause.label(),
            End::Silent => "silent",
            End::GaveWay => "gave_way",
        }
    }
}

/// An address in less room than a [`SocketAddr`] takes: the scope of a link-local one is left out.
#[derive(Clone, Copy, Debug)]
struct CompactAddress {
    ip: IpAddr,
    port: u16,
}

impl From<SocketAddr> for CompactAddress {
    fn from(address: SocketAddr) -> CompactAddress {
        CompactAddress { ip: address.ip(), port: address.port() }
    }
}

/// What a client has asked for.
#[derive(Debug)]
enum Asked {
    /// Nothing that could be read.
    Nothing,
    /// A tunnel to this `host:port`, in the memory of the request.
    Tunnel(Arc<str>),
    /// The method, then `host:port`, or `scheme://host` of what is not served. The `traceparent`, if there is one,
    /// follows after a blank.
    Text { text: Box<str>, method_bytes: u16 },
    /// A plain request, for as long as it is under way.
    Forward(Arc<ForwardRequest>),
}

impl Asked {
    fn text(method: &str, target: &str, traceparent: Option<&str>) -> Asked {
        // No method that is served is as long as this.
        let method = method.get(..usize::from(u16::MAX)).unwrap_or(method);
        match u16::try_from(method.len()) {
            Ok(method_bytes @ 1..) => {
                let text = match traceparent {
                    None => [method, target].concat(),
                    Some(traceparent) => [method, target, " ", traceparent].concat(),
                };
                Asked::Text { text: text.into(), method_bytes }
            }
            _ => Asked::Nothing,
        }
    }
}

/// What the access log tells.
#[derive(Debug)]
pub(super) struct Record {
    /// The client's address.
    client: CompactAddress,
    asked: Asked,
    /// Where the destination of that comes from.
    pub destination_source: Option<DestinationSource>,
    /// When the connection was accepted, or the request before this one was answered, in µs of the shard's clock.
    pub accepted_us: u64,
    /// From the first dial to the upstream's answer, in µs.
    pub handshake_us: u32,
    /// The number of the listener that accepted the connection.
    pub listener: u16,
    /// The status that the client got, if it got one.
    pub status: Option<NonZeroU16>,
    /// Requests answered on this connection before, at most [`crate::limits::REQUESTS_PER_CONNECTION`].
    pub requests: u16,
    /// The upstream connection is this client's own, because an origin has authenticated it.
    pub pinned: bool,
    /// Requests sent upstream for the handshake.
    pub legs: u8,
    /// Where the upstream connection came from, if there was one.
    pub source: Option<ConnectionSource>,
    /// The scheme of the handshake, if there was one.
    pub scheme: Option<Scheme>,
    /// The upstream and the identity, once they are known.
    pub on_hop: Option<HopLease>,
    /// Bytes of plain HTTP to the upstream, heads included.
    pub bytes_up: u64,
    /// Bytes of plain HTTP to the client, heads included.
    pub bytes_down: u64,
}

impl Record {
    /// The record of a client that has asked for nothing yet.
    pub fn new(client: SocketAddr, listener: usize, accepted_us: u64) -> Record {
        Record {
            client: client.into(),
            asked: Asked::Nothing,
            destination_source: None,
            accepted_us,
            handshake_us: 0,
            listener: u16::try_from(listener).unwrap_or(u16::MAX),
            status: None,
            requests: 0,
            pinned: false,
            legs: 0,
            source: None,
            scheme: None,
            on_hop: None,
            bytes_up: 0,
            bytes_down: 0,
        }
    }

    /// The client's address.
    pub(super) fn client(&self) -> SocketAddr {
        SocketAddr::new(self.client.ip, self.client.port)
    }

    /// Another client than the one that has connected: a PROXY header has named it.
    pub(super) fn comes_from(&mut self, client: SocketAddr) {
        self.client = client.into();
    }

    /// Notes what was asked for.
    pub(super) fn asked_for(&mut self, request: &Request) {
        self.asked = match request {
            Request::Connect { authority, .. } => Asked::Tunnel(Arc::clone(authority)),
            Request::Forward(request) => Asked::Forward(Arc::clone(request)),
        };
    }

    /// Notes a request that is rejected; what could not be read of it is empty.
    pub(super) fn asked_in_vain(&mut self, method: &str, target: &str) {
        self.asked = Asked::text(method, target, None);
    }

    /// The connection becomes a tunnel, which may last: lets go of the request, except for what is logged.
    pub(super) fn let_request_go(&mut self) {
        if let Asked::Forward(request) = &self.asked {
            self.asked = Asked::text(request.method(), request.origin(), request.traceparent());
        }
    }

    /// The request's method.
    pub(super) fn method(&self) -> Option<&str> {
        match &self.asked {
            Asked::Nothing => None,
            Asked::Tunnel(_) => Some("CONNECT"),
            Asked::Text { text, method_bytes } => text.get(..usize::from(*method_bytes)),
            Asked::Forward(request) => Some(request.method()),
        }
    }

    /// Where to.
    pub(super) fn target(&self) -> Option<&str> {
        let target = match &self.asked {
            Asked::Nothing => return None,
            Asked::Tunnel(authority) => authority,
            Asked::Text { text, method_bytes } => text.get(usize::from(*method_bytes)..)?.split(' ').next()?,
            Asked::Forward(request) => request.origin(),
        };
        Some(target).filter(|target| !target.is_empty())
    }

    /// The trace that the client says a plain request belongs to.
    fn traceparent(&self) -> Option<&str> {
        match &self.asked {
            Asked::Nothing | Asked::Tunnel(_) => None,
            Asked::Text { text, method_bytes } => {
                text.get(usize::from(*method_bytes)..)?.split_once(' ').map(|(_, traceparent)| traceparent)
            }
            Asked::Forward(request) => request.traceparent(),
        }
    }

    /// The label of the metric that counts answers.
    pub(super) fn kind(&self) -> &'static str {
        match self.method() {
            None => "other",
            Some("CONNECT") => "connect",
            Some(_) => "http",
        }
    }

    /// The upstream's name, if there is one.
    pub fn upstream(&self) -> Option<&str> {
        self.on_hop.as_ref().map(|hop| hop.upstream.name().as_ref())
    }

    /// One of several requests is answered: its line is written, and the next begins.
    pub(super) fn finish_request(&mut self, now_us: u64) {
        // Only HTTP has several requests on a connection.
        let (requests, pinned) = (self.requests.saturating_add(1), self.pinned);
        self.log(ClientProtocol::Http, [0, 0], now_us, &End::Finished);
        *self = Record { requests, pinned, ..Record::new(self.client(), self.listener.into(), now_us) };
    }

    /// Whether it is between two requests: everything has been logged.
    pub fn is_between_requests(&self) -> bool {
        self.requests > 0 && matches!(self.asked, Asked::Nothing)
    }

    /// Writes the access-log line. `relayed` is what a tunnel moved up and down, in bytes.
    pub fn log(&self, protocol: ClientProtocol, relayed: [u64; 2], now_us: u64, end: &End) {
        let level = match end {
            End::Silent | End::GaveWay => log::Level::Debug,
            _ => log::Level::Info,
        };
        let message = match self.kind() {
            "http" => "request answered",
            // What never came to say what it is counts as a tunnel.
            _ => "tunnel closed",
        };
        let duration_us = now_us.saturating_sub(self.accepted_us);
        logging::entry(ACCESS, level, message, &Line { record: self, protocol, relayed, duration_us, end });
    }
}

/// What an access-log line is made of.
struct Line<'a> {
    record: &'a Record,
    protocol: ClientProtocol,
    relayed: [u64; 2],
    duration_us: u64,
    end: &'a End,
}

impl Entry for Line<'_> {
    fn write(&self, fields: &mut impl Fields) {
        const UNKNOWN: &str = "-";
        let Line { record, protocol, relayed, duration_us, end } = self;
        let (at, detail) = match end {
            End::Fault(fault) => (fault.at.label(), fault.detail.as_ref()),
            _ => (UNKNOWN, UNKNOWN),
        };
        let hop = record.on_hop.as_ref();
        let (upstream, identity) = hop.map_or((UNKNOWN, UNKNOWN), |hop| (hop.upstream.name(), &*hop.identity.name));
        fields.address(log_field_name!(client), record.client());
        fields.word(log_field_name!(protocol), protocol.label());
        fields.text(log_field_name!(method), record.method().unwrap_or(UNKNOWN));
        fields.text(log_field_name!(target), record.target().unwrap_or(UNKNOWN));
        let source = record.destination_source.map_or(UNKNOWN, DestinationSource::label);
        fields.word(log_field_name!(destination_source), source);
        fields.text(log_field_name!(upstream), upstream);
        fields.text(log_field_name!(identity), identity);
        fields.word(log_field_name!(scheme), record.scheme.map_or(UNKNOWN, Scheme::label));
        fields.word(log_field_name!(connection), record.source.map_or(UNKNOWN, ConnectionSource::label));
        fields.number(log_field_name!(status), record.status.map_or(0, NonZeroU16::get).into());
        fields.hundredths(log_field_name!(handshake_ms), record.handshake_us / 10);
        fields.number(log_field_name!(legs), record.legs.into());
        fields.number(log_field_name!(bytes_up), record.bytes_up + relayed[0]);
        fields.number(log_field_name!(bytes_down), record.bytes_down + relayed[1]);
        fields.number(log_field_name!(duration_ms), duration_us / 1000);
        fields.word(log_field_name!(end), end.label());
        fields.word(log_field_name!(at), at);
        fields.text(log_field_name!(detail), detail);
        fields.text(log_field_name!(traceparent), record.traceparent().unwrap_or(UNKNOWN));
    }
}

/// The log target of the access log.
pub const ACCESS: &str = "access";
