//! How a client asks for its tunnel, and what it must get.

use ntlm_gateway::stub::pattern_block;

use super::tally::Failure;
use crate::scenario::{Load, Protocol};

/// Longest head of an answer to CONNECT.
const HEAD_LIMIT_BYTES: usize = 16 * 1024;
/// A SOCKS5 greeting that offers to go without a login, and its answer (RFC 1928 §3).
const GREETING: [u8; 3] = [5, 1, 0];
const GREETED: [u8; 2] = [5, 0];

/// What a client waits for.
#[derive(Debug, Default, PartialEq, Eq)]
pub enum Opening {
    /// An answer to CONNECT.
    #[default]
    Connect,
    /// The answer to a SOCKS5 greeting. This request follows, unless it was sent with the greeting.
    SocksGreeting(Option<Vec<u8>>),
    /// The answer to a SOCKS5 request.
    SocksRequest,
    /// The answer to a SOCKS4 request.
    Socks4,
    /// What it has sent itself: only the origin answers.
    Echo(Vec<u8>),
}

/// What follows an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Another answer.
    Read,
    /// Something to send first.
    Send(Opening, Vec<u8>),
    /// The tunnel is open.
    Opened,
    /// The tunnel is open, and a message has passed through it in both directions.
    Echoed,
}

impl Opening {
    /// What tunnel `number` sends to reach `host`, and what it waits for then.
    pub fn begin(load: &Load, host: &str, number: u64) -> (Opening, Vec<u8>) {
        match load.protocol {
            Protocol::Connect => {
                let head = format!("CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n");
                (Opening::Connect, head.into_bytes())
            }
            Protocol::Socks => (Opening::SocksGreeting(Some(socks5_request(host))), GREETING.to_vec()),
            Protocol::SocksPipelined => (Opening::SocksGreeting(None), [&GREETING[..], &socks5_request(host)].concat()),
            Protocol::Socks4 => {
                // The address 0.0.0.1 says that a name follows the user, who has none here.
                let fields = [&[4, 1][..], &443u16.to_be_bytes(), &[0, 0, 0, 1], &[0], host.as_bytes(), &[0]];
                (Opening::Socks4, fields.concat())
            }
            Protocol::Transparent => {
                let hello = client_hello(host, number);
                (Opening::Echo(hello.clone()), hello)
            }
            Protocol::Forward => {
                let block = pattern_block(number.wrapping_mul(4099));
                let message = block.get(..load.message_bytes).unwrap_or(block).to_vec();
                (Opening::Echo(message.clone()), message)
            }
        }
    }

    /// What the client is doing, as part of an error's name.
    pub fn activity(&self) -> &'static str {
        match self {
            Opening::Connect => "waiting for the answer to CONNECT",
            Opening::SocksGreeting(_) | Opening::SocksRequest => "waiting for a SOCKS5 answer",
            Opening::Socks4 => "waiting for a SOCKS4 answer",
            Opening::Echo(_) => "waiting for the first echo",
        }
    }

    /// The most bytes that the answer may have.
    pub fn limit_bytes(&self) -> usize {
        match self {
            Opening::Echo(sent) => sent.len(),
            _ => HEAD_LIMIT_BYTES,
        }
    }

    /// Where the answer ends, if it is complete.
    ///
    /// # Errors
    /// If it cannot be one.
    pub fn end(&self, answer: &[u8]) -> Result<Option<usize>, Failure> {
        let end = match self {
            Opening::Connect => answer.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4),
            Opening::SocksGreeting(_) => Some(GREETED.len()),
            Opening::Socks4 => Some(8),
            Opening::SocksRequest => match answer {
                [_, _, _, 1, ..] => Some(10),
                [_, _, _, 4, ..] => Some(22),
                [_, _, _, 3, length, ..] => Some(7 + usize::from(*length)),
                _ => None,
            },
            Opening::Echo(sent) => Some(sent.len()),
        };
        match end {
            None if answer.len() > self.limit_bytes() => Err(Failure::NoHttp),
            end => Ok(end.filter(|end| answer.len() >= *end)),
        }
    }

    /// What follows a complete answer.
    ///
    /// # Errors
    /// If the tunnel is refused, or the answer is not what it should be.
    pub fn next(&mut self, answer: &[u8]) -> Result<Next, Failure> {
        match self {
            Opening::Connect => match status_of(answer).ok_or(Failure::NoHttp)? {
                100..200 => Ok(Next::Read),
                200..300 => Ok(Next::Opened),
                status => Err(Failure::Status(status)),
            },
            Opening::SocksGreeting(request) if answer == GREETED => {
                let request = request.take();
                *self = Opening::SocksRequest;
                Ok(request.map_or(Next::Read, |request| Next::Send(Opening::SocksRequest, request)))
            }
            Opening::SocksGreeting(_) => Err(Failure::NoSocks),
            Opening::SocksRequest => match answer {
                [5, 0, 0, ..] => Ok(Next::Opened),
                [5, reply, 0, ..] => Err(Failure::SocksReply(*reply)),
                _ => Err(Failure::NoSocks),
            },
            Opening::Socks4 => match answer {
                [0, 90, ..] => Ok(Next::Opened),
                [0, reply, ..] => Err(Failure::SocksReply(*reply)),
                _ => Err(Failure::NoSocks),
            },
            Opening::Echo(sent) if sent == answer => Ok(Next::Echoed),
            Opening::Echo(_) => Err(Failure::EchoDiffers),
        }
    }
}

