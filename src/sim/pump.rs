//! The peer's end of a tunnel: writes one pattern and checks the other.

use super::network::{End, Network};
use super::scenario::{FlowOddity, FlowPlan};
use crate::stub::{pattern_block, pattern_mismatch};

/// An end of a tunnel.
#[derive(Debug)]
pub struct Pump {
    pub wire: usize,
    plan: FlowPlan,
    /// What must come before the pattern, and how much of it has come.
    prelude: Vec<u8>,
    prelude_seen: usize,
    /// Offsets of its own direction and of the other one in the pattern.
    base: u64,
    other_base: u64,
    pub written: u64,
    pub received: u64,
    /// How much it may write so far.
    pub allowed: u64,
    /// How it has ended its direction.
    pub ended: Option<End>,
    closed: bool,
    /// It has written everything and ended its direction cleanly.
    pub ended_cleanly: bool,
    /// The other direction has ended cleanly.
    pub saw_end: bool,
    /// The connection was reset.
    pub saw_reset: bool,
    /// It does not write before this time, in µs.
    paused_until_us: u64,
    /// It has misbehaved, so the gateway owes it nothing more.
    pub misbehaved: bool,
    /// The first deviation from the expected pattern.
    pub wrong: Option<String>,
}

/// Offset of a client's direction in the pattern.
pub fn base(client: usize, down: bool) -> u64 {
    (2 * client as u64 + u64::from(down)) * 7_919
}

impl Pump {
    pub fn new(wire: usize, plan: FlowPlan, client: usize, is_origin: bool) -> Pump {
        Pump {
            wire,
            plan,
            prelude: Vec::new(),
            prelude_seen: 0,
            base: base(client, is_origin),
            other_base: base(client, !is_origin),
            written: 0,
            received: 0,
            allowed: u64::MAX,
            ended: None,
            closed: false,
            ended_cleanly: false,
            saw_end: false,
            saw_reset: false,
            paused_until_us: 0,
            misbehaved: false,
            wrong: None,
        }
    }

    /// The same, for an origin whose client says something before its data.
    pub fn after(self, prelude: Vec<u8>) -> Pump {
        Pump { prelude, ..self }
    }

    /// Both directions have ended, or the connection has.
    pub fn is_done(&self) -> bool {
        self.saw_reset || self.closed || self.ended == Some(End::Reset) || (self.ended.is_some() && self.saw_end)
    }

    /// Checks bytes that have arrived.
    pub fn check(&mut self, bytes: &[u8]) {
        let missing = &self.prelude[self.prelude_seen..];
        let (said, bytes) = bytes.split_at(bytes.len().min(missing.len()));
        if !missing.starts_with(said) && self.wrong.is_none() {
            self.wrong = Some(format!("what the client says first differs after {} bytes", self.prelude_seen));
        }
        self.prelude_seen += said.len();
        if let Some(offset) = pattern_mismatch(bytes, self.other_base + self.received)
            && self.wrong.is_none()
        {
            self.wrong = Some(format!("byte {} of a direction differs from what was sent", offset - self.other_base));
        }
        self.received += bytes.len() as u64;
    }

    fn is_deaf(&self) -> bool {
        matches!(self.plan.oddity, Some(FlowOddity::StopsReading(after)) if self.received >= after)
    }

    fn is_silent(&self) -> bool {
        matches!(self.plan.oddity, Some(FlowOddity::StopsWriting(after)) if self.written >= after)
    }

    /// Notes whether the other direction has ended.
    pub fn note_ends(&mut self, network: &Network) {
        self.saw_reset |= network.sees_reset(self.wire);
        self.saw_end |= network.sees_end(self.wire);
    }

    /// Reads, writes and ends, as far as possible now.
    pub fn step(&mut self, network: &mut Network) {
        if self.is_done() {
            return;
        }
        let mut bytes = Vec::new();
        while !self.is_deaf() && network.peer_read(self.wire, 1 << 16, &mut bytes) > 0 {
            self.check(&bytes);
            bytes.clear();
        }
        self.misbehaved |= self.is_deaf() || self.is_silent();
        if self.is_deaf() {
            network.shrink_buffers(self.wire);
        }
        self.note_ends(network);
        self.write(network);
        self.misbehave(network);
        self.end_if_last(network);
        if self.ended == Some(End::Fin) && self.saw_end {
            network.peer_close(self.wire);
        }
    }

    /// Writes what may go out before the answer; if that is everything, also ends the direction.
    pub fn write_ahead(&mut self, network: &mut Network) {
        self.write(network);
        if self.allowed == self.plan.bytes && self.written == self.plan.bytes && self.plan.oddity.is_none() {
            self.end_if_last(network);
        }
    }

    fn end_if_last(&mut self, network: &mut Network) {
        let all_written = self.written == self.plan.bytes;
        if all_written && self.ended.is_none() && !self.is_silent() && (self.saw_end || !self.plan.ends_last) {
            self.ended = Some(End::Fin);
            self.ended_cleanly = network.ends_cleanly(self.wire);
            self.misbehaved |= !self.ended_cleanly;
            network.peer_end(self.wire, End::Fin);
        }
    }

    fn write(&mut self, network: &mut Network) {
        let limit = match self.plan.oddity {
            Some(FlowOddity::StopsWriting(after) | FlowOddity::Resets(after) | FlowOddity::Closes(after)) => after,
            _ => self.plan.bytes,
        };
        let limit = limit.min(self.allowed).min(self.plan.bytes);
        while self.written < limit && self.ended.is_none() && network.now_us >= self.paused_until_us {
            let most = usize::try_from(limit - self.written).unwrap().min(self.plan.piece);
            let block = pattern_block(self.base + self.written);
            let count = network.peer_write(self.wire, &block[..most.min(block.len())]);
            if count == 0 {
                return;
            }
            self.written += count as u64;
            if self.plan.pause_us > 0 {
                self.paused_until_us = network.now_us + self.plan.pause_us;
                network.wake_in(self.wire, self.plan.pause_us);
            }
        }
    }

    fn misbehave(&mut self, network: &mut Network) {
        match self.plan.oddity {
            Some(FlowOddity::Resets(after)) if self.written >= after && self.ended.is_none() => self.reset(network),
            Some(FlowOddity::Closes(after)) if self.written >= after && self.ended.is_none() => self.close(network),
            _ => {}
        }
    }

    pub fn reset(&mut self, network: &mut Network) {
        self.misbehaved = true;
        self.ended = Some(End::Reset);
        network.peer_end(self.wire, End::Reset);
    }

    /// Closes in the middle; unread or later data turns this into a reset.
    pub fn close(&mut self, network: &mut Network) {
        self.misbehaved = true;
        self.closed = true;
        network.peer_close(self.wire);
        self.ended = network.wires[self.wire].sent_end;
        self.ended_cleanly |= self.ended == Some(End::Fin) && network.ends_cleanly(self.wire);
    }
}
