//! Accepting connections.

use std::io;

use mio::{Interest, Token};

use super::{Entry, Shard};
use crate::event::{EventToken, Key};
use crate::fault::is_exhaustion;
use crate::limits::{self, millis};
use crate::session::{Arrival, Session};
use crate::shard::admission::Eviction;
use crate::shard::message::Accepted;
use crate::shard::throttle::Throttle;

/// Whether there is something to accept.
#[derive(Debug, Default)]
pub(super) struct Accepting {
    /// A listener may have more connections than were accepted in the last turn.
    pub is_pending: bool,
    /// Accepting pauses until then, in ms.
    pub paused_until_ms: Option<u64>,
    /// Limits how often the log mentions pauses.
    pause_log: Throttle,
    /// Counts the connections, for [`Balance::place`](crate::shard::balance::Balance::place).
    turn: usize,
}

impl Accepting {
    /// Whether there is something to do, or to look at the clock for.
    pub(super) fn is_wanted(&self) -> bool {
        self.is_pending || self.paused_until_ms.is_some()
    }

    /// Whether connections can be accepted without waiting for an event.
    pub(super) fn is_due(&self) -> bool {
        self.is_pending && self.paused_until_ms.is_none()
    }
}

impl Shard {
    /// Accepts some connections of each listener that may have any.
    pub(super) fn accept(&mut self) {
        if let Some(until_ms) = self.accepting.paused_until_ms {
            if self.context.now_ms() < until_ms {
                return;
            }
            self.accepting.paused_until_ms = None;
            self.accepting.is_pending = true;
        }
        if !self.accepting.is_pending {
            return;
        }
        self.accepting.is_pending = false;
        for index in 0..self.listeners.len() {
            if !self.accept_from(index) {
                self.accepting.is_pending = true;
            }
        }
    }

    /// Accepts all connections that wait in the kernel, as long as there is room, then closes the listeners. Clients
    /// that the kernel has already connected are not reset.
    pub(super) fn accept_last(&mut self) {
        self.accepting.paused_until_ms = None;
        self.accepting.is_pending = true;
        while self.accepting.is_due() {
            self.accept();
        }
        self.accepting.is_pending = false;
        self.accepting.paused_until_ms = None;
        self.listeners.clear();
    }

    /// Accepts from one listener; `false` when it may have more.
    fn accept_from(&mut self, index: usize) -> bool {
        for _ in 0..limits::ACCEPTS_PER_TURN {
            if self.gate.is_overcrowded() {
                self.pause_accepting("too many connections over max_tunnels wait for their rejection");
                return false;
            }
            match self.listeners[index].accept() {
                Ok((stream, from)) => self.place(Accepted { stream, from, listener: index }),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if is_exhaustion(&error) && self.free_descriptors() => {}
                Err(error) if is_exhaustion(&error) => {
                    self.pause_accepting(&error.to_string());
                    return false;
                }
                // The client gave up while it was waiting (ECONNABORTED), or a signal came.
                Err(_) => {}
            }
        }
        false
    }

    fn pause_accepting(&mut self, why: &str) {
        let (now_ms, pause_ms) = (self.context.now_ms(), millis(limits::ACCEPT_PAUSE));
        self.accepting.paused_until_ms = Some(now_ms + pause_ms);
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
        if let Err(error) = self.context.registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)
        {
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
