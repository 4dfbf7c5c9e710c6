//! Turning a shard by hand, on a clock and with events that a simulation makes up.

use std::time::Duration;

use mio::Token;

use super::{Shard, WAKER};
use crate::event::Readiness;
use crate::session::Context;

impl Shard {
    /// What [`Shard::run`] does when the poll returns; `true` when it would return itself.
    pub fn drive(&mut self, now_us: u64, mut events: Vec<(Token, Readiness)>, with_messages: bool) -> bool {
        self.context.now_us = now_us;
        if with_messages && self.mailbox.is_ringing() {
            events.push((WAKER, Readiness::NOTHING));
        }
        let stop = self.turn(events.into_iter());
        assert!(self.context.pipes.lent() <= 2 * self.slots.len(), "a half borrows one pipe");
        let over = stop || (self.draining && self.slots.is_empty());
        if over {
            self.cut_all();
        }
        over
    }

    /// How long the poll would wait.
    pub fn patience(&self) -> Option<Duration> {
        self.time_to_wait()
    }

    /// A message waits.
    pub fn is_called(&self) -> bool {
        self.mailbox.is_ringing()
    }

    /// Tunnels that are there.
    pub fn tunnels(&self) -> usize {
        self.slots.len()
    }

    /// What its tunnels share.
    pub fn context(&mut self) -> &mut Context {
        &mut self.context
    }

    /// What is there that should not be, after the end.
    pub fn remains(&mut self) -> Vec<String> {
        let live: Vec<u32> = self.slots.iter().map(|(_, slot)| slot.generation).collect();
        let waiters = self.context.guard_waiters.iter().chain(&self.run_queue);
        let waiting = waiters.filter(|key| live.contains(&key.generation)).count();
        let found = [
            ("tunnels", live.len()),
            ("tunnels in the gate", self.gate.open()),
            ("pipes lent", self.context.pipes.lent()),
            ("warm connections", self.context.pools.pre_challenged.held()),
            ("connections that wait for a verdict", self.context.pools.verdict_wait.held()),
            ("tunnels that wait for the guard or their turn", waiting),
        ];
        found.iter().filter(|(_, count)| *count > 0).map(|(what, count)| format!("{count} {what}")).collect()
    }
}
