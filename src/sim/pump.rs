//! One end of a tunnel, outside of the gateway: writes one pattern, checks another.

use super::network::{End, Network};
use super::scenario::{FlowOddity, FlowPlan};
use crate::stub::{pattern_block, pattern_mismatch};

/// An end of a tunnel.
#[derive(Debug)]
pub struct Pump {
    pub wire: usize,
    plan: FlowPlan,
    /// Where its pattern begins, and that of the other end.
    base: u64,
    other_base: u64,
    pub written: u64,
    pub received: u64,
    /// As much as it may write yet.
    pub allowed: u64,
    /// How it has ended its direction.
    pub ended: Option<End>,
    closed: bool,
    /// It has ended its direction in good order, whatever came after.
    pub said_all: bool,
    /// The other direction has come to its end in good order.
    pub heard_end: bool,
    /// The connection was reset.
    pub heard_reset: bool,
    /// It rests until then, in µs.
    rests_until_us: u64,
    /// It has done something that excuses whatever follows.
    pub misbehaved: bool,
    /// The first byte that was not what it should have been.
    pub wrong: Option<String>,
}

/// Where the pattern of a client's direction begins.
pub fn base(client: usize, down: bool) -> u64 {
    (2 * client as u64 + u64::from(down)) * 7_919
}

impl Pump {
    pub fn new(wire: usize, plan: FlowPlan, client: usize, is_origin: bool) -> Pump {
        Pump {
            wire,
            plan,
            base: base(client, is_origin),
            other_base: base(client, !is_origin),
            written: 0,
            received: 0,
            allowed: u64::MAX,
            ended: None,
            closed: false,
            said_all: false,
            heard_end: false,
            heard_reset: false,
            rests_until_us: 0,
            misbehaved: false,
            wrong: None,
        }
    }

    /// Both directions are over, or the connection is.
    pub fn is_done(&self) -> bool {
        self.heard_reset || self.closed || self.ended == Some(End::Reset) || (self.ended.is_some() && self.heard_end)
    }

    /// Checks bytes that have arrived.
    pub fn check(&mut self, bytes: &[u8]) {
        if let Some(offset) = pattern_mismatch(bytes, self.other_base + self.received)
            && self.wrong.is_none()
        {
            self.wrong = Some(format!("byte {} of a direction is not what was sent", offset - self.other_base));
        }
        self.received += bytes.len() as u64;
    }

    fn is_deaf(&self) -> bool {
        matches!(self.plan.oddity, Some(FlowOddity::GoesDeaf(after)) if self.received >= after)
    }

    fn is_silent(&self) -> bool {
        matches!(self.plan.oddity, Some(FlowOddity::FallsSilent(after)) if self.written >= after)
    }

    /// Notes how the other direction stands.
    pub fn listen(&mut self, network: &Network) {
        let wire = &network.wires[self.wire];
        self.heard_reset |= wire.inbox_reset && wire.inbox.is_empty();
        self.heard_end |= wire.inbox_ended && wire.inbox.is_empty() && !wire.inbox_reset;
    }

    /// Reads, writes and ends, as far as it can now.
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
            network.narrow(self.wire);
        }
        self.listen(network);
        self.write(network);
        self.misbehave(network);
        self.end_if_last(network);
        if self.ended == Some(End::Fin) && self.heard_end {
            network.peer_close(self.wire);
        }
    }

    /// Writes what may go out before there is an answer; that may be all there is, and then its end.
    pub fn write_ahead(&mut self, network: &mut Network) {
        self.write(network);
        if self.allowed == self.plan.bytes && self.written == self.plan.bytes && self.plan.oddity.is_none() {
            self.end_if_last(network);
        }
    }

    fn end_if_last(&mut self, network: &mut Network) {
        let all_written = self.written == self.plan.bytes;
        if all_written && self.ended.is_none() && !self.is_silent() && (self.heard_end || !self.plan.ends_last) {
            self.ended = Some(End::Fin);
            self.said_all = true;
            network.peer_end(self.wire, End::Fin);
        }
    }

    fn write(&mut self, network: &mut Network) {
        let limit = match self.plan.oddity {
            Some(FlowOddity::FallsSilent(after) | FlowOddity::Resets(after) | FlowOddity::Closes(after)) => after,
            _ => self.plan.bytes,
        };
        let limit = limit.min(self.allowed).min(self.plan.bytes);
        while self.written < limit && self.ended.is_none() && network.now_us >= self.rests_until_us {
            let most = usize::try_from(limit - self.written).unwrap().min(self.plan.piece);
            let block = pattern_block(self.base + self.written);
            let count = network.peer_write(self.wire, &block[..most.min(block.len())]);
            if count == 0 {
                return;
            }
            self.written += count as u64;
            if self.plan.rest_us > 0 {
                self.rests_until_us = network.now_us + self.plan.rest_us;
                network.wake_in(self.wire, self.plan.rest_us);
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

    /// Closes in the middle of everything; what it has not read, or comes later, makes that a reset.
    pub fn close(&mut self, network: &mut Network) {
        self.misbehaved = true;
        self.closed = true;
        network.peer_close(self.wire);
        self.ended = network.wires[self.wire].sent_end;
        self.said_all |= self.ended == Some(End::Fin);
    }
}
