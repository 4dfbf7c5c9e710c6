//! One keep-alive connection that sends plain HTTP requests, one after the other.

use std::io::{self, ErrorKind, Read, Write};
use std::time::Instant;

use mio::net::TcpStream;
use ntlm_gateway::stub::{Checksum, HELLO_PAGE, pattern_block, sink_line};

use super::answer;
use super::tally::{Failure, Tally};
use crate::scenario::Load;

/// The request that a run sends, and the expected answer.
pub struct RequestSpec {
    request: Vec<u8>,
    expected: Vec<u8>,
    verify: bool,
}

impl RequestSpec {
    /// A GET of the stub's small page, or a POST of the pattern's first bytes to its sink.
    pub fn new(load: &Load) -> RequestSpec {
        if load.body_bytes == 0 {
            let request = head("GET", "hello.test", "");
            return RequestSpec { request, expected: HELLO_PAGE.as_bytes().to_vec(), verify: load.verify };
        }
        let mut request = head("POST", "sink.test", &format!("Content-Length: {}\r\n", load.body_bytes));
        let body = pattern_block(0).get(..load.body_bytes).unwrap_or_default();
        request.extend_from_slice(body);
        let mut sum = Checksum::default();
        sum.update(body);
        RequestSpec { request, expected: sink_line(&sum).into_bytes(), verify: load.verify }
    }
}

/// A head as an HTTP library would send it.
fn head(method: &str, host: &str, fields: &str) -> Vec<u8> {
    format!(
        "{method} http://{host}/index.html HTTP/1.1\r\nHost: {host}\r\nUser-Agent: ntlm-loadtest\r\nAccept: */*\r\n\
         Accept-Encoding: gzip\r\nProxy-Connection: keep-alive\r\n{fields}\r\n"
    )
    .into_bytes()
}

/// A connection.
pub struct Requester {
    pub stream: TcpStream,
    state: RequesterState,
    begun: Instant,
    /// Received but not used yet.
    buffer: Vec<u8>,
    /// Answers received so far.
    pub answered: u64,
    /// When it last made progress.
    pub last_activity: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequesterState {
    Connecting,
    Free,
    /// `since` is the intended start of the request.
    Waiting {
        sent: usize,
        since: Instant,
    },
}

/// What a connection is waiting for, or has done.
#[derive(Debug, PartialEq, Eq)]
pub enum RequesterStatus {
    /// Waiting for its socket.
    Wait,
    /// Ready for a request.
    Free,
    /// Received the answer to the request that was intended to start at `since`.
    Answered { since: Instant, keeps: bool },
    /// The other side closed it between two requests.
    Ended,
}

impl Requester {
    /// A connection whose TCP handshake is in progress.
    pub fn new(stream: TcpStream) -> Requester {
        let now = Instant::now();
        Requester {
            stream,
            state: RequesterState::Connecting,
            begun: now,
            buffer: Vec::new(),
            answered: 0,
            last_activity: now,
        }
    }

    /// What it is doing, as part of an error's name.
    pub fn activity(&self) -> &'static str {
        match self.state {
            RequesterState::Connecting => "connecting",
            RequesterState::Free => "between two requests",
            RequesterState::Waiting { .. } => "waiting for an answer",
        }
    }

    /// Whether it can send a request.
    pub fn is_free(&self) -> bool {
        self.state == RequesterState::Free
    }

    /// Whether it is waiting for an answer.
    pub fn is_waiting(&self) -> bool {
        matches!(self.state, RequesterState::Waiting { .. })
    }

    /// Starts a request; the caller must then drive the connection.
    pub fn send_request(&mut self, since: Instant) {
        self.last_activity = Instant::now();
        self.state = RequesterState::Waiting { sent: 0, since };
    }

