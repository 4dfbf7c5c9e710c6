//! The legs of a handshake, as lines for a person.

use std::io::Write as _;
use std::time::Instant;

use crate::cli::words::message_name;
use crate::http::decode_token;

/// Who speaks to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    ClientToGateway,
    GatewayToUpstream,
    UpstreamToGateway,
    GatewayToClient,
}

impl Way {
    fn label(self) -> &'static str {
        match self {
            Way::ClientToGateway => "client → gateway",
            Way::GatewayToUpstream => "gateway → upstream",
            Way::UpstreamToGateway => "upstream → gateway",
            Way::GatewayToClient => "gateway → client",
        }
    }
}

/// Prints legs with the time since the first.
pub(super) struct Legs {
    began: Instant,
}

impl Legs {
    pub(super) fn begin() -> Legs {
        Legs { began: Instant::now() }
    }

    /// A leg that is on its way now.
    pub(super) fn add(&mut self, way: Way, bytes: &[u8]) {
        self.add_at(Instant::now(), way, bytes);
    }

    /// A leg that was on its way then.
    pub(super) fn add_at(&mut self, at: Instant, way: Way, bytes: &[u8]) {
        let after_ms = at.saturating_duration_since(self.began).as_secs_f64() * 1000.0;
        for (index, line) in describe(bytes).into_iter().enumerate() {
            match index {
                0 => say!("  {after_ms:>7.2} ms  {:<18}  {line}", way.label()),
                _ => say!("  {:>10}  {:<18}  {line}", "", ""),
            }
        }
    }
}

/// The start line, and the field that carries an NTLM message in words: the message itself is half a password.
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
    fn a_leg_is_its_start_line_and_its_message_by_name() {
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
