//! One tunnel from the client's side.
//!
//! ```text
//! Connecting → SendHead → ReadHead → Idle → Echo ⇄ Pausing
//!                                         → Down
//!                                         → Up → Receipt
//! ```
//!
//! Sockets are registered edge-triggered. A step may be tried at any time; it goes on until the socket would block, or
//! until its budget is used up.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use ntlm_gateway::stub::{Checksum, pattern_block, pattern_mismatch, sink_line};

use super::job::{Job, Point};
use super::tally::{Failure, Tally};
use crate::scenario::Load;

/// Longest answer head to CONNECT.
const HEAD_LIMIT_BYTES: usize = 16 * 1024;
/// Longest line of a sink.
const RECEIPT_LIMIT_BYTES: usize = 256;
/// Bytes that one tunnel may move before it is the others' turn.
const BUDGET_BYTES: usize = 1 << 20;
/// Most bytes given to one write.
const WRITE_BYTES: usize = 256 * 1024;
/// Bytes of a download after which a client vanishes.
const VANISH_AFTER_BYTES: u64 = 300_000;

/// A tunnel.
pub struct Conn {
    pub stream: TcpStream,
    pub job: Job,
    number: u64,
    stage: Stage,
    /// When it should have begun.
    intended: Instant,
    /// When it last moved.
    pub touched: Instant,
}

enum Stage {
    Connecting,
    SendHead { head: Vec<u8>, sent: usize },
    ReadHead { head: Vec<u8> },
    Idle,
    Echo { done: u64, sent: usize, got: usize, since: Instant },
    Pausing { done: u64 },
    Down { got: u64, since: Instant },
    Up { sent: u64, since: Instant },
    Receipt { line: Vec<u8>, since: Instant },
    Vanishing { reset: bool },
}

/// What a tunnel waits for, or that it is over.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Its socket.
    Wait,
    /// Its next turn; its socket may be ready still.
    Again,
    /// The 200 has come; [`Conn::begin_work`] goes on.
    Opened,
    Pause(Duration),
    Done,
    Vanish {
        reset: bool,
    },
}

/// What all tunnels of a driver use in turn.
pub struct Common<'a> {
    pub load: &'a Load,
    pub tally: Tally,
    pub scratch: Vec<u8>,
    /// What a sink says of `load.bulk_bytes` and the like, by length.
    receipts: Vec<(u64, String)>,
    pub stopping: bool,
}

type Step = Result<Option<Next>, Failure>;

impl<'a> Common<'a> {
    pub fn new(load: &'a Load) -> Common<'a> {
        Common { load, tally: Tally::new(), scratch: vec![0; 256 * 1024], receipts: Vec::new(), stopping: false }
    }

    /// The line of a sink that got the first `bytes` of the pattern.
    fn receipt(&mut self, bytes: u64) -> &str {
        let place = self.receipts.iter().position(|(known, _)| *known == bytes).unwrap_or_else(|| {
            self.receipts.push((bytes, sink_line(&checksum_of_pattern(bytes))));
            self.receipts.len() - 1
        });
        self.receipts.get(place).map_or("", |(_, line)| line)
    }

    /// Makes the costly things beforehand, so that they do not fall into the measurement.
    pub fn prepare(&mut self, job: &Job) {
        match job {
            Job::Up { bytes } if self.load.verify => {
                self.receipt(*bytes);
            }
            _ => {
                let _made = pattern_block(0);
            }
        }
    }
}

fn checksum_of_pattern(bytes: u64) -> Checksum {
    let mut sum = Checksum::default();
    while sum.count() < bytes {
        let block = pattern_block(sum.count());
        let left = usize::try_from(bytes - sum.count()).unwrap_or(usize::MAX);
        sum.update(&block[..block.len().min(left)]);
    }
    sum
}

/// `None` when the socket would block.
fn would_block(result: io::Result<usize>, doing: &'static str) -> Result<Option<usize>, Failure> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(Failure::io(doing)(error)),
    }
}

impl Conn {
    /// A tunnel whose TCP connection is under way.
    pub fn new(stream: TcpStream, job: Job, number: u64, intended: Instant) -> Conn {
        Conn { stream, job, number, stage: Stage::Connecting, intended, touched: Instant::now() }
    }

