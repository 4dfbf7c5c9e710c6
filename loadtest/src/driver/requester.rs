//! One keep-alive connection that plain HTTP requests go over, one after the other.

use std::io::{self, ErrorKind, Read, Write};
use std::time::Instant;

use mio::net::TcpStream;
use ntlm_gateway::stub::{Checksum, HELLO_PAGE, pattern_block, sink_line};

use super::answer;
use super::tally::{Failure, Tally};
use crate::scenario::Load;

/// What each request of a run is, and what comes back.
pub struct Errand {
    request: Vec<u8>,
    expected: Vec<u8>,
    verify: bool,
}

impl Errand {
    /// A GET of the stub's small page, or a POST of the pattern's first bytes to its sink.
    pub fn new(load: &Load) -> Errand {
        if load.body_bytes == 0 {
            let request = head("GET", "hello.test", "");
            return Errand { request, expected: HELLO_PAGE.as_bytes().to_vec(), verify: load.verify };
        }
        let mut request = head("POST", "sink.test", &format!("Content-Length: {}\r\n", load.body_bytes));
        let body = pattern_block(0).get(..load.body_bytes).unwrap_or_default();
        request.extend_from_slice(body);
        let mut sum = Checksum::default();
        sum.update(body);
        Errand { request, expected: sink_line(&sum).into_bytes(), verify: load.verify }
    }
}

/// Fields as a program's HTTP library would send them.
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
    stage: Stage,
    begun: Instant,
    /// Came and was not used.
    buffer: Vec<u8>,
    /// Answers so far.
    pub answered: u64,
    /// When it last moved.
    pub touched: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connecting,
    Free,
    /// The request should have begun at `since`.
    Asking {
        sent: usize,
        since: Instant,
    },
}

/// What a connection waits for, or what it has done.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Its socket.
    Wait,
    /// It can take a request.
    Free,
    /// The answer has come to the request that should have begun then.
    Answered { since: Instant, keeps: bool },
    /// The other side ended it between two requests.
    Ended,
}

impl Requester {
    /// A connection that is under way.
    pub fn new(stream: TcpStream) -> Requester {
        let now = Instant::now();
        Requester { stream, stage: Stage::Connecting, begun: now, buffer: Vec::new(), answered: 0, touched: now }
    }

    /// What it is doing, for the kind of an error.
    pub fn doing(&self) -> &'static str {
        match self.stage {
            Stage::Connecting => "connecting",
            Stage::Free => "between two requests",
            Stage::Asking { .. } => "waiting for an answer",
        }
    }

    /// Whether it can take a request.
    pub fn is_free(&self) -> bool {
        self.stage == Stage::Free
    }

    /// Whether a request of its is without its answer.
    pub fn is_asking(&self) -> bool {
        matches!(self.stage, Stage::Asking { .. })
    }

    /// Takes a request; the connection must be driven then.
    pub fn ask(&mut self, since: Instant) {
        self.touched = Instant::now();
        self.stage = Stage::Asking { sent: 0, since };
    }

    /// Does what can be done.
    ///
    /// # Errors
    /// When the connection has failed; it is of no further use then.
    pub fn drive(&mut self, errand: &Errand, scratch: &mut [u8], tally: &mut Tally) -> Result<Next, Failure> {
        match self.stage {
            Stage::Connecting => self.connect(tally),
            Stage::Free => match self.receive(scratch, tally)? {
                None => Ok(Next::Wait),
                Some(0) => Ok(Next::Ended),
                Some(_) => Err(Failure::StrayBytes),
            },
            Stage::Asking { sent, since } => self.exchange(sent, since, errand, scratch, tally),
        }
    }

    fn connect(&mut self, tally: &mut Tally) -> Result<Next, Failure> {
        let failed = Failure::io("connecting");
        if let Some(error) = self.stream.take_error().map_err(&failed)? {
            return Err(failed(error));
        }
        match self.stream.peer_addr() {
            Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(Next::Wait),
            result => result.map_err(&failed)?,
        };
        self.stream.set_nodelay(true).map_err(&failed)?;
        self.touched = Instant::now();
        tally.latency("connect", self.touched - self.begun);
        self.stage = Stage::Free;
        Ok(Next::Free)
    }

    fn exchange(
        &mut self,
        mut sent: usize,
        since: Instant,
        errand: &Errand,
        scratch: &mut [u8],
        tally: &mut Tally,
    ) -> Result<Next, Failure> {
        while let Some(rest) = errand.request.get(sent..).filter(|rest| !rest.is_empty()) {
            let Some(count) = blocking(self.stream.write(rest), "sending a request")? else { break };
            tally.bytes_up += count as u64;
            sent += count;
            self.stage = Stage::Asking { sent, since };
        }
        // A socket that gave less than was asked has no more; the next edge will tell.
        loop {
            let Some(count) = self.receive(scratch, tally)? else { return Ok(Next::Wait) };
            if count == 0 {
                return Err(Failure::EndBeforeAnswer);
            }
            if let Some(next) = self.heed(since, errand, tally)? {
                return Ok(next);
            }
            if count < scratch.len() {
                return Ok(Next::Wait);
            }
        }
    }

    /// Looks for the whole answer in what has come.
    fn heed(&mut self, since: Instant, errand: &Errand, tally: &mut Tally) -> Result<Option<Next>, Failure> {
        let Some(answer) = answer::read(&self.buffer)? else { return Ok(None) };
        if answer.status != 200 {
            return Err(Failure::Status(answer.status));
        }
        if errand.verify && answer.body != errand.expected.as_slice() {
            return Err(Failure::BodyDiffers);
        }
        let (keeps, bytes) = (answer.keeps, answer.bytes);
        if bytes != self.buffer.len() {
            return Err(Failure::StrayBytes);
        }
        self.buffer.clear();
        if self.answered == 0 {
            tally.latency("ready", self.touched - self.begun);
            tally.tunnels.opened += 1;
        }
        self.answered += 1;
        self.stage = Stage::Free;
        Ok(Some(Next::Answered { since, keeps }))
    }

    /// Reads once; `None` when the socket would block.
    fn receive(&mut self, scratch: &mut [u8], tally: &mut Tally) -> Result<Option<usize>, Failure> {
        let doing = self.doing();
        let Some(count) = blocking(self.stream.read(scratch), doing)? else { return Ok(None) };
        self.buffer.extend_from_slice(scratch.get(..count).unwrap_or_default());
        tally.bytes_down += count as u64;
        self.touched = Instant::now();
        Ok(Some(count))
    }
}

/// `None` when the socket would block.
fn blocking(result: io::Result<usize>, doing: &'static str) -> Result<Option<usize>, Failure> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(Failure::io(doing)(error)),
    }
}
