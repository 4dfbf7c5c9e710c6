//! What a handshake tells the owner of its connection.

use crate::http::BodyFraming;

/// The result of passing bytes to a handshake.
#[derive(Debug)]
pub enum Progress {
    /// More must be read.
    More,
    /// `out` holds a request to be sent on the same connection.
    Send,
    /// The connection is of no more use: dial again, then call [`Handshake::begin`](super::Handshake::begin).
    Redial,
    /// The final token is due: see [`Handshake::due`](super::Handshake::due).
    Challenged,
    /// The tunnel is established; what was not consumed belongs to it.
    Established,
    /// The upstream answers the request itself, authenticated or not. The head of its answer was not consumed.
    Answered,
    /// The upstream accepted the credentials and declined the request; its answer is to be passed on.
    Declined(Declined),
}

/// What the final token waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Another thread prepares what the token is made of: ask again when it has finished.
    Pending,
    /// The token counts as a logon attempt: call [`Handshake::authenticate`](super::Handshake::authenticate) once the
    /// credential guard allows it.
    LogonAttempt,
    /// The token does not count as a logon attempt: call [`Handshake::authenticate`](super::Handshake::authenticate) at
    /// once.
    Token,
}

/// An upstream's own answer to a CONNECT that it did not grant. Its body follows and has not been consumed.
#[derive(Debug)]
pub struct Declined {
    /// Not 2xx, and 407 only if it is not the upstream's own.
    pub status: u16,
    /// The reason phrase, without control characters.
    pub reason: String,
    /// Its end-to-end fields, each with its CRLF.
    pub fields: Vec<u8>,
    /// How long the body is.
    pub framing: BodyFraming,
}

/// How often the upstream answered 407, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// To a request without credentials, or to a first token that it ignored.
    pub unprompted: u8,
    /// With a challenge.
    pub challenge: u8,
    /// To a final token.
    pub refused: u8,
    /// To a final token, with a new challenge.
    pub rechallenge: u8,
}
