//! Answers to clients that do not know they are talking to a gateway.

use crate::client_protocol::Verdict;
use crate::fault::Cause;

/// The descriptions of fatal alerts (RFC 8446 §6.2).
const ACCESS_DENIED: u8 = 49;
const DECODE_ERROR: u8 = 50;
const INTERNAL_ERROR: u8 = 80;

/// A TLS client gets an alert for a failure. For an established tunnel it is told nothing: the origin answers.
pub fn answer_tls(verdict: &Verdict<'_>, out: &mut Vec<u8>) -> Option<u16> {
    let status = verdict.status()?;
    let alert = match verdict {
        Verdict::Established => return Some(status),
        Verdict::Failed { fault, .. } if fault.cause == Cause::RequestMalformed => DECODE_ERROR,
        Verdict::Failed { .. } | Verdict::Declined { .. } if status == 403 => ACCESS_DENIED,
        Verdict::Failed { .. } | Verdict::Declined { .. } => INTERNAL_ERROR,
    };
    // An alert record of TLS 1.2, which TLS 1.3 uses as well: level fatal, and the description.
    out.extend_from_slice(&[21, 3, 3, 0, 2, 2, alert]);
    Some(status)
}
