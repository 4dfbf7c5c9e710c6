//! Rewrites plain HTTP messages (`GET http://origin/…`) that pass through the gateway. Pure: bytes in, bytes out.
//!
//! ```text
//!   client's head ─▶ ForwardRequest ─▶ head for the proxy (one for each leg) or the origin
//!   client's body ─▶ BodyPump ───────▶ body for the upstream
//!   upstream's head ─▶ ForwardResponse ─▶ head for the client, with framing that the client supports
//!   upstream's body ─▶ BodyPump ─────────▶ body for the client
//! ```
//!
//! An intermediary parses a message before it forwards it (RFC 9110 §7.6). Framing, Host and hop-by-hop fields are
//! generated from the parsed message, never copied, and anything that two parsers could interpret differently is
//! rejected in both directions. So no recipient can interpret a message differently than the gateway did.
//!
//! | file | subject |
//! |---|---|
//! | `request` | [`ForwardRequest`]: a client's request, ready to be sent |
//! | `response` | [`ForwardResponse`]: a response, ready to be sent to the client of its request |
//! | `body` | [`BodyPump`]: converts a body from one framing to another, mostly without copying it |
//! | `trailers` | which trailer fields are forwarded |
//! | `upgrade` | the protocols in an Upgrade field |
//! | `end_to_end` | field lines that are forwarded, and Via |

mod body;
mod end_to_end;
mod request;
mod response;
#[cfg(test)]
mod tests;
mod trailers;
mod upgrade;

pub use body::{BodyError, BodyPump, Piece};
pub use end_to_end::{append_via, append_via_received, room_for_fields, via_names_gateway};
pub use request::{ForwardError, ForwardRequest, HeadPurpose};
pub use response::{ForwardResponse, ForwardResponseError, ResponseKind};

/// How messages are forwarded.
#[derive(Debug, Clone, Copy)]
pub struct ForwardOptions<'a> {
    /// The gateway's pseudonym in Via (RFC 9110 §7.6.3), a token. With `None` no Via is added, for upstreams that
    /// reject it.
    pub via: Option<&'a str>,
}

impl Default for ForwardOptions<'_> {
    fn default() -> Self {
        Self { via: Some(crate::http::PROXY_NAME) }
    }
}
