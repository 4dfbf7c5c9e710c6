//! Accepting connections.

use std::io;

use mio::{Interest, Token};

use super::{Entry, Shard, listener_token};
use crate::event::{EventToken, Key};
use crate::fault::is_exhaustion;
use crate::limits::{self, millis};
use crate::session::{Arrival, Session};
use crate::shard::admission::Eviction;
use crate::shard::message::Accepted;
use crate::shard::throttle::Throttle;

/// What is to be accepted.
#[derive(Debug)]
pub(super) struct Accepting {
    listeners: Vec<Pending>,
    /// A listener was reported in this turn.
    is_reported: bool,
    /// The number of this turn of the loop.
    loop_turn: u64,
    /// Accepting pauses until then, in ms.
    pub paused_until_ms: Option<u64>,
    /// Limits how often the log mentions pauses.
    pause_log: Throttle,
    /// Counts the connections, for [`Balance::place`](crate::shard::balance::Balance::place).
    turn: usize,
}

/// What is known of the connections that wait at a listener.
#[derive(Clone, Copy, Debug, Default)]
struct Pending {
    /// The last turn of the loop in which it was reported.
    loop_turn: u64,
    /// In how many turns in a row it had as many connections as were asked for.
    whole_batches: u32,
}

/// How the connections of a listener were accepted in a turn.
enum Outcome {
    /// As many as were asked for.
    Batch,
    /// All that there were.
    All,
    /// Accepting pauses.
    Paused,
}

impl Pending {
    /// How many connections to accept before the poll is asked again whether there are more. To ask the listener takes
    /// longer when it has none, so this grows only while there always are more.
    fn batch(self) -> usize {
        let doublings = self.whole_batches / limits::ACCEPT_BATCHES_BEFORE_GROWTH;
        1_usize.checked_shl(doublings).unwrap_or(usize::MAX).min(limits::ACCEPTS_PER_TURN)
    }

    /// It is reported in this turn.
    fn learn(&mut self, loop_turn: u64) {
        if self.loop_turn + 1 < loop_turn {
            self.whole_batches = 0;
        }
        self.loop_turn = loop_turn;
    }

    fn accepted(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Batch => self.whole_batches = self.whole_batches.saturating_add(1),
            // Back to half of the batch.
            Outcome::All => {
                self.whole_batches = self.whole_batches.saturating_sub(limits::ACCEPT_BATCHES_BEFORE_GROWTH);
            }
            Outcome::Paused => {}
        }
    }
}

impl Accepting {
    /// Nothing is known of so many listeners.
    pub(super) fn of(listeners: usize) -> Accepting {
        Accepting {
            listeners: vec![Pending::default(); listeners],
            is_reported: false,
            loop_turn: 0,
            paused_until_ms: None,
            pause_log: Throttle::default(),
            turn: 0,
        }
    }

    /// A turn begins.
    pub(super) fn begin_turn(&mut self) {
        self.loop_turn += 1;
    }

    /// A listener has connections.
    pub(super) fn learn(&mut self, listener: usize) {
        if let Some(pending) = self.listeners.get_mut(listener) {
            pending.learn(self.loop_turn);
            self.is_reported = true;
        }
    }

    /// Whether there is something to do, or to look at the clock for.
    pub(super) fn is_wanted(&self) -> bool {
        self.is_reported || self.paused_until_ms.is_some()
    }
}

impl Shard {
    /// Accepts some connections of each listener that has any.
    pub(super) fn accept(&mut self) {
        if let Some(until_ms) = self.accepting.paused_until_ms {
            if self.context.now_ms() < until_ms {
                return;
            }
            self.accepting.paused_until_ms = None;
            self.report_listeners(true);
        }
        if !std::mem::take(&mut self.accepting.is_reported) {
            return;
        }
        for index in 0..self.accepting.listeners.len() {
            let pending = self.accepting.listeners[index];
            if pending.loop_turn == self.accepting.loop_turn && self.accepting.paused_until_ms.is_none() {
                let outcome = self.accept_from(index, pending.batch());
                self.accepting.listeners[index].accepted(&outcome);
            }
        }
    }

    /// Accepts all connections that wait in the kernel, as long as there is room, then closes the listeners. Clients
    /// that the kernel has already connected are not reset.
    pub(super) fn accept_last(&mut self) {
        for index in 0..self.listeners.len() {
            while let Outcome::Batch = self.accept_from(index, limits::ACCEPTS_PER_TURN) {}
        }
        self.accepting = Accepting::of(0);
        self.listeners.clear();
    }

