//! One simulated connection: the gateway's socket with its two buffers, the network, and the peer's end.
//!
//! ```text
//!   gateway reads  ◀── rx ◀── network ◀── sent   ◀── the peer writes
//!   gateway writes ──▶ tx ──▶ network ──▶ inbox  ──▶ the peer reads
//! ```
//!
//! The socket behaves as Linux does, as far as the gateway can tell: a short read means an empty buffer, a short write
//! a full one; an event carries the state at the time it is fetched; room to write is only reported after a write was
//! refused; after a reset the data that had arrived can be read, followed by one error and then end of file.

use std::net::SocketAddr;

use mio::Token;
use rustix::io::Errno;

use super::far_tls::FarTls;
use super::pipe::PipeState;
use crate::sim::rng::Rng;
use crate::transport::Signs;

/// A byte queue.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn front(&self, most: usize) -> &[u8] {
        &self.bytes[self.start..self.start + most.min(self.len())]
    }

    pub fn drop_front(&mut self, count: usize) {
        self.start += count;
        assert!(self.start <= self.bytes.len());
        if self.is_empty() {
            self.clear();
        } else if self.start > 64 * 1024 && self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
    }

    pub fn truncate(&mut self, len: usize) {
        let keep = self.start + len.min(self.len());
        self.bytes.truncate(keep);
    }

    /// Moves at most `most` bytes to another buffer; returns how many.
    pub fn pour(&mut self, into: &mut Buffer, most: usize) -> usize {
        let count = most.min(self.len());
        into.push(&self.bytes[self.start..self.start + count]);
        self.drop_front(count);
        count
    }
}

/// How fast bytes travel, and in which pieces.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub piece: (usize, usize),
    pub delay_us: (u64, u64),
}

impl Pace {
    pub const CRUMBS: Pace = Pace { piece: (1, 9), delay_us: (1, 60) };
    pub const SEGMENTS: Pace = Pace { piece: (1, 1460), delay_us: (5, 400) };
    pub const STEADY: Pace = Pace { piece: (1460, 1460), delay_us: (20, 20) };
    pub const BURSTS: Pace = Pace { piece: (8 * 1024, 300 * 1024), delay_us: (0, 3_000) };
    pub const AT_ONCE: Pace = Pace { piece: (usize::MAX, usize::MAX), delay_us: (0, 30) };
    pub const SLOW: Pace = Pace { piece: (1, 20_000), delay_us: (0, 25_000) };
    pub const ALL: [Pace; 6] = [Pace::CRUMBS, Pace::SEGMENTS, Pace::STEADY, Pace::BURSTS, Pace::AT_ONCE, Pace::SLOW];

    pub fn delay_us(&self, rng: &mut Rng) -> u64 {
        rng.within(self.delay_us.0..=self.delay_us.1)
    }

    pub fn piece(&self, rng: &mut Rng) -> usize {
        if self.piece.0 == usize::MAX { usize::MAX } else { rng.size(self.piece.0..=self.piece.1) }
    }
}

/// How a peer has ended its direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Fin,
    Reset,
}

/// How far a connection has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Connecting,
    Open,
    /// Reset, or never established.
    Dead,
}

/// How a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conclusion {
    /// Its metric label.
    pub label: &'static str,
    /// It failed after the tunnel was established.
    pub was_established: bool,
    /// Bytes that went up and down.
    pub bytes: [u64; 2],
    /// The number of the hop in its record.
    pub hop: Option<usize>,
}

/// What a seed decides about a connection.
#[derive(Clone, Copy, Debug)]
pub struct Traits {
    pub pace: Pace,
    pub rx_capacity: usize,
    pub tx_capacity: usize,
    pub inbox_capacity: usize,
    pub sent_capacity: usize,
    /// A reset discards what the peer has not read.
    pub reset_discards: bool,
}

/// A connection.
#[derive(Debug)]
pub struct Wire {
    pub traits: Traits,
    pub phase: Phase,

