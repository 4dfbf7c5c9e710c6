//! One tunnel, seen from the client.
//!
//! ```text
//! Connecting → SendHead → ReadHead → Idle → Echo ⇄ Pausing
//!                                         → Down
//!                                         → Up → Receipt
//! ```
//!
//! Sockets are registered edge-triggered. A state may be driven at any time; it continues until the socket would block
//! or its budget is used up.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use ntlm_gateway::stub::{Checksum, pattern_block, pattern_mismatch, sink_line};

use super::job::{Job, Point};
use super::opening::{Next, Opening};
use super::tally::{Failure, Tally};
use crate::scenario::Load;

/// Longest line from a sink.
const RECEIPT_LIMIT_BYTES: usize = 256;
/// Bytes that one tunnel may move before the others get a turn.
const BUDGET_BYTES: usize = 1 << 20;
/// Most bytes per write.
const WRITE_BYTES: usize = 256 * 1024;
/// Bytes of a download after which a client disappears.
const VANISH_AFTER_BYTES: u64 = 300_000;

/// A tunnel.
pub struct Tunnel {
    pub stream: TcpStream,
    pub job: Job,
    number: u64,
    state: TunnelState,
    /// Messages that were echoed when it was opened.
    done_at_opening: u64,
    /// When it was intended to start.
    intended: Instant,
    /// When it last made progress.
    pub last_activity: Instant,
}

enum TunnelState {
    Connecting,
    SendHead { opening: Opening, head: Vec<u8>, sent: usize },
    ReadHead { opening: Opening, head: Vec<u8> },
    Idle,
    Echo { done: u64, sent: usize, got: usize, since: Instant },
    Pausing { done: u64 },
    Down { got: u64, since: Instant },
    Up { sent: u64, since: Instant },
    Receipt { line: Vec<u8>, since: Instant },
    Vanishing { reset: bool },
}

/// What a tunnel is waiting for, or how it has ended.
#[derive(Debug, PartialEq, Eq)]
pub enum TunnelStatus {
    /// Waiting for its socket.
    Wait,
    /// Yielding; its socket may still be ready.
    Again,
    /// Received the 200; [`Tunnel::start_work`] continues.
    Opened,
    Pause(Duration),
    Done,
    Vanish {
        reset: bool,
    },
}

/// Shared by all tunnels of a driver.
pub struct DriverContext<'a> {
    pub load: &'a Load,
    pub tally: Tally,
    pub scratch: Vec<u8>,
    /// Expected lines from a sink, by length.
    receipts: Vec<(u64, String)>,
    pub stopping: bool,
    /// A bulk transfer goes on beside the messages.
    pub has_bulk: bool,
}

type StepResult = Result<Option<TunnelStatus>, Failure>;

impl<'a> DriverContext<'a> {
    pub fn new(load: &'a Load) -> DriverContext<'a> {
        DriverContext {
            load,
            tally: Tally::new(),
            scratch: vec![0; 256 * 1024],
            receipts: Vec::new(),
            stopping: false,
            has_bulk: false,
        }
    }

    /// The line from a sink that received the first `bytes` of the pattern.
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
fn would_block(result: io::Result<usize>, activity: &'static str) -> Result<Option<usize>, Failure> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(Failure::io(activity)(error)),
    }
}

impl Tunnel {
    /// A tunnel whose TCP connection is under way.
    pub fn new(stream: TcpStream, job: Job, number: u64, intended: Instant) -> Tunnel {
        let (state, last_activity) = (TunnelState::Connecting, Instant::now());
        Tunnel { stream, job, number, state, done_at_opening: 0, intended, last_activity }
    }

    /// What it is doing, as part of an error's name.
    pub fn activity(&self) -> &'static str {
        match self.state {
            TunnelState::Connecting => "connecting",
            TunnelState::SendHead { ref opening, .. } | TunnelState::ReadHead { ref opening, .. } => opening.activity(),
            TunnelState::Idle | TunnelState::Pausing { .. } => "idling",
            TunnelState::Echo { .. } => "waiting for an echo",
            TunnelState::Down { .. } => "in a download",
            TunnelState::Up { .. } => "in an upload",
            TunnelState::Receipt { .. } => "waiting for the receipt of an upload",
            TunnelState::Vanishing { .. } => "before vanishing",
        }
    }

    /// Whether it is right to make no progress now.
    pub fn may_idle(&self) -> bool {
        matches!(self.state, TunnelState::Idle | TunnelState::Pausing { .. } | TunnelState::Vanishing { .. })
    }

