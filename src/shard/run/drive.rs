//! Running a shard by hand, on a clock and with events that a simulation makes up.

use std::time::Duration;

use mio::Token;

use super::{Shard, WAKER};
use crate::session::{Context, TurnTime};
use crate::transport::Readiness;

/// How long a turn takes, as far as pauses of bulk transfers depend on it.
const TURN_US: u64 = 100;

impl Shard {
    /// Does what [`Shard::run`] does when the poll returns; `true` when that would return itself.
    pub fn drive(&mut self, now_us: u64, mut events: Vec<(Token, Readiness)>, with_messages: bool) -> bool {
        self.context.now = TurnTime::from_us(now_us);
        if with_messages && self.mailbox.is_ringing() {
            events.push((WAKER, Readiness::NOTHING));
        }
        let stop = self.turn(events.into_iter());
        // Time stands still in a turn, and there would be no pauses.
        self.turn_ended(now_us.saturating_sub(TURN_US) * 1000, now_us * 1000);
        assert!(self.context.pipes.lent() <= 2 * self.sessions.len(), "a half borrows at most one pipe");
        let over = stop || self.is_drained();
        if over {
            self.close_all();
        }
        over
    }

    /// How long the poll would wait.
    pub fn patience(&self) -> Option<Duration> {
        self.time_to_wait()
    }

    /// Whether there is a message.
    pub fn is_called(&self) -> bool {
        self.mailbox.is_ringing()
    }

    /// How many sessions there are.
    pub fn tunnels(&self) -> usize {
        self.sessions.len()
    }

    /// What its sessions share.
    pub fn context(&mut self) -> &mut Context {
        &mut self.context
    }

    /// What is left after the end, and should not be.
    pub fn remains(&mut self) -> Vec<String> {
        let waiters = self.context.guard_waiters.iter().chain(self.run_queue.iter());
        let waiting = waiters.filter(|key| self.sessions.get(**key).is_some()).count();
        let found = [
            ("sessions", self.sessions.len()),
            ("connections counted by the gate", self.gate.open()),
            ("connections counted for the balance", self.gate.balance.connections(self.number)),
            ("pipes lent", self.context.pipes.lent()),
            ("pre-challenged connections", self.context.pools.pre_challenged.held()),
            ("connections that wait for a verdict", self.context.pools.verdict_wait.held()),
            ("sessions that wait for the guard or their turn", waiting),
        ];
        found.iter().filter(|(_, count)| *count > 0).map(|(what, count)| format!("{count} {what}")).collect()
    }
}