    // The gateway's socket.
    pub token: Option<Token>,
    /// The poll reports that it takes more.
    pub reports_room: bool,
    /// The gateway has not closed it.
    pub held: bool,
    /// The poll has an event to report.
    pub edge: bool,
    pub error: Option<Errno>,
    pub rx: Buffer,
    pub rx_ended: bool,
    pub tx: Buffer,
    /// A write was refused: the poll reports when there is room.
    pub refused_write: bool,
    pub shut: bool,
    pub resets_on_close: bool,
    /// It was reset on purpose, although everything had been sent on it.
    pub destroyed: bool,

    // In transit.
    pub sent: Buffer,
    pub sent_end: Option<End>,
    pub moving_in: bool,
    pub moving_out: bool,

    // The peer's end.
    pub inbox: Buffer,
    pub inbox_ended: bool,
    pub inbox_reset: bool,
    pub peer_closed: bool,
    pub waking: bool,
    /// The peer's end of TLS, if it speaks it.
    pub tls: Option<Box<FarTls>>,

    /// Where the client was going, if its connection was redirected.
    pub original: Option<SocketAddr>,

    /// How the tunnel of this client ended.
    pub concluded: Option<Conclusion>,
}

impl Wire {
    pub fn new(traits: Traits, phase: Phase) -> Wire {
        Wire {
            traits,
            phase,
            token: None,
            reports_room: false,
            held: true,
            edge: false,
            error: None,
            rx: Buffer::default(),
            rx_ended: false,
            tx: Buffer::default(),
            refused_write: false,
            shut: false,
            resets_on_close: false,
            destroyed: false,
            sent: Buffer::default(),
            sent_end: None,
            moving_in: false,
            moving_out: false,
            inbox: Buffer::default(),
            inbox_ended: false,
            inbox_reset: false,
            peer_closed: false,
            waking: false,
            tls: None,
            original: None,
            concluded: None,
        }
    }

    fn has_room(&self) -> bool {
        // As `tcp_poll` does: a third must be free.
        (self.traits.tx_capacity - self.tx.len()) * 3 >= self.traits.tx_capacity
    }

    /// What the poll reports now; reporting no room makes it report room later.
    pub fn signs(&mut self) -> Signs {
        match self.phase {
            Phase::Connecting => return Signs::default(),
            Phase::Dead => {
                let error = self.error.is_some();
                return Signs { readable: true, writable: true, read_closed: true, write_closed: true, error };
            }
            Phase::Open => {}
        }
        let hung_up = self.rx_ended && self.shut;
        let writable = self.shut || self.has_room();
        self.refused_write |= !writable;
        Signs {
            readable: !self.rx.is_empty() || self.rx_ended,
            writable: writable && self.reports_room,
            read_closed: self.rx_ended,
            write_closed: hung_up,
            error: false,
        }
    }

