//! Prints the legs of a handshake.

use std::io::Write as _;
use std::time::Instant;

use crate::auth;
use crate::cli::terminal::message_name;
use crate::http::decode_token;
use crate::kerberos::{TokenKind, read_token};

/// The sender and the receiver of a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    ClientToGateway,
    GatewayToUpstream,
    UpstreamToGateway,
    GatewayToClient,
    GatewayToKdc,
    KdcToGateway,
}

impl Direction {
    /// To the upstream and back.
    pub(super) const THROUGH_UPSTREAM: [Direction; 2] = [Direction::GatewayToUpstream, Direction::UpstreamToGateway];
    /// To the KDC and back.
    pub(super) const THROUGH_KDC: [Direction; 2] = [Direction::GatewayToKdc, Direction::KdcToGateway];

    fn label(self) -> &'static str {
        match self {
            Direction::ClientToGateway => "client → gateway",
            Direction::GatewayToUpstream => "gateway → upstream",
            Direction::UpstreamToGateway => "upstream → gateway",
            Direction::GatewayToClient => "gateway → client",
            Direction::GatewayToKdc => "gateway → KDC",
            Direction::KdcToGateway => "KDC → gateway",
        }
    }
}

/// Prints legs with the time since the beginning.
pub(super) struct Legs {
    began: Instant,
}

impl Legs {
    pub(super) fn begin() -> Legs {
        Legs::begin_at(Instant::now())
    }

    /// Legs of something that began at that time.
    pub(super) fn begin_at(began: Instant) -> Legs {
        Legs { began }
    }

    /// Prints a leg that is sent now.
    pub(super) fn add(&mut self, direction: Direction, bytes: &[u8]) {
        self.add_at(Instant::now(), direction, bytes);
    }

    /// Prints a leg that was sent at `at`.
    pub(super) fn add_at(&mut self, at: Instant, direction: Direction, bytes: &[u8]) {
        self.add_lines(at, direction, &describe(bytes));
    }

    /// Prints a leg that is described already.
    pub(super) fn add_lines(&mut self, at: Instant, direction: Direction, lines: &[String]) {
        let after_ms = at.saturating_duration_since(self.began).as_secs_f64() * 1000.0;
        for (index, line) in lines.iter().enumerate() {
            match index {
                0 => say!("  {after_ms:>7.2} ms  {:<18}  {line}", direction.label()),
                _ => say!("  {:>10}  {:<18}  {line}", "", ""),
            }
        }
    }
}

/// The start line, and the field with an NTLM message or a token of Kerberos. Neither is shown itself, because a
/// password can be guessed from it.
fn describe(bytes: &[u8]) -> Vec<String> {
    if let Some(described) = describe_tls(bytes) {
        return vec![described];
    }
    let text = String::from_utf8_lossy(bytes);
    let head = text.split("\r\n\r\n").next().unwrap_or_default();
    let mut lines = head.split("\r\n");
    let mut described = vec![lines.next().unwrap_or_default().to_owned()];
    for line in lines {
        if let Some((name, token)) = line.split_once(": NTLM ")
            && let Ok(message) = decode_token(token)
        {
            described.push(format!("{name}: NTLM <{}, {} bytes>", message_name(&message), message.len()));
        }
        if let Some((name, token)) = line.split_once(": Negotiate ")
            && let Ok(token) = decode_token(token)
        {
            described.push(format!("{name}: Negotiate <{}, {} bytes>", kerberos_name(&token), token.len()));
        }
    }
    described
}

/// What anybody on the wire sees of TLS: the types and lengths of records (RFC 8446 §5.1). `None` for anything else.
fn describe_tls(bytes: &[u8]) -> Option<String> {
    let mut records: Vec<(&str, usize)> = Vec::new();
    let mut rest = bytes;
    while let [kind, 3, _, high, low, after @ ..] = rest {
        let name = match kind {
            20 => "change_cipher_spec",
            21 => "alert",
            22 => "handshake",
            23 => "encrypted",
            _ => return None,
        };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        match records.last_mut() {
            Some((last, total)) if *last == name => *total += length,
            _ => records.push((name, length)),
        }
        rest = after.get(length..).unwrap_or_default();
    }
    let texts: Vec<String> = records.iter().map(|(name, bytes)| format!("{name} {bytes} bytes")).collect();
    (!texts.is_empty()).then(|| format!("TLS <{}>", texts.join(", ")))
}

/// The name of the message of Kerberos in a SPNEGO token.
fn kerberos_name(token: &[u8]) -> &'static str {
    let inner = auth::read_response(token).map_or_else(|| auth::initial_token(token), |response| response.token);
    match inner.map(read_token) {
        Some(Ok((TokenKind::ApReq, _))) => "AP-REQ",
        Some(Ok((TokenKind::ApRep, _))) => "AP-REP",
        Some(Ok((TokenKind::Error, _))) => "KRB-ERROR",
        _ => "not a Kerberos token",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::trace;

    #[test]
    fn a_leg_over_tls_is_shown_as_its_records() {
        let records = [22, 3, 3, 0, 2, 1, 2, 23, 3, 3, 0, 1, 9, 23, 3, 3, 0, 3, 9, 9, 9];
        assert_eq!(describe(&records), ["TLS <handshake 2 bytes, encrypted 4 bytes>"]);
    }

    #[test]
    fn a_leg_is_shown_as_its_start_line_and_its_messages_name() {
        let head = format!(
            "CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\nProxy-Authorization: NTLM {}\r\n\r\nrest",
            trace::AUTHENTICATE
        );
        assert_eq!(
            describe(head.as_bytes()),
            ["CONNECT h:1 HTTP/1.1", "Proxy-Authorization: NTLM <AUTHENTICATE_MESSAGE, 178 bytes>"]
        );
    }
}
