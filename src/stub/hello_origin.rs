//! A small HTTP origin that answers every request with the same page.

use crate::http::{BodyDiscarder, BodyFraming};
use crate::http::{FieldStorage, HeadEnd, RequestHead};

/// The page that `hello.*` serves.
pub const HELLO_PAGE: &str = "Hello from behind the proxy.\n";

/// Longest request head; a longer one is answered with 400.
const HEAD_LIMIT_BYTES: usize = 16 * 1024;

/// One connection to the origin.
#[derive(Debug)]
pub(super) struct HelloOrigin {
    buffer: Vec<u8>,
    head_end: HeadEnd,
    /// The request that is answered next, while its body is being received.
    body: Option<(BodyDiscarder, HelloRequest)>,
    ended: bool,
}

#[derive(Debug, Clone, Copy)]
struct HelloRequest {
    persists: bool,
    wants_body: bool,
    framing: BodyFraming,
}

impl Default for HelloOrigin {
    fn default() -> Self {
        HelloOrigin { buffer: Vec::new(), head_end: HeadEnd::request(), body: None, ended: false }
    }
}

impl HelloOrigin {
    /// Receives bytes of the client. Returns the responses to the requests that are now complete.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.buffer.extend_from_slice(bytes);
        let mut answers = Vec::new();
        while !self.ended && self.advance(&mut answers) {}
        answers
    }

    /// Whether the connection is to be closed, after an error or at the client's request.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Processes one head or one piece of a body. Returns `false` if more bytes are needed, or after an error.
    fn advance(&mut self, answers: &mut Vec<u8>) -> bool {
        if let Some((drain, request)) = &mut self.body {
            let request = *request;
            let Ok(drained) = drain.feed(&self.buffer) else {
                return self.refuse(answers);
            };
            self.buffer.drain(..drained.consumed);
            if drained.done {
                self.body = None;
                self.answer(request, answers);
            }
            return drained.done;
        }
        let length = match self.head_end.find(&self.buffer, HEAD_LIMIT_BYTES) {
            Ok(Some(length)) => length,
            Ok(None) => return false,
            Err(_) => return self.refuse(answers),
        };
        let head = self.buffer.drain(..length).collect::<Vec<_>>();
        self.head_end = HeadEnd::request();
        let Ok(request) = read(&head) else {
            return self.refuse(answers);
        };
        self.body = Some((BodyDiscarder::new(request.framing, u64::MAX), request));
        true
    }

    fn answer(&mut self, request: HelloRequest, answers: &mut Vec<u8>) {
        self.ended = !request.persists;
        let connection = if request.persists { "keep-alive" } else { "close" };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n",
            HELLO_PAGE.len()
        );
        answers.extend_from_slice(head.as_bytes());
        if request.wants_body {
            answers.extend_from_slice(HELLO_PAGE.as_bytes());
        }
    }

    fn refuse(&mut self, answers: &mut Vec<u8>) -> bool {
        answers.extend_from_slice(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        self.ended = true;
        false
    }
}

fn read(head: &[u8]) -> Result<HelloRequest, crate::http::RequestError> {
    let mut storage = FieldStorage::new();
    let head = RequestHead::parse(head, &mut storage)?;
    Ok(HelloRequest { persists: head.persists(), wants_body: head.method != "HEAD", framing: head.framing })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_answered_in_order_until_one_asks_to_close() {
        let mut hello = HelloOrigin::default();
        let requests = b"GET / HTTP/1.1\r\nHost: h\r\n\r\nPOST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc\
            HEAD / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
        let answers: Vec<u8> = requests.iter().flat_map(|byte| hello.receive(&[*byte])).collect();
        let answers = String::from_utf8(answers).unwrap();
        assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 3);
        assert_eq!(answers.matches(HELLO_PAGE).count(), 2);
        assert!(answers.ends_with("Connection: close\r\n\r\n"));
        assert!(hello.has_ended());
        assert_eq!(hello.receive(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"), b"");
    }

    #[test]
    fn a_malformed_request_is_answered_with_400_and_a_close() {
        let mut hello = HelloOrigin::default();
        assert!(hello.receive(b"\x16\x03\x01\r\n\r\n").starts_with(b"HTTP/1.1 400"));
        assert!(hello.has_ended());
    }
}
