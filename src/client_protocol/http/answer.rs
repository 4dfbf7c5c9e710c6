//! From a verdict to the bytes of a response.

use std::io::Write as _;

use super::status::{error_type, status};
use crate::auth::Declined;
use crate::client_protocol::Verdict;
use crate::fault::{At, Cause, Fault};
use crate::http::{self, ErrorResponse, PROXY_NAME, ProxyStatus};

/// See [`crate::client_protocol::ClientProtocol::answer`].
pub fn answer(verdict: &Verdict<'_>, out: &mut Vec<u8>) -> Option<u16> {
    match *verdict {
        Verdict::Established => {
            http::established_response(out);
            Some(200)
        }
        Verdict::Failed { fault, upstream, omit_body } => {
            let status = status(fault.cause)?;
            append_failure(fault, status, upstream, omit_body, out);
            Some(status)
        }
        Verdict::Declined { declined, body, upstream } => {
            append_declined(declined, body, upstream, out);
            Some(declined.status)
        }
    }
}

/// The response that names a fault.
fn append_failure(fault: &Fault, status: u16, upstream: Option<&str>, omit_body: bool, out: &mut Vec<u8>) {
    let next_hop = upstream.filter(|_| matches!(fault.at, At::Dial | At::Authenticate));
    let received_status = (fault.cause == Cause::CredentialsRefused).then_some(407);
    let error = ProxyStatus::error(error_type(fault.cause), &fault.detail);
    let extra_fields: &[(&str, &str)] = match fault.cause {
        Cause::LoginRequired => &[("Proxy-Authenticate", "Basic realm=\"ntlm-gateway\", charset=\"UTF-8\"")],
        Cause::TunnelLimit
        | Cause::GaveWay
        | Cause::MemoryLimit
        | Cause::ClientLimit
        | Cause::ResourcesExhausted
        | Cause::GuardStoreUnavailable
        | Cause::RouteUnavailable => &[("Retry-After", "5")],
        // The next login is checked after that time.
        Cause::LoginThrottled => &[("Retry-After", "10")],
        _ => &[],
    };
    let response = ErrorResponse {
        status,
        proxy_status: ProxyStatus { next_hop, received_status, ..error },
        detail: &fault.detail,
        extra_fields,
        omit_body,
    };
    http::error_response(out, &response);
}

/// The upstream's own refusal of a CONNECT, with its page.
fn append_declined(declined: &Declined, body: &[u8], upstream: &str, out: &mut Vec<u8>) {
    let status = declined.status;
    let proxy_status = ProxyStatus {
        name: PROXY_NAME,
        error: None,
        details: "the upstream declined the request",
        next_hop: Some(upstream),
        received_status: Some(status),
    };
    out.reserve(body.len() + declined.fields.len() + 256);
    // Writing to a Vec cannot fail.
    let _ = write!(out, "HTTP/1.1 {status} {}\r\n", declined.reason);
    out.extend_from_slice(&declined.fields);
    let _ = write!(
        out,
        "Content-Length: {}\r\nProxy-Status: {proxy_status}\r\nConnection: close\r\nProxy-Connection: close\r\n\r\n",
        body.len()
    );
    out.extend_from_slice(body);
}
