//! What is remembered of a tunnel for its line in the access log.

use std::net::SocketAddr;

use crate::auth::Scheme;
use crate::egress::OnHop;
use crate::fault::Fault;
use crate::metrics::Path;

/// How a tunnel ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
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

/// What the access log tells of a tunnel.
#[derive(Debug)]
pub struct Record {
    /// Who.
    pub client: SocketAddr,
    /// `host:port` as asked for; empty until it is known.
    pub target: Box<str>,
    /// When the connection was accepted, in µs of the shard's clock.
    pub accepted_us: u64,
    /// From the first dial to the upstream's answer, in µs.
    pub handshake_us: u32,
    /// The number of the listener that it came in by.
    pub listener: u16,
    /// The request's method; empty until it is known.
    pub method: Box<str>,
    /// Requests answered on this connection before.
    pub requests: u32,
    /// The upstream connection is this client's own, because an origin authenticates it.
    pub pinned: bool,
    /// Where the upstream connection came from, once there is one.
    pub path: Option<Path>,
    /// Bytes of plain HTTP to the upstream and to the client, heads included.
    pub bytes_up: u64,
    /// See `bytes_up`.
    pub bytes_down: u64,
    /// Requests sent upstream.
    pub legs: u8,
    /// The status that the client got; 0 when it got none.
    pub status: u16,
    /// The scheme that the identity was proved under; empty where it was not.
    pub scheme: Option<Scheme>,
    /// The upstream and the identity, once they are known.
    pub on_hop: Option<OnHop>,
}

impl Record {
    /// A record that begins with the client.
    pub fn new(client: SocketAddr, accepted_us: u64) -> Record {
        Record {
            client,
            target: Box::default(),
            accepted_us,
            handshake_us: 0,
            legs: 0,
            listener: 0,
            method: Box::default(),
            requests: 0,
            pinned: false,
            path: None,
            bytes_up: 0,
            bytes_down: 0,
            status: 0,
            scheme: None,
            on_hop: None,
        }
    }

    /// The upstream's name, as far as there is one.
    pub fn upstream(&self) -> &str {
        self.on_hop.as_ref().map_or("-", |hop| hop.upstream.name())
    }

    /// One of several requests is answered: its line is written, and the next begins.
    pub fn finish_request(&mut self, end: &End, now_us: u64) {
        self.log(self.bytes_up, self.bytes_down, now_us, end);
        let fresh = Record::new(self.client, now_us);
        let (requests, pinned, listener) = (self.requests.saturating_add(1), self.pinned, self.listener);
        *self = Record { requests, pinned, listener, ..fresh };
    }

    /// A tunnel, or what never came to say what it is.
    fn is_tunnel(&self) -> bool {
        self.method.is_empty() || &*self.method == "CONNECT"
    }

    /// Whether it is between two requests: what there was to tell has been told.
    pub fn is_between_requests(&self) -> bool {
        self.requests > 0 && self.method.is_empty()
    }

    /// Writes the access-log line.
    pub fn log(&self, bytes_up: u64, bytes_down: u64, now_us: u64, end: &End) {
        let level = match end {
            End::Silent | End::GaveWay => log::Level::Debug,
            _ => log::Level::Info,
        };
        if !log::log_enabled!(target: ACCESS, level) {
            return;
        }
        let (at, detail) = match end {
            End::Fault(fault) => (fault.at.label(), fault.detail.as_ref()),
            _ => ("-", "-"),
        };
        log::log!(
            target: ACCESS, level,
            client:% = self.client,
            method = if self.method.is_empty() { "-" } else { &*self.method },
            target = if self.target.is_empty() { "-" } else { &*self.target },
            upstream = self.upstream(),
            identity = self.on_hop.as_ref().map_or("-", |hop| &*hop.identity.name),
            scheme = self.scheme.map_or("-", Scheme::name),
            connection = self.path.map_or("-", Path::label),
            status = self.status,
            handshake_ms = f64::from(self.handshake_us / 10) / 100.0,
            legs = self.legs,
            bytes_up = bytes_up,
            bytes_down = bytes_down,
            duration_ms = now_us.saturating_sub(self.accepted_us) / 1000,
            end = end.label(),
            at = at,
            detail = detail;
            "{}", if self.is_tunnel() { "tunnel closed" } else { "request answered" }
        );
    }
}

/// The log target of the access log.
pub const ACCESS: &str = "access";
