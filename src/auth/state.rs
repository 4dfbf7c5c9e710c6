//! The states of a handshake, and what its requests carry.

use crate::forward::HeadPurpose;
use crate::http::{BodyDiscarder, HeadEnd};

/// Where a handshake is on its present connection.
#[derive(Debug)]
pub(super) enum State {
    /// Nothing has been sent.
    Ready(Opening),
    /// A request is out.
    Awaiting { leg: Leg, head_end: HeadEnd },
    /// The body of an answer is read before the connection is used again.
    Discarding { body: BodyDiscarder, then: AfterBody },
    /// The final token is to be made, for this connection's challenge unless the mechanism needs none.
    TokenDue { challenge: Option<Vec<u8>> },
    /// An outcome has been reported.
    Ended,
}

/// What the next connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// A request without credentials.
    Nothing,
    /// Whatever the mechanism begins with.
    Token,
    /// See [`Leg::BareRequest`].
    BareRequest,
}

/// What a request that was sent carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leg {
    /// No credentials.
    Nothing,
    /// The token that asks for a challenge.
    FirstToken,
    /// The token that the upstream accepts or refuses, and the client's own request with its body.
    FinalToken,
    /// The client's own request with its body and without credentials: the upstream has shown that it asks for none, or
    /// exempts the destination.
    BareRequest,
}

impl Leg {
    /// Whether the client's own request goes out, body and all.
    pub(super) fn is_whole(self) -> bool {
        matches!(self, Leg::FinalToken | Leg::BareRequest)
    }

    pub(super) fn purpose(self) -> HeadPurpose {
        match self.is_whole() {
            true => HeadPurpose::Answer,
            false => HeadPurpose::Challenge,
        }
    }
}

/// How the conversation continues once a body has been read.
#[derive(Debug)]
pub(super) enum AfterBody {
    /// The challenge is answered.
    Answer(Vec<u8>),
    /// The upstream asked for authentication and sent no challenge: the next token is sent.
    NextToken,
    /// The upstream did not ask for authentication: the client's own request is sent.
    BareRequest,
}

/// When the upstream gets to see credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disclosure {
    /// From the first request on, as configured.
    AtOnce,
    /// When it asks for them, because the destination is configured as exempt.
    OnDemand,
    /// When it asks for them. It is not known whether it will, so a long body is held back for a while.
    Tentatively,
}