    /// Accepts so many connections from one listener.
    fn accept_from(&mut self, index: usize, batch: usize) -> Outcome {
        for _ in 0..batch {
            if self.gate.is_overcrowded() {
                self.pause_accepting("too many connections over max_tunnels wait for their rejection");
                return Outcome::Paused;
            }
            match self.listeners[index].accept() {
                Ok((stream, from)) => self.place(Accepted { stream, from, listener: index }),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Outcome::All,
                Err(error) if is_exhaustion(&error) && self.free_descriptors() => {}
                Err(error) if is_exhaustion(&error) => {
                    self.pause_accepting(&error.to_string());
                    return Outcome::Paused;
                }
                // The client gave up while it was waiting (ECONNABORTED), or a signal came.
                Err(_) => {}
            }
        }
        Outcome::Batch
    }

    /// Has the poll report the listeners, or not.
    fn report_listeners(&mut self, are_reported: bool) {
        for (index, listener) in self.listeners.iter().enumerate() {
            let outcome = listener.set_reported(&self.context.registry, listener_token(index), are_reported);
            if let Err(error) = outcome {
                log::warn!("a listener cannot be registered with epoll: {error}");
            }
        }
    }

    fn pause_accepting(&mut self, why: &str) {
        let (now_ms, pause_ms) = (self.context.now_ms(), millis(limits::ACCEPT_PAUSE));
        self.accepting.paused_until_ms = Some(now_ms + pause_ms);
        self.report_listeners(false);
        self.context.metrics.accept_pauses.inc();
        if self.accepting.pause_log.allows(now_ms, limits::ACCEPT_PAUSE_LOG_INTERVAL) {
            log::warn!("accepting pauses for {pause_ms} ms at a time: {why}");
        }
    }

    /// Keeps a connection, or hands it over to a shard that has fewer.
    fn place(&mut self, accepted: Accepted) {
        self.context.metrics.accepted.inc();
        self.accepting.turn = self.accepting.turn.wrapping_add(1);
        match self.gate.balance.place(self.number, self.accepting.turn) {
            shard if shard == self.number => self.admit(accepted),
            shard => self.gate.hand_over(shard, accepted),
        }
    }

    /// Makes a session of a connection that is counted as this shard's.
    pub(super) fn admit(&mut self, accepted: Accepted) {
        let Accepted { mut stream, from, listener } = accepted;
        let Some(vacancy) = self.sessions.vacancy() else { return self.gate.balance.leave(self.number) };
        let key = vacancy.key();
        let token = Token::from(EventToken::downstream(key));
        // Not for writing: see `Session::step`.
        if let Err(error) = self.context.registry.register(&mut stream, token, Interest::READABLE) {
            log::warn!("a client's connection cannot be registered with epoll and is closed: {error}");
            return self.gate.balance.leave(self.number);
        }
        let awaits_proxy_header = self.context.settings.awaits_proxy_header(listener, from.ip());
        let decision = match awaits_proxy_header {
            true => self.gate.enter_unnamed(self.number),
            false => self.gate.enter(from, self.number, self.context.now_ms()),
        };
        let admission = decision.admission;
        let arrival = Arrival { from, listener, admission, awaits_proxy_header };
        self.context.metrics.tunnels_open.inc();
        let session = Session::new(key, stream, arrival, &mut self.context);
        let entry = vacancy.insert(Entry {
            session,
            queued: false,
            admission,
            is_named: !awaits_proxy_header,
            idle: None,
            idle_changes: 0,
            idle_position: None,
            head_position: None,
            held_bytes: 0,
        });
        let next = entry.session.step(key, &mut self.context);
        self.follow(key, next);
        self.make_room(decision.eviction);
    }

    /// A PROXY header has named the client of a connection: from here on it counts as that client's.
    pub(super) fn name_client(&mut self, key: Key) {
        self.leave_idle_queue(key);
        self.queue_if_large(key, false);
        let now_ms = self.context.now_ms();
        let Some(entry) = self.sessions.get_mut(key) else { return };
        let Some(client) = entry.session.take_named() else { return };
        self.gate.leave(entry.gate_client(), entry.has_place());
        let decision = self.gate.enter(client, self.number, now_ms);
        entry.admission = decision.admission;
        entry.is_named = true;
        // It may be idle as before, but with another place in the queue.
        entry.idle = None;
        entry.idle_changes = entry.idle_changes.wrapping_add(1);
        entry.session.admit(client, decision.admission, key, &mut self.context);
        let next = entry.session.step(key, &mut self.context);
        self.follow(key, next);
        self.make_room(decision.eviction);
    }

    /// Closes an idle connection, or has it closed, in whose place another one was admitted.
    fn make_room(&mut self, eviction: Option<Eviction>) {
        match eviction {
            Some(eviction) if eviction.shard == self.number => self.evict(eviction),
            Some(eviction) => self.gate.send(eviction),
            None => {}
        }
    }
}