fn socks5_request(host: &str) -> Vec<u8> {
    [&[5, 1, 0, 3][..], &byte_length(host), host.as_bytes(), &443u16.to_be_bytes()].concat()
}

fn byte_length(text: &str) -> [u8; 1] {
    [u8::try_from(text.len()).unwrap_or(u8::MAX)]
}

/// The status code in an answer's head.
fn status_of(head: &[u8]) -> Option<u16> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    let line = std::str::from_utf8(line).ok()?.strip_prefix("HTTP/1.")?;
    line.split(' ').nth(1)?.parse().ok()
}

/// A short ClientHello (RFC 8446 §4.1.2) with this server name.
fn client_hello(host: &str, number: u64) -> Vec<u8> {
    let sized = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes()[..], bytes].concat();
    let entry = [&[0][..], &sized(host.as_bytes())].concat();
    let server_name = [&[0, 0][..], &sized(&sized(&entry))].concat();
    let mut random = [0; 32];
    // A random value of its own for each tunnel, so that a mixed-up echo is noticed.
    random[..8].copy_from_slice(&number.to_be_bytes());
    let body = [&[3, 3][..], &random, &[0], &sized(&[0x13, 0x01]), &[1, 0], &sized(&server_name)].concat();
    let message = [&[1, 0][..], &sized(&body)].concat();
    [&[22, 3, 1][..], &sized(&message)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_read_from_any_http_1_answer() {
        assert_eq!(status_of(b"HTTP/1.1 200 Connection established\r\n\r\n"), Some(200));
        assert_eq!(status_of(b"HTTP/1.0 407\r\n\r\n"), Some(407));
        assert_eq!(status_of(b"SSH-2.0-x\r\n\r\n"), None);
    }

    #[test]
    fn the_gateway_finds_the_server_name_in_the_hello() {
        use ntlm_gateway::client_protocol::{HelloReader, ServerName};
        let read = HelloReader::default().read(&client_hello("echo.test", 7));
        assert_eq!(read, Ok(Some(ServerName::Name("echo.test".into()))));
    }

    #[test]
    fn socks_answers_end_behind_their_address() {
        let end = |answer: &[u8]| Opening::SocksRequest.end(answer).unwrap();
        assert_eq!(end(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00"), None);
        assert_eq!(end(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50SSH-"), Some(10));
        assert_eq!(end(b"\x05\x00\x00\x03\x02ab\x00\x50"), Some(9));
        assert!(matches!(Opening::SocksRequest.next(b"\x05\x02\x00\x01"), Err(Failure::SocksReply(2))));
    }
}
