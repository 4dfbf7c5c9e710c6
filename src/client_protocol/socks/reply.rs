//! What SOCKS calls each outcome.

use super::v5::Phase;
use super::{VERSION_5, v5};
use crate::client_protocol::{Verdict, status};
use crate::fault::Cause;

/// The reply codes of SOCKS5 (RFC 1928 §6).
const SUCCEEDED: u8 = 0;
const GENERAL_FAILURE: u8 = 1;
const NOT_ALLOWED: u8 = 2;
const NETWORK_UNREACHABLE: u8 = 3;
const HOST_UNREACHABLE: u8 = 4;
const CONNECTION_REFUSED: u8 = 5;
const TTL_EXPIRED: u8 = 6;
const COMMAND_NOT_SUPPORTED: u8 = 7;
const ADDRESS_TYPE_NOT_SUPPORTED: u8 = 8;

/// The codes of SOCKS4.
const GRANTED_4: u8 = 90;
const REJECTED_4: u8 = 91;

/// The reply code of SOCKS5 for a cause; `None` where no client is left that could be told.
pub fn reply(cause: Cause) -> Option<u8> {
    Some(match cause {
        Cause::MethodNotSupported => COMMAND_NOT_SUPPORTED,
        Cause::AddressTypeNotSupported => ADDRESS_TYPE_NOT_SUPPORTED,
        Cause::ClientNotAllowed
        | Cause::DestinationDenied
        | Cause::LoginRequired
        | Cause::LoginThrottled
        | Cause::ListenerWithdrawn
        | Cause::NoIdentity => NOT_ALLOWED,
        Cause::UpstreamsDown | Cause::ConnectUnreachable => NETWORK_UNREACHABLE,
        Cause::ResolveFailed => HOST_UNREACHABLE,
        Cause::ConnectRefused => CONNECTION_REFUSED,
        Cause::HeadTimeout
        | Cause::ResolveTimeout
        | Cause::ConnectTimeout
        | Cause::ChallengeTimeout
        | Cause::HandshakeTimeout
        | Cause::ResponseTimeout
        | Cause::GuardTimeout => TTL_EXPIRED,
        _ if status(cause).is_none() => return None,
        _ => GENERAL_FAILURE,
    })
}

/// The reply code of SOCKS5 for an upstream's own refusal with an HTTP status.
fn reply_to_status(status: u16) -> u8 {
    match status {
        401 | 403 | 405 | 407 | 451 => NOT_ALLOWED,
        404 | 502 | 503 => HOST_UNREACHABLE,
        408 | 504 => TTL_EXPIRED,
        _ => GENERAL_FAILURE,
    }
}

/// An outcome as its HTTP status and its reply code.
fn outcome(verdict: &Verdict<'_>) -> Option<(u16, u8)> {
    let code = match verdict {
        Verdict::Established => SUCCEEDED,
        Verdict::Failed { fault, .. } => reply(fault.cause)?,
        Verdict::Declined { declined, .. } => reply_to_status(declined.status),
    };
    Some((verdict.status()?, code))
}

/// See [`crate::client_protocol::ClientProtocol::answer`].
pub fn answer4(verdict: &Verdict<'_>, out: &mut Vec<u8>) -> Option<u16> {
    let (status, code) = outcome(verdict)?;
    let code = if code == SUCCEEDED { GRANTED_4 } else { REJECTED_4 };
    // The address and the port are of use to BIND only.
    out.extend([0, code, 0, 0, 0, 0, 0, 0]);
    Some(status)
}

/// See [`crate::client_protocol::ClientProtocol::answer`].
pub fn answer5(phase: Phase, verdict: &Verdict<'_>, out: &mut Vec<u8>) -> Option<u16> {
    let (status, code) = outcome(verdict)?;
    match phase {
        Phase::Greeting => out.extend([VERSION_5, v5::NO_ACCEPTABLE_METHOD]),
        Phase::Login => out.extend([v5::LOGIN_VERSION, v5::LOGIN_FAILED]),
        // The address that the gateway connects from says nothing to the client, which is told 0.0.0.0:0.
        Phase::Request => out.extend([VERSION_5, code, 0, v5::IPV4, 0, 0, 0, 0, 0, 0]),
    }
    Some(status)
}
