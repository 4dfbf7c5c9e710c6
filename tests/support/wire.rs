//! An HTTP/1.1 connection that is read message by message, for tests that need the exact bytes.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::client::dial;

/// The longest head that is accepted, in bytes.
const HEAD_LIMIT_BYTES: usize = 256 * 1024;

/// A connection and the bytes that have been read ahead.
pub struct Wire {
    /// The connection.
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

/// A whole message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpMessage {
    /// The start line and fields, including the empty line.
    pub head: String,
    /// The content without its framing.
    pub body: Vec<u8>,
    /// The trailer section of a chunked body, unparsed.
    pub trailers: String,
}

impl HttpMessage {
    /// The status of a response; 0 if there is none.
    pub fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    /// The first value of a field; its name is case-insensitive.
    pub fn field(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }

    /// The content as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// The first value of a field in a head.
pub fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    fields(head, name).next()
}

/// All values of a field in a head.
pub fn fields<'a>(head: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    lines.filter(move |(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

impl Wire {
    /// Connects; every read and write is bounded by [`super::client::PATIENCE`].
    pub fn connect(to: SocketAddr) -> Wire {
        Wire::on(dial(to).unwrap_or_else(|error| panic!("connect to {to}: {error}")))
    }

    /// Wraps a connection.
    pub fn on(stream: TcpStream) -> Wire {
        Wire { stream, buffer: Vec::new() }
    }

    /// Sends bytes. A test whose peer may be gone ignores the result.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Bounds the next reads.
    pub fn wait_at_most(&self, bound: Duration) {
        self.stream.set_read_timeout(Some(bound)).expect("set a time-out");
    }

    /// Sends a request and reads its final response; skips interim ones.
    pub fn ask(&mut self, request: impl AsRef<[u8]>) -> io::Result<HttpMessage> {
        self.send(&request)?;
        let method = String::from_utf8_lossy(request.as_ref()).split(' ').next().unwrap_or_default().to_owned();
        loop {
            let answer = self.answer(&method)?;
            if !(100..200).contains(&answer.status()) || answer.status() == 101 {
                return Ok(answer);
            }
        }
    }

    /// Reads one response, interim or final, to a request with this method. An end of the connection within a body is
    /// an error.
    pub fn answer(&mut self, method: &str) -> io::Result<HttpMessage> {
        let head = self.head()?.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        let status: u16 = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        if method == "HEAD" || matches!(status, 100..=199 | 204 | 304) {
            return Ok(HttpMessage { head, ..HttpMessage::default() });
        }
        let length = field(&head, "content-length").and_then(|length| length.parse().ok());
        match (field(&head, "transfer-encoding"), length) {
            (Some(_), _) => self.chunked(head),
            (None, Some(length)) => Ok(HttpMessage { body: self.exactly(length)?, head, ..HttpMessage::default() }),
            (None, None) => Ok(HttpMessage { body: self.rest()?, head, ..HttpMessage::default() }),
        }
    }

    /// Reads the body of a request with this head.
    pub fn request_body(&mut self, head: &str) -> io::Result<Vec<u8>> {
        if field(head, "transfer-encoding").is_some() {
            return self.chunked(String::new()).map(|message| message.body);
        }
        self.exactly(field(head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0))
    }

    /// Reads a head; `None` if the connection ends before the first byte of one.
    pub fn head(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = self.buffer.drain(..end + 4).collect();
                return String::from_utf8(head).map(Some).map_err(|_| io::ErrorKind::InvalidData.into());
            }
            if self.buffer.len() > HEAD_LIMIT_BYTES {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if self.fill()? == 0 {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        }
    }

    /// Reads exactly `length` bytes.
    pub fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.buffer.drain(..length).collect())
    }

    /// Reads up to the end of the connection, which must be a clean one.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        while self.fill()? > 0 {}
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Reads at least one byte unless the connection has ended.
    pub fn some(&mut self) -> io::Result<Vec<u8>> {
        if self.buffer.is_empty() {
            self.fill()?;
        }
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Reads and discards `count` bytes.
    pub fn skip(&mut self, mut count: u64) -> io::Result<()> {
        let held = self.buffer.len().min(usize::try_from(count).unwrap_or(usize::MAX));
        self.buffer.drain(..held);
        count -= held as u64;
        let mut piece = vec![0; 64 * 1024];
        while count > 0 {
            let most = piece.len().min(usize::try_from(count).unwrap_or(usize::MAX));
            match self.stream.read(&mut piece[..most])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                length => count -= length as u64,
            }
        }
        Ok(())
    }

    fn chunked(&mut self, head: String) -> io::Result<HttpMessage> {
        let mut message = HttpMessage { head, ..HttpMessage::default() };
        loop {
            let line = self.line()?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            if size == 0 {
                break;
            }
            message.body.extend(self.exactly(size)?);
            if self.exactly(2)? != b"\r\n" {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(message);
            }
            message.trailers += &line;
            message.trailers += "\n";
        }
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).take(end).collect();
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut piece = [0; 16 * 1024];
        let count = self.stream.read(&mut piece)?;
        self.buffer.extend_from_slice(&piece[..count]);
        Ok(count)
    }
}