    /// What it is doing, for the kind of an error.
    pub fn doing(&self) -> &'static str {
        match self.stage {
            Stage::Connecting => "connecting",
            Stage::SendHead { .. } | Stage::ReadHead { .. } => "waiting for the answer to CONNECT",
            Stage::Idle | Stage::Pausing { .. } => "idling",
            Stage::Echo { .. } => "waiting for an echo",
            Stage::Down { .. } => "in a download",
            Stage::Up { .. } => "in an upload",
            Stage::Receipt { .. } => "waiting for the receipt of an upload",
            Stage::Vanishing { .. } => "before vanishing",
        }
    }

    /// Whether standing still is what it should do now.
    pub fn may_rest(&self) -> bool {
        matches!(self.stage, Stage::Idle | Stage::Pausing { .. } | Stage::Vanishing { .. })
    }

    /// Whether the 200 has come.
    pub fn is_open(&self) -> bool {
        !matches!(self.stage, Stage::Connecting | Stage::SendHead { .. } | Stage::ReadHead { .. })
    }

    /// Whether it waits to be told to begin its work.
    pub fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Idle)
    }

    /// Goes on with the job after [`Next::Opened`] or [`Next::Pause`].
    pub fn begin_work(&mut self) {
        let since = Instant::now();
        self.touched = since;
        self.stage = match (&self.job, &self.stage) {
            (_, Stage::Vanishing { reset }) => Stage::Vanishing { reset: *reset },
            (Job::Echo { .. }, Stage::Pausing { done }) => Stage::Echo { done: *done, sent: 0, got: 0, since },
            (Job::Echo { .. }, _) => Stage::Echo { done: 0, sent: 0, got: 0, since },
            (Job::Down { .. }, _) | (Job::Vanish { at: Point::Download, .. }, _) => Stage::Down { got: 0, since },
            (Job::Up { .. }, _) => Stage::Up { sent: 0, since },
            (Job::Vanish { at: Point::MessageSent, .. }, _) => Stage::Echo { done: 0, sent: 0, got: 0, since },
            (Job::Vanish { reset, .. }, _) => Stage::Vanishing { reset: *reset },
        };
    }

    /// Does what can be done.
    ///
    /// # Errors
    /// When the tunnel has failed; it is of no further use then.
    pub fn drive(&mut self, common: &mut Common<'_>) -> Result<Next, Failure> {
        let mut budget = BUDGET_BYTES;
        loop {
            let step = match &self.stage {
                Stage::Connecting => self.connect(common)?,
                Stage::SendHead { .. } => self.send_head()?,
                Stage::ReadHead { .. } => self.read_head(common)?,
                Stage::Idle | Stage::Pausing { .. } => self.rest(common)?,
                Stage::Echo { .. } => self.echo(common)?,
                Stage::Down { .. } => self.receive(common, &mut budget)?,
                Stage::Up { .. } => self.send(common, &mut budget)?,
                Stage::Receipt { .. } => self.read_receipt(common)?,
                Stage::Vanishing { reset } => Some(Next::Vanish { reset: *reset }),
            };
            if let Some(next) = step {
                return Ok(next);
            }
        }
    }

    fn connect(&mut self, common: &mut Common<'_>) -> Step {
        if let Some(error) = self.stream.take_error().map_err(Failure::io("connecting"))? {
            return Err(Failure::io("connecting")(error));
        }
        match self.stream.peer_addr() {
            Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(Some(Next::Wait)),
            result => result.map_err(Failure::io("connecting"))?,
        };
        self.stream.set_nodelay(true).map_err(Failure::io("connecting"))?;
        self.touched = Instant::now();
        common.tally.latency("connect", self.touched - self.intended);
        if let Job::Vanish { at: Point::Connected, reset } = self.job {
            return Ok(Some(Next::Vanish { reset }));
        }
        let host = self.job.host();
        let head = format!("CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n").into_bytes();
        self.stage = Stage::SendHead { head, sent: 0 };
        Ok(None)
    }

    fn send_head(&mut self) -> Step {
        let Stage::SendHead { head, sent } = &mut self.stage else { return Ok(Some(Next::Wait)) };
        let end = if let Job::Vanish { at: Point::HalfHead, .. } = self.job { head.len() / 2 } else { head.len() };
        let rest = head.get(*sent..end).unwrap_or_default();
        let Some(count) = would_block(self.stream.write(rest), "sending CONNECT")? else { return Ok(Some(Next::Wait)) };
        *sent += count;
        if *sent < end {
            return Ok(None);
        }
        match self.job {
            Job::Vanish { at: Point::HalfHead, reset } => Ok(Some(Next::Vanish { reset })),
            Job::Vanish { at: Point::HeadSent(after), reset } => {
                self.stage = Stage::Vanishing { reset };
                Ok(Some(Next::Pause(after)))
            }
            _ => {
                self.stage = Stage::ReadHead { head: Vec::new() };
                Ok(None)
            }
        }
    }

    fn read_head(&mut self, common: &mut Common<'_>) -> Step {
        let Stage::ReadHead { head } = &mut self.stage else { return Ok(Some(Next::Wait)) };
        // Never reads beyond the head: what comes behind it stays in the socket for the next stage. So the end of the
        // head is looked for before it is taken out.
        let Some(seen) = would_block(self.stream.peek(&mut common.scratch), "waiting for the answer to CONNECT")?
        else {
            return Ok(Some(Next::Wait));
        };
        if seen == 0 {
            return Err(Failure::EndInHead);
        }
        let kept = head.len();
        head.extend_from_slice(common.scratch.get(..seen.min(HEAD_LIMIT_BYTES)).unwrap_or_default());
        let end = head.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
        if end.is_none() && head.len() > HEAD_LIMIT_BYTES {
            return Err(Failure::NoHttp);
        }
        let taken = end.unwrap_or(head.len()) - kept;
        head.truncate(kept + taken);
        let take = common.scratch.get_mut(..taken).unwrap_or_default();
        self.stream.read_exact(take).map_err(Failure::io("waiting for the answer to CONNECT"))?;
        if end.is_none() {
            return Ok(None);
        }
        let status = status_of(head).ok_or(Failure::NoHttp)?;
        if (100..200).contains(&status) {
            head.clear();
            return Ok(None);
        }
        if !(200..300).contains(&status) {
            return Err(Failure::Status(status));
        }
        self.touched = Instant::now();
        common.tally.latency("ready", self.touched - self.intended);
        common.tally.tunnels.opened += 1;
        self.stage = Stage::Idle;
        Ok(Some(Next::Opened))
    }

    fn rest(&mut self, common: &mut Common<'_>) -> Step {
        match would_block(self.stream.read(&mut common.scratch), "idling")? {
            None => Ok(Some(Next::Wait)),
            Some(0) => Err(Failure::EndWhileIdle),
            Some(_) => Err(Failure::StrayBytes),
        }
    }

    fn echo(&mut self, common: &mut Common<'_>) -> Step {
        let Stage::Echo { done, sent, got, since } = &mut self.stage else { return Ok(Some(Next::Wait)) };
        let (messages, bytes, pause) = match self.job {
            Job::Echo { messages, bytes, pause } => (messages, bytes, pause),
            _ => (1, common.load.message_bytes, Duration::ZERO),
        };
        // A place of its own in the pattern, so that an echo of another tunnel or message is seen.
        let offset = self.number.wrapping_mul(4099).wrapping_add(*done * bytes as u64);
        if *sent < bytes {
            let message = pattern_block(offset).get(*sent..bytes).unwrap_or_default();
            if let Some(count) = would_block(self.stream.write(message), "sending a message")? {
                *sent += count;
                common.tally.bytes_up += count as u64;
            }
            if let Job::Vanish { at: Point::MessageSent, reset } = self.job {
                return Ok(Some(Next::Vanish { reset }));
            }
        }
        let room = common.scratch.len();
        let buffer = common.scratch.get_mut(..room.min(bytes - *got + 1)).unwrap_or_default();
        let Some(count) = would_block(self.stream.read(buffer), "waiting for an echo")? else {
            return Ok(Some(Next::Wait));
        };
        let echoed = buffer.get(..count).unwrap_or_default();
        if count == 0 {
            return Err(Failure::EndInEcho);
        }
        common.tally.bytes_down += count as u64;
        if *got + count > bytes || pattern_mismatch(echoed, offset + *got as u64).is_some() {
            return Err(Failure::EchoDiffers);
        }
        *got += count;
        self.touched = Instant::now();
        if *got < bytes {
            return Ok(None);
        }
        common.tally.latency("message", self.touched - *since);
        common.tally.messages += 1;
        *done += 1;
        if *done >= messages || common.stopping {
            return Ok(Some(Next::Done));
        }
        if !pause.is_zero() {
            self.stage = Stage::Pausing { done: *done };
            return Ok(Some(Next::Pause(pause)));
        }
        (*sent, *got, *since) = (0, 0, self.touched);
        Ok(None)
    }

    fn receive(&mut self, common: &mut Common<'_>, budget: &mut usize) -> Step {
        let Stage::Down { got, since } = &mut self.stage else { return Ok(Some(Next::Wait)) };
        if *budget == 0 {
            return Ok(Some(Next::Again));
        }
        let Some(count) = would_block(self.stream.read(&mut common.scratch), "in a download")? else {
            return Ok(Some(Next::Wait));
        };
        let bytes = common.scratch.get(..count).unwrap_or_default();
        if common.load.verify && pattern_mismatch(bytes, *got).is_some() {
            return Err(Failure::PatternDiffers);
        }
        *got += count as u64;
        *budget = budget.saturating_sub(count);
        common.tally.bytes_down += count as u64;
        self.touched = Instant::now();
        match self.job {
            Job::Vanish { reset, .. } if *got > VANISH_AFTER_BYTES || count == 0 => Ok(Some(Next::Vanish { reset })),
            Job::Down { bytes } if *got > bytes => Err(Failure::LongDownload),
            Job::Down { bytes } if count == 0 && *got < bytes => Err(Failure::ShortDownload),
            _ if count == 0 => {
                common.tally.latency("transfer", self.touched - *since);
                Ok(Some(Next::Done))
            }
            _ => Ok(None),
        }
    }

    fn send(&mut self, common: &mut Common<'_>, budget: &mut usize) -> Step {
        let (Stage::Up { sent, since }, Job::Up { bytes }) = (&mut self.stage, &self.job) else {
            return Ok(Some(Next::Wait));
        };
        if *budget == 0 {
            return Ok(Some(Next::Again));
        }
        let block = pattern_block(*sent);
        let left = usize::try_from(*bytes - *sent).unwrap_or(usize::MAX);
        let piece = block.get(..block.len().min(left).min(WRITE_BYTES)).unwrap_or_default();
        let Some(count) = would_block(self.stream.write(piece), "in an upload")? else { return Ok(Some(Next::Wait)) };
        *sent += count as u64;
        *budget = budget.saturating_sub(count);
        common.tally.bytes_up += count as u64;
        self.touched = Instant::now();
        if sent == bytes {
            self.stream.shutdown(Shutdown::Write).map_err(Failure::io("ending an upload"))?;
            self.stage = Stage::Receipt { line: Vec::new(), since: *since };
        }
        Ok(None)
    }

    fn read_receipt(&mut self, common: &mut Common<'_>) -> Step {
        let (Stage::Receipt { line, since }, Job::Up { bytes }) = (&mut self.stage, &self.job) else {
            return Ok(Some(Next::Wait));
        };
        let Some(count) = would_block(self.stream.read(&mut common.scratch), "waiting for the receipt of an upload")?
        else {
            return Ok(Some(Next::Wait));
        };
        line.extend_from_slice(common.scratch.get(..count.min(RECEIPT_LIMIT_BYTES)).unwrap_or_default());
        common.tally.bytes_down += count as u64;
        self.touched = Instant::now();
        if count > 0 && line.len() < RECEIPT_LIMIT_BYTES {
            return Ok(None);
        }
        if line.is_empty() {
            return Err(Failure::NoReceipt);
        }
        let agrees = if common.load.verify {
            line.as_slice() == common.receipt(*bytes).as_bytes()
        } else {
            line.starts_with(format!("sink bytes={bytes} ").as_bytes())
        };
        if !agrees {
            return Err(Failure::WrongReceipt);
        }
        common.tally.latency("transfer", self.touched - *since);
        Ok(Some(Next::Done))
    }
}

/// The status code of an answer's head.
fn status_of(head: &[u8]) -> Option<u16> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    let line = std::str::from_utf8(line).ok()?.strip_prefix("HTTP/1.")?;
    line.split(' ').nth(1)?.parse().ok()
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
    fn the_checksum_of_the_pattern_does_not_depend_on_its_blocks() {
        let mut bytes = vec![0; 1_000_001];
        ntlm_gateway::stub::fill_pattern(&mut bytes, 0);
        let mut sum = Checksum::default();
        sum.update(&bytes);
        assert_eq!(checksum_of_pattern(1_000_001), sum);
    }
}