    /// Does everything that is possible now.
    ///
    /// # Errors
    /// If the connection has failed; it must not be used again.
    pub fn drive(
        &mut self,
        spec: &RequestSpec,
        scratch: &mut [u8],
        tally: &mut Tally,
    ) -> Result<RequesterStatus, Failure> {
        match self.state {
            RequesterState::Connecting => self.connect(tally),
            RequesterState::Free => match self.receive(scratch, tally)? {
                None => Ok(RequesterStatus::Wait),
                Some(0) => Ok(RequesterStatus::Ended),
                Some(_) => Err(Failure::StrayBytes),
            },
            RequesterState::Waiting { sent, since } => self.exchange(sent, since, spec, scratch, tally),
        }
    }

    fn connect(&mut self, tally: &mut Tally) -> Result<RequesterStatus, Failure> {
        let failed = Failure::io("connecting");
        if let Some(error) = self.stream.take_error().map_err(&failed)? {
            return Err(failed(error));
        }
        match self.stream.peer_addr() {
            Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(RequesterStatus::Wait),
            result => result.map_err(&failed)?,
        };
        self.stream.set_nodelay(true).map_err(&failed)?;
        self.last_activity = Instant::now();
        tally.latency("connect", self.last_activity - self.begun);
        self.state = RequesterState::Free;
        Ok(RequesterStatus::Free)
    }

    fn exchange(
        &mut self,
        mut sent: usize,
        since: Instant,
        spec: &RequestSpec,
        scratch: &mut [u8],
        tally: &mut Tally,
    ) -> Result<RequesterStatus, Failure> {
        while let Some(rest) = spec.request.get(sent..).filter(|rest| !rest.is_empty()) {
            let Some(count) = would_block(self.stream.write(rest), "sending a request")? else { break };
            tally.bytes_up += count as u64;
            sent += count;
            self.state = RequesterState::Waiting { sent, since };
        }
        // A short read means that the socket is empty; the next edge will report more.
        loop {
            let Some(count) = self.receive(scratch, tally)? else { return Ok(RequesterStatus::Wait) };
            if count == 0 {
                return Err(Failure::EndBeforeAnswer);
            }
            if let Some(next) = self.check_answer(since, spec, tally)? {
                return Ok(next);
            }
            if count < scratch.len() {
                return Ok(RequesterStatus::Wait);
            }
        }
    }

    /// Checks whether the buffer holds the complete answer.
    fn check_answer(
        &mut self,
        since: Instant,
        spec: &RequestSpec,
        tally: &mut Tally,
    ) -> Result<Option<RequesterStatus>, Failure> {
        let Some(answer) = answer::read(&self.buffer)? else { return Ok(None) };
        if answer.status != 200 {
            return Err(Failure::Status(answer.status));
        }
        if spec.verify && answer.body != spec.expected.as_slice() {
            return Err(Failure::BodyDiffers);
        }
        let (keeps, bytes) = (answer.keeps, answer.bytes);
        if bytes != self.buffer.len() {
            return Err(Failure::StrayBytes);
        }
        self.buffer.clear();
        if self.answered == 0 {
            tally.latency("ready", self.last_activity - self.begun);
            tally.tunnels.opened += 1;
        }
        self.answered += 1;
        self.state = RequesterState::Free;
        Ok(Some(RequesterStatus::Answered { since, keeps }))
    }

    /// Reads once; `None` if the socket would block.
    fn receive(&mut self, scratch: &mut [u8], tally: &mut Tally) -> Result<Option<usize>, Failure> {
        let activity = self.activity();
        let Some(count) = would_block(self.stream.read(scratch), activity)? else { return Ok(None) };
        self.buffer.extend_from_slice(scratch.get(..count).unwrap_or_default());
        tally.bytes_down += count as u64;
        self.last_activity = Instant::now();
        Ok(Some(count))
    }
}

/// `None` if the socket would block.
fn would_block(result: io::Result<usize>, activity: &'static str) -> Result<Option<usize>, Failure> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(Failure::io(activity)(error)),
    }
}
