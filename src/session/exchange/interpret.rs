//! What an upstream's answer means for an exchange: pure, a head in, the head for the client out.

use crate::auth::{carries_challenge, is_of_proxy};
use crate::fault::{At, Cause, Fault};
use crate::forward::{BodyPump, ForwardOptions, ForwardRequest, ForwardResponse, ResponseKind};
use crate::http::ResponseHead;

/// What was heard. The head for the client, if there is one, has been written.
#[derive(Debug)]
pub(super) enum Heard {
    /// A 1xx; the answer is still to come.
    Interim,
    /// 101: the connection is a tunnel from here on.
    Switching,
    /// 407: the proxy demands authentication.
    Demand {
        /// With a new challenge.
        rechallenge: bool,
        /// Its status line.
        line: String,
    },
    /// The answer, of which the body follows.
    Final(Final),
}

/// An answer's head.
#[derive(Debug)]
pub(super) struct Final {
    pub status: u16,
    pub pump: BodyPump,
    /// The client's connection goes on after it.
    pub keeps_client: bool,
    /// The upstream's connection goes on after it.
    pub keeps_upstream: bool,
    /// The origin authenticates the connection: nobody else may use it.
    pub pins: bool,
}

/// Interprets a head. `may_keep` says whether the client's connection may go on.
pub(super) fn interpret(
    parsed: &ResponseHead<'_>,
    request: &ForwardRequest,
    options: &ForwardOptions<'_>,
    may_keep: bool,
    out: &mut Vec<u8>,
) -> Result<Heard, Fault> {
    // One without Proxy-Authenticate is the origin's own, and the client's answer.
    if parsed.status == 407 && is_of_proxy(parsed) {
        let rechallenge = carries_challenge(parsed);
        let line = format!("407 {}", String::from_utf8_lossy(parsed.reason).escape_debug());
        return Ok(Heard::Demand { rechallenge, line });
    }
    let response = ForwardResponse::of(parsed, request, options).map_err(|error| malformed(&error))?;
    Ok(match response.kind() {
        ResponseKind::Interim { pass_on } => {
            if pass_on {
                response.write_head(out, true);
            }
            Heard::Interim
        }
        ResponseKind::Switching => {
            response.write_head(out, false);
            Heard::Switching
        }
        ResponseKind::Final => Heard::Final(Final {
            status: response.status(),
            pump: response.pump(),
            keeps_client: response.write_head(out, may_keep),
            keeps_upstream: response.upstream_keeps_alive(),
            pins: request.authenticates_connection() || response.authenticates_connection(),
        }),
    })
}

fn malformed(error: &dyn std::fmt::Display) -> Fault {
    At::Reply.fault(Cause::ResponseMalformed, format!("the upstream's answer is malformed: {error}"))
}
