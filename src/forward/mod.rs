//! Plain HTTP through the gateway (`GET http://origin/…`): pure, bytes in, bytes out.
//!
//! ```text
//!   client's head ─▶ ForwardRequest ─▶ head for the proxy (once a leg) or the origin
//!   client's body ─▶ BodyPump ───────▶ body for the upstream
//!   upstream's head ─▶ ForwardResponse ─▶ head for the client, framed for the client
//!   upstream's body ─▶ BodyPump ─────────▶ body for the client
//! ```
//!
//! An intermediary understands a message before it passes it on (RFC 9110 §7.6), and what goes out says what was
//! understood: framing, Host and the fields of the connection are written anew, never copied. What two parsers could
//! read in two ways is refused in both directions, so that nobody behind the gateway sees another message than it did.
//!
//! | file | subject |
//! |---|---|
//! | `request` | [`ForwardRequest`]: what a client asks for, ready to send |
//! | `response` | [`ForwardResponse`]: what an upstream answers, as this client is to get it |
//! | `body` | [`BodyPump`]: a body from one framing to another, mostly without touching it |
//! | `trailers` | which trailer fields are passed on |
//! | `upgrade` | the protocols of an Upgrade field |
//! | `end_to_end` | field lines that are passed on, and Via |

mod body;
mod end_to_end;
mod request;
mod response;
#[cfg(test)]
mod tests;
mod trailers;
mod upgrade;

pub use body::{BodyError, BodyPump, Piece, Pushed};
pub use end_to_end::{append_via, via_names_us};
pub use request::{ForwardError, ForwardRequest, HeadFor};
pub use response::{ForwardResponse, ForwardResponseError, ResponseKind};

/// How messages are passed on.
#[derive(Debug, Clone, Copy)]
pub struct ForwardOptions<'a> {
    /// The pseudonym in Via (RFC 9110 §7.6.3), a token; `None` adds no Via, for upstreams that take offence at it.
    pub via: Option<&'a str>,
}

impl Default for ForwardOptions<'_> {
    fn default() -> Self {
        Self { via: Some(crate::http::PROXY_NAME) }
    }
}
