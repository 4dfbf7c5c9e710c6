//! Prints the legs of a handshake.

use std::io::Write as _;
use std::time::Instant;

use crate::cli::terminal::message_name;
use crate::http::decode_token;

/// The sender and the receiver of a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    ClientToGateway,
    GatewayToUpstream,
    UpstreamToGateway,
    GatewayToClient,
}

impl Direction {
    fn label(self) -> &'static str {
        match self {
            Direction::ClientToGateway => "client → gateway",
            Direction::GatewayToUpstream => "gateway → upstream",
            Direction::UpstreamToGateway => "upstream → gateway",
            Direction::GatewayToClient => "gateway → client",
        }
    }
}

/// Prints legs with the time since the beginning.
pub(super) struct Legs {
    began: Instant,
}

impl Legs {
    pub(super) fn begin() -> Legs {
        Legs { began: Instant::now() }
    }

    /// Prints a leg that is sent now.
    pub(super) fn add(&mut self, direction: Direction, bytes: &[u8]) {
        self.add_at(Instant::now(), direction, bytes);
    }

    /// Prints a leg that was sent at `at`.
    pub(super) fn add_at(&mut self, at: Instant, direction: Direction, bytes: &[u8]) {
        let after_ms = at.saturating_duration_since(self.began).as_secs_f64() * 1000.0;
        for (index, line) in describe(bytes).into_iter().enumerate() {
            match index {
                0 => say!("  {after_ms:>7.2} ms  {:<18}  {line}", direction.label()),
                _ => say!("  {:>10}  {:<18}  {line}", "", ""),
            }
        }
    }
}

/// The start line, and the field with an NTLM message. The message itself is not shown, because a password can be
/// guessed from it.
fn describe(bytes: &[u8]) -> Vec<String> {
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
    }
    described
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::trace;

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