    /// Whether it has received the 200.
    pub fn is_open(&self) -> bool {
        !matches!(self.state, TunnelState::Connecting | TunnelState::SendHead { .. } | TunnelState::ReadHead { .. })
    }

    /// Whether it is waiting for its work to start.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, TunnelState::Idle)
    }

    /// Continues after [`TunnelStatus::Opened`] or [`TunnelStatus::Pause`].
    pub fn start_work(&mut self) {
        let since = Instant::now();
        self.last_activity = since;
        self.state = match (&self.job, &self.state) {
            (_, TunnelState::Vanishing { reset }) => TunnelState::Vanishing { reset: *reset },
            (Job::Echo { .. }, TunnelState::Pausing { done }) => {
                TunnelState::Echo { done: *done, sent: 0, got: 0, since }
            }
            (Job::Echo { .. }, _) => TunnelState::Echo { done: self.done_at_opening, sent: 0, got: 0, since },
            (Job::Down { .. } | Job::Stream | Job::Vanish { at: Point::Download, .. }, _) => {
                TunnelState::Down { got: 0, since }
            }
            (Job::Up { .. }, _) => TunnelState::Up { sent: 0, since },
            (Job::Vanish { at: Point::MessageSent, .. }, _) => TunnelState::Echo { done: 0, sent: 0, got: 0, since },
            (Job::Vanish { reset, .. }, _) => TunnelState::Vanishing { reset: *reset },
        };
    }

    /// Does everything that is possible now.
    ///
    /// # Errors
    /// If the tunnel has failed; it must not be used again.
    pub fn drive(&mut self, context: &mut DriverContext<'_>) -> Result<TunnelStatus, Failure> {
        let mut budget = BUDGET_BYTES;
        loop {
            let status = match &self.state {
                TunnelState::Connecting => self.connect(context)?,
                TunnelState::SendHead { .. } => self.send_head()?,
                TunnelState::ReadHead { .. } => self.read_head(context)?,
                TunnelState::Idle | TunnelState::Pausing { .. } => self.expect_silence(context)?,
                TunnelState::Echo { .. } => self.echo(context)?,
                TunnelState::Down { .. } => self.receive(context, &mut budget)?,
                TunnelState::Up { .. } => self.send(context, &mut budget)?,
                TunnelState::Receipt { .. } => self.read_receipt(context)?,
                TunnelState::Vanishing { reset } => Some(TunnelStatus::Vanish { reset: *reset }),
            };
            if let Some(next) = status {
                return Ok(next);
            }
        }
    }

    fn connect(&mut self, context: &mut DriverContext<'_>) -> StepResult {
        if let Some(error) = self.stream.take_error().map_err(Failure::io("connecting"))? {
            return Err(Failure::io("connecting")(error));
        }
        match self.stream.peer_addr() {
            Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(Some(TunnelStatus::Wait)),
            result => result.map_err(Failure::io("connecting"))?,
        };
        self.stream.set_nodelay(true).map_err(Failure::io("connecting"))?;
        self.last_activity = Instant::now();
        context.tally.latency("connect", self.last_activity - self.intended);
        if let Job::Vanish { at: Point::Connected, reset } = self.job {
            return Ok(Some(TunnelStatus::Vanish { reset }));
        }
        let (opening, head) = Opening::begin(context.load, &self.job.host(), self.number);
        self.state = TunnelState::SendHead { opening, head, sent: 0 };
        Ok(None)
    }

    fn send_head(&mut self) -> StepResult {
        let TunnelState::SendHead { opening, head, sent } = &mut self.state else {
            return Ok(Some(TunnelStatus::Wait));
        };
        let end = if let Job::Vanish { at: Point::HalfHead, .. } = self.job { head.len() / 2 } else { head.len() };
        let unsent = head.get(*sent..end).unwrap_or_default();
        let Some(count) = would_block(self.stream.write(unsent), "asking for a tunnel")? else {
            return Ok(Some(TunnelStatus::Wait));
        };
        *sent += count;
        if *sent < end {
            return Ok(None);
        }
        match self.job {
            Job::Vanish { at: Point::HalfHead, reset } => Ok(Some(TunnelStatus::Vanish { reset })),
            Job::Vanish { at: Point::HeadSent(after), reset } => {
                self.state = TunnelState::Vanishing { reset };
                Ok(Some(TunnelStatus::Pause(after)))
            }
            _ => {
                self.state = TunnelState::ReadHead { opening: std::mem::take(opening), head: Vec::new() };
                Ok(None)
            }
        }
    }

    fn read_head(&mut self, context: &mut DriverContext<'_>) -> StepResult {
        let TunnelState::ReadHead { opening, head } = &mut self.state else { return Ok(Some(TunnelStatus::Wait)) };
        let activity = opening.activity();
        // Bytes behind the head must stay in the socket for the next state, so the end of the head is looked for before
        // anything is removed.
        let Some(seen) = would_block(self.stream.peek(&mut context.scratch), activity)? else {
            return Ok(Some(TunnelStatus::Wait));
        };
        if seen == 0 {
            return Err(Failure::EndInHead);
        }
        let kept = head.len();
        head.extend_from_slice(context.scratch.get(..seen.min(opening.limit_bytes())).unwrap_or_default());
        let end = opening.end(head)?;
        let taken = end.unwrap_or(head.len()) - kept;
        head.truncate(kept + taken);
        let take = context.scratch.get_mut(..taken).unwrap_or_default();
        self.stream.read_exact(take).map_err(Failure::io(activity))?;
        if end.is_none() {
            return Ok(None);
        }
        let answer = std::mem::take(head);
        let echoed = match opening.next(&answer)? {
            Next::Read => return Ok(None),
            Next::Send(opening, head) => {
                self.state = TunnelState::SendHead { opening, head, sent: 0 };
                return Ok(None);
            }
            Next::Opened => 0,
            Next::Echoed => answer.len() as u64,
        };
        self.last_activity = Instant::now();
        context.tally.latency("ready", self.last_activity - self.intended);
        context.tally.tunnels.opened += 1;
        context.tally.bytes_up += echoed;
        context.tally.bytes_down += echoed;
        self.state = TunnelState::Idle;
        // Where all tunnels are opened first, the message that opens one is not part of the work.
        if echoed > 0 && !context.load.opens_all_first() {
            context.tally.messages += 1;
            self.done_at_opening = 1;
            if let Job::Echo { messages: 1, .. } = self.job {
                return Ok(Some(TunnelStatus::Done));
            }
        }
        Ok(Some(TunnelStatus::Opened))
    }

    fn expect_silence(&mut self, context: &mut DriverContext<'_>) -> StepResult {
        if self.job == Job::Stream {
            // Its origin sends at once; the bytes wait in the sockets until its work starts.
            return Ok(Some(TunnelStatus::Wait));
        }
        match would_block(self.stream.read(&mut context.scratch), "idling")? {
            None => Ok(Some(TunnelStatus::Wait)),
            Some(0) => Err(Failure::EndWhileIdle),
            Some(_) => Err(Failure::StrayBytes),
        }
    }

    fn echo(&mut self, context: &mut DriverContext<'_>) -> StepResult {
        let TunnelState::Echo { done, sent, got, since } = &mut self.state else { return Ok(Some(TunnelStatus::Wait)) };
        let (messages, bytes, pause) = match self.job {
            Job::Echo { messages, bytes, pause } => (messages, bytes, pause),
            _ => (1, context.load.message_bytes, Duration::ZERO),
        };
        // A different place in the pattern for each tunnel and message, so that a mixed-up echo is noticed.
        let offset = self.number.wrapping_mul(4099).wrapping_add(*done * bytes as u64);
        if *sent < bytes {
            let message = pattern_block(offset).get(*sent..bytes).unwrap_or_default();
            if let Some(count) = would_block(self.stream.write(message), "sending a message")? {
                *sent += count;
                context.tally.bytes_up += count as u64;
            }
            if let Job::Vanish { at: Point::MessageSent, reset } = self.job {
                return Ok(Some(TunnelStatus::Vanish { reset }));
            }
        }
        let room = context.scratch.len();
        let buffer = context.scratch.get_mut(..room.min(bytes - *got + 1)).unwrap_or_default();
        let Some(count) = would_block(self.stream.read(buffer), "waiting for an echo")? else {
            return Ok(Some(TunnelStatus::Wait));
        };
        let echoed = buffer.get(..count).unwrap_or_default();
        if count == 0 {
            return Err(Failure::EndInEcho);
        }
        context.tally.bytes_down += count as u64;
        if *got + count > bytes || pattern_mismatch(echoed, offset + *got as u64).is_some() {
            return Err(Failure::EchoDiffers);
        }
        *got += count;
        self.last_activity = Instant::now();
        if *got < bytes {
            return Ok(None);
        }
        let name = if context.has_bulk { "message_beside_bulk" } else { "message" };
        context.tally.latency(name, self.last_activity - *since);
        context.tally.messages += 1;
        *done += 1;
        if *done >= messages || context.stopping {
            return Ok(Some(TunnelStatus::Done));
        }
        if !pause.is_zero() {
            self.state = TunnelState::Pausing { done: *done };
            return Ok(Some(TunnelStatus::Pause(pause)));
        }
        (*sent, *got, *since) = (0, 0, self.last_activity);
        Ok(None)
    }

    fn receive(&mut self, context: &mut DriverContext<'_>, budget: &mut usize) -> StepResult {
        let TunnelState::Down { got, since } = &mut self.state else { return Ok(Some(TunnelStatus::Wait)) };
        if *budget == 0 {
            return Ok(Some(TunnelStatus::Again));
        }
        let Some(count) = would_block(self.stream.read(&mut context.scratch), "in a download")? else {
            return Ok(Some(TunnelStatus::Wait));
        };
        let bytes = context.scratch.get(..count).unwrap_or_default();
        if context.load.verify && pattern_mismatch(bytes, *got).is_some() {
            return Err(Failure::PatternDiffers);
        }
        *got += count as u64;
        *budget = budget.saturating_sub(count);
        context.tally.bytes_down += count as u64;
        self.last_activity = Instant::now();
        match self.job {
            Job::Vanish { reset, .. } if *got > VANISH_AFTER_BYTES || count == 0 => {
                Ok(Some(TunnelStatus::Vanish { reset }))
            }
            Job::Stream if count == 0 => Err(Failure::ShortDownload),
            Job::Stream if context.stopping => Ok(Some(TunnelStatus::Vanish { reset: false })),
            Job::Down { bytes } if *got > bytes => Err(Failure::LongDownload),
            Job::Down { bytes } if count == 0 && *got < bytes => Err(Failure::ShortDownload),
            _ if count == 0 => {
                context.tally.latency("transfer", self.last_activity - *since);
                Ok(Some(TunnelStatus::Done))
            }
            _ => Ok(None),
        }
    }

    fn send(&mut self, context: &mut DriverContext<'_>, budget: &mut usize) -> StepResult {
        let (TunnelState::Up { sent, since }, Job::Up { bytes }) = (&mut self.state, &self.job) else {
            return Ok(Some(TunnelStatus::Wait));
        };
        if *budget == 0 {
            return Ok(Some(TunnelStatus::Again));
        }
        let block = pattern_block(*sent);
        let left = usize::try_from(*bytes - *sent).unwrap_or(usize::MAX);
        let piece = block.get(..block.len().min(left).min(WRITE_BYTES)).unwrap_or_default();
        let Some(count) = would_block(self.stream.write(piece), "in an upload")? else {
            return Ok(Some(TunnelStatus::Wait));
        };
        *sent += count as u64;
        *budget = budget.saturating_sub(count);
        context.tally.bytes_up += count as u64;
        self.last_activity = Instant::now();
        if sent == bytes {
            self.stream.shutdown(Shutdown::Write).map_err(Failure::io("ending an upload"))?;
            self.state = TunnelState::Receipt { line: Vec::new(), since: *since };
        }
        Ok(None)
    }

    fn read_receipt(&mut self, context: &mut DriverContext<'_>) -> StepResult {
        let (TunnelState::Receipt { line, since }, Job::Up { bytes }) = (&mut self.state, &self.job) else {
            return Ok(Some(TunnelStatus::Wait));
        };
        let Some(count) = would_block(self.stream.read(&mut context.scratch), "waiting for the receipt of an upload")?
        else {
            return Ok(Some(TunnelStatus::Wait));
        };
        line.extend_from_slice(context.scratch.get(..count.min(RECEIPT_LIMIT_BYTES)).unwrap_or_default());
        context.tally.bytes_down += count as u64;
        self.last_activity = Instant::now();
        if count > 0 && line.len() < RECEIPT_LIMIT_BYTES {
            return Ok(None);
        }
        if line.is_empty() {
            return Err(Failure::NoReceipt);
        }
        let agrees = if context.load.verify {
            line.as_slice() == context.receipt(*bytes).as_bytes()
        } else {
            line.starts_with(format!("sink bytes={bytes} ").as_bytes())
        };
        if !agrees {
            return Err(Failure::WrongReceipt);
        }
        context.tally.latency("transfer", self.last_activity - *since);
        Ok(Some(TunnelStatus::Done))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_the_pattern_does_not_depend_on_its_blocks() {
        let mut bytes = vec![0; 1_000_001];
        ntlm_gateway::stub::fill_pattern(&mut bytes, 0);
        let mut sum = Checksum::default();
        sum.update(&bytes);
        assert_eq!(checksum_of_pattern(1_000_001), sum);
    }
}
