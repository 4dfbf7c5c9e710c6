//! Every edge between the stages, as a value. A stage ends by returning one; only [`super::Session`] acts on it.
//!
//! The table is compared with the code by `tests/project/session.rs`: a stage's files construct exactly the edges of
//! its rows.
//!
//! | from | to | when |
//! |---|---|---|
//! | `read_request` | `choose_route` | a whole request has come |
//! | `read_request` | `reply` | the request is rejected |
//! | `read_request` | `end` | the client is gone, or has sent nothing in time |
//! | `choose_route` | `follow_route` | the source of routes has answered with a plan |
//! | `choose_route` | `reply` | the client's login is not accepted, or there is no plan in time |
//! | `choose_route` | `end` | the client is gone |
//! | `follow_route` | `select_hop` | the next candidate is a group of upstreams |
//! | `follow_route` | `connect` | the next candidate is the origin itself |
//! | `follow_route` | `exchange` | the same, and the client has a connection of its own to it |
//! | `follow_route` | `reply` | the routes deny the destination |
//! | `select_hop` | `connect` | no connection is there to be used |
//! | `select_hop` | `authenticate` | a pre-challenged connection was free, or a kept one for a CONNECT |
//! | `select_hop` | `exchange` | an authenticated connection was free |
//! | `select_hop` | `follow_route` | no upstream is up, and another candidate is left |
//! | `select_hop` | `reply` | no upstream may be used |
//! | `connect` | `authenticate` | an upstream took the connection |
//! | `connect` | `exchange` | the origin of a plain request took the connection |
//! | `connect` | `follow_route` | nobody took the connection, and another candidate is left |
//! | `connect` | `reply` | the origin of a tunnel took the connection, or nobody did |
//! | `connect` | `end` | the client is gone |
//! | `authenticate` | `connect` | the handshake needs another connection, or another upstream |
//! | `authenticate` | `exchange` | the upstream takes a plain request |
//! | `authenticate` | `decline` | the upstream refuses a CONNECT by itself |
//! | `authenticate` | `reply` | the tunnel is established, or the handshake failed |
//! | `authenticate` | `end` | the client is gone |
//! | `exchange` | `connect` | the request is sent again on another connection |
//! | `exchange` | `read_request` | the answer is delivered, and the client's connection goes on |
//! | `exchange` | `reply` | the exchange failed before its answer, or switches protocols (101) |
//! | `exchange` | `linger` | the answer is delivered, and the client's connection ends |
//! | `exchange` | `end` | the client is gone, or the exchange failed in the middle of its answer |
//! | `decline` | `reply` | the upstream's page has come |
//! | `reply` | `relay` | the client knows that its tunnel is established |
//! | `reply` | `linger` | the client has its answer |
//! | `reply` | `end` | the client does not take its answer |
//! | `relay` | `end` | both directions have ended, or one has failed |
//! | `linger` | `end` | the client has closed, or its time is over |

use std::net::SocketAddr;
use std::sync::Arc;

use super::attempt::Attempt;
use super::pinned::Pinned;
use super::record::End;
use super::route_progress::RouteProgress;
use crate::auth::{Declined, Request};
use crate::client_protocol::Demand;
use crate::forward::ForwardRequest;
use crate::relay::Half;
use crate::transport::Endpoint;
use crate::upstream::{HostPort, Ticket};

/// Where a session goes next, with what the next stage needs.
#[derive(Debug)]
pub(super) enum Transition {
    ReadRequest(NextRequest),
    ChooseRoute(Received),
    FollowRoute(Departure),
    SelectHop(Departure, GroupCandidate),
    Connect(Connecting),
    Authenticate(Connected),
    Exchange(Opened),
    Decline(Declining),
    Reply(ClientAnswer),
    Relay(Halves),
    Linger(End),
    End(End),
}

/// The client's connection goes on with another request.
#[derive(Debug)]
pub(super) struct NextRequest {
    /// What has come of it.
    pub held: Vec<u8>,
    pub pinned: Option<Box<Pinned>>,
    /// Where the client's connection was going, if it was redirected.
    pub original: Option<SocketAddr>,
}

/// A request that was read and goes nowhere yet.
#[derive(Debug)]
pub(super) struct Received {
    pub demand: Demand,
    /// What the client sent after its head.
    pub leftover: Vec<u8>,
    pub pinned: Option<Box<Pinned>>,
}

/// A request on its way to a candidate of its plan. Nothing of it has been sent.
#[derive(Debug)]
pub(super) struct Departure {
    pub request: Request,
    /// What the client sent after its head.
    pub leftover: Vec<u8>,
    pub pinned: Option<Box<Pinned>>,
    pub route: RouteProgress,
}

/// A candidate that is a group of upstreams.
#[derive(Debug)]
pub(super) struct GroupCandidate {
    pub group: usize,
    /// The configuration has the upstream asked without credentials first.
    pub without_credentials: bool,
}

/// What is connected to.
#[derive(Debug)]
pub(super) enum Connecting {
    /// The attempt's upstream, and the others of its group after it.
    Upstream(Box<Attempt>),
    /// The next upstream: the present one has failed the attempt.
    NextUpstream(Box<Attempt>),
    /// The origin itself.
    Origin { origin: HostPort, departure: Departure },
}

/// A connection to an upstream on which the handshake begins, or goes on from its challenge.
#[derive(Debug)]
pub(super) struct Connected {
    pub attempt: Box<Attempt>,
    pub upstream: Endpoint,
}

/// A connection that takes a plain request.
#[derive(Debug)]
pub(super) enum Opened {
    /// To an upstream, whose last answer was read to its end: the request is still to be written.
    Kept { attempt: Box<Attempt>, request: Arc<ForwardRequest>, upstream: Endpoint },
    /// To an upstream; the handshake has written the request's head.
    Authenticated(Box<Handover>),
    /// To the origin.
    Origin { request: Arc<ForwardRequest>, upstream: Endpoint, number: u8, leftover: Vec<u8> },
}

/// What the handshake hands over to the exchange.
#[derive(Debug)]
pub(super) struct Handover {
    pub request: Arc<ForwardRequest>,
    pub attempt: Box<Attempt>,
    pub upstream: Endpoint,
    /// What of the request's head is still to be sent.
    pub out: Vec<u8>,
    /// What came after the handshake.
    pub from_upstream: Vec<u8>,
    pub pending: Pending,
}

/// What the answer is going to say about the handshake.
#[derive(Debug)]
pub(super) enum Pending {
    /// Nothing: it is over, or there was none.
    Nothing,
    /// Whether the AUTHENTICATE_MESSAGE that was sent is accepted.
    Verdict(Ticket),
    /// Whether the upstream asks for credentials at all.
    Demand,
}

/// A CONNECT that the upstream has refused by itself; its page follows.
#[derive(Debug)]
pub(super) struct Declining {
    pub declined: Declined,
    pub upstream: Endpoint,
    /// What came after the head.
    pub leftover: Vec<u8>,
}

/// An answer to be written to the client.
#[derive(Debug)]
pub(super) struct ClientAnswer {
    pub bytes: Vec<u8>,
    pub then: AfterAnswer,
}

/// What follows an answer.
#[derive(Debug)]
pub(super) enum AfterAnswer {
    /// The tunnel; the halves hold what came after the heads.
    Relay(Halves),
    /// Nothing.
    Close(End),
}

/// A tunnel's upstream and its two directions.
#[derive(Debug)]
pub(super) struct Halves {
    pub upstream: Endpoint,
    pub up: Half,
    pub down: Half,
}