    /// Reads; `Ok(0)` is end of file.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        if !self.rx.is_empty() {
            let bytes = self.rx.front(buffer.len());
            let count = bytes.len();
            buffer[..count].copy_from_slice(bytes);
            self.rx.drop_front(count);
            return Ok(count);
        }
        self.nothing_to_read()
    }

    /// Splices into a pipe; each of its slots takes one piece of the connection's data.
    pub fn splice(&mut self, pipe: &mut PipeState, bytes: usize, rng: &mut Rng) -> Result<usize, Errno> {
        // Checked first: a full pipe hides an end of file.
        if pipe.is_full() {
            return Err(Errno::AGAIN);
        }
        if self.rx.is_empty() {
            return self.nothing_to_read();
        }
        let mut moved = 0;
        while !pipe.is_full() && moved < bytes && !self.rx.is_empty() {
            let piece = rng.size(1..=8192).min(bytes - moved);
            moved += pipe.take(&mut self.rx, piece);
        }
        Ok(moved)
    }

    fn nothing_to_read(&mut self) -> Result<usize, Errno> {
        match self.error.take() {
            Some(error) => Err(error),
            None if self.rx_ended || self.phase == Phase::Dead => Ok(0),
            None => Err(Errno::AGAIN),
        }
    }

    /// Writes what fits.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        if self.phase == Phase::Dead || self.shut {
            return Err(Errno::PIPE);
        }
        let room = match self.phase {
            Phase::Connecting => 0,
            _ => self.traits.tx_capacity - self.tx.len(),
        };
        let count = room.min(bytes.len());
        self.refused_write |= count < bytes.len();
        if count == 0 && !bytes.is_empty() {
            return Err(Errno::AGAIN);
        }
        self.tx.push(&bytes[..count]);
        Ok(count)
    }

    /// Ends the gateway's direction.
    pub fn shut(&mut self) -> Result<(), Errno> {
        if self.phase != Phase::Open {
            return Err(Errno::NOTCONN);
        }
        self.shut = true;
        // The kernel wakes the poll.
        self.edge = true;
        Ok(())
    }

    /// The gateway closes its socket. Returns whether the peer receives a reset.
    pub fn close(&mut self) -> bool {
        self.held = false;
        self.edge = false;
        self.destroyed = self.resets_on_close && self.shut && self.phase == Phase::Open;
        let resets = self.phase == Phase::Open && (self.resets_on_close || !self.rx.is_empty());
        if resets {
            self.tx.clear();
            self.phase = Phase::Dead;
        }
        self.rx.clear();
        self.shut = true;
        resets
    }

    /// A reset arrives at the gateway.
    pub fn die(&mut self, error: Errno) {
        if self.phase == Phase::Dead {
            return;
        }
        self.phase = Phase::Dead;
        self.error = Some(error);
        self.tx.clear();
        self.edge = true;
    }

    /// A reset arrives at the peer.
    pub fn reset_peer(&mut self) {
        if self.inbox_ended && self.sent_end.is_some() && self.sent.is_empty() {
            return;
        }
        self.inbox_reset = true;
        if self.traits.reset_discards {
            self.inbox.clear();
        }
        self.sent.clear();
        self.sent_end.get_or_insert(End::Reset);
    }

    /// Moves one piece towards the gateway. Returns whether to schedule another one.
    pub fn carry_in(&mut self, rng: &mut Rng) -> bool {
        if self.phase != Phase::Open {
            self.sent.clear();
            return false;
        }
        if !self.held {
            // Nobody is left to receive it.
            if !self.sent.is_empty() {
                self.phase = Phase::Dead;
                self.tx.clear();
                self.reset_peer();
            }
            self.rx_ended = true;
            return false;
        }
        let piece = self.traits.pace.piece(rng);
        let room = self.traits.rx_capacity.saturating_sub(self.rx.len());
        if self.sent.pour(&mut self.rx, piece.min(room)) > 0 {
            self.edge = true;
        }
        if !self.sent.is_empty() {
            // Without room it continues when the gateway has read.
            return self.rx.len() < self.traits.rx_capacity;
        }
        // The end often arrives with the last bytes, and often separately.
        match self.sent_end {
            Some(End::Fin) if !self.rx_ended && rng.once_in(2) => {
                self.rx_ended = true;
                self.edge = true;
                false
            }
            Some(End::Fin) => !self.rx_ended,
            Some(End::Reset) => {
                let error = if self.rx_ended { Errno::PIPE } else { Errno::CONNRESET };
                self.die(error);
                false
            }
            None => false,
        }
    }

    /// Moves one piece towards the peer. Returns whether to schedule another one.
    pub fn carry_out(&mut self, rng: &mut Rng) -> bool {
        if self.phase != Phase::Open {
            return false;
        }
        if self.peer_closed {
            if !self.tx.is_empty() {
                self.die(Errno::CONNRESET);
            }
            return false;
        }
        let piece = self.traits.pace.piece(rng);
        let room = self.traits.inbox_capacity.saturating_sub(self.inbox.len());
        self.tx.pour(&mut self.inbox, piece.min(room));
        if self.held && self.refused_write && self.has_room() {
            self.refused_write = false;
            self.edge = true;
        }
        if !self.tx.is_empty() {
            return self.inbox.len() < self.traits.inbox_capacity;
        }
        if self.shut && !self.inbox_ended {
            if rng.once_in(2) {
                self.inbox_ended = true;
            }
            return !self.inbox_ended;
        }
        false
    }
}
