//! Making room: idle connections are closed in favour of new ones, and large unfinished heads when memory is short.

use std::collections::VecDeque;

use super::Shard;
use crate::event::Key;
use crate::limits::{self, millis};
use crate::session::{Admission, Idle, Next};
use crate::shard::admission::Eviction;
use crate::shard::queue::{IdleQueue, Position};

/// The connections that can be closed to make room.
#[derive(Debug, Default)]
pub(super) struct IdleQueues {
    /// Idle connections with a place.
    with_place: IdleQueue,
    /// Idle connections that were accepted only to be rejected.
    rejected: IdleQueue,
    /// Unfinished heads that take much memory; they have no grace period.
    large_heads: IdleQueue,
    last_position: Position,
    /// Connections in their grace period, which starts when they become idle: its end in ms, and `idle_changes` at its
    /// start.
    in_grace: VecDeque<(u64, Key, u32)>,
}

impl IdleQueues {
    /// When the next grace period ends, in ms.
    pub(super) fn grace_ends_ms(&self) -> Option<u64> {
        self.in_grace.front().map(|(until_ms, ..)| *until_ms)
    }

    fn next_position(&mut self) -> Position {
        self.last_position += 1;
        self.last_position
    }
}

impl Shard {
    /// Updates what the shard keeps about a session after its step.
    pub(super) fn note_changes(&mut self, key: Key) {
        let Some(entry) = self.sessions.get_mut(key) else { return };
        let (held_bytes, idle) = (entry.session.held_bytes(), entry.session.idle());
        let is_large = idle == Some(Idle::Begun) && held_bytes >= limits::LARGE_HEAD_BYTES;
        // An admitted connection that was answered is about to close, and its answer may still be on its way.
        let idle = idle.filter(|idle| *idle != Idle::Answered || !entry.has_place());
        let (is_queued_as_large, was_idle) = (entry.head_position.is_some(), entry.idle);
        if held_bytes != entry.held_bytes {
            self.count_held(key, held_bytes);
        }
        if is_large != is_queued_as_large {
            self.queue_if_large(key, is_large);
        }
        if idle != was_idle {
            self.queue_if_idle(key, idle);
        }
        if self.context.is_short_of_memory() {
            self.free_memory();
        }
    }

    pub(super) fn count_held(&mut self, key: Key, held_bytes: usize) {
        let Some(entry) = self.sessions.get_mut(key) else { return };
        let count = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.context.metrics.buffered_bytes.add(count(held_bytes) - count(entry.held_bytes));
        entry.held_bytes = held_bytes;
    }

    /// Puts a session into the queue of large unfinished heads, or takes it out.
    pub(super) fn queue_if_large(&mut self, key: Key, is_large: bool) {
        let Some(entry) = self.sessions.get_mut(key) else { return };
        let client = entry.queue_address();
        match (entry.head_position, is_large) {
            (None, true) => {
                let position = self.idle.next_position();
                entry.head_position = Some(position);
                self.idle.large_heads.join(position, key, client);
            }
            (Some(position), false) => {
                entry.head_position = None;
                self.idle.large_heads.leave(position, client);
            }
            _ => {}
        }
    }

    /// Closes large unfinished heads, the oldest first, while memory is short. When this shard has none, the others are
    /// asked to do the same.
    pub(super) fn free_memory(&mut self) {
        for _ in 0..limits::LARGE_HEADS_CLOSED_PER_TURN {
            if !self.context.is_short_of_memory() {
                return;
            }
            let Some(oldest) = self.idle.large_heads.oldest(None) else { break };
            self.close_idle(oldest);
        }
        let now_ms = self.context.now_ms();
        if self.context.is_short_of_memory() && self.memory_requests.allows(now_ms, limits::MEMORY_REQUEST_INTERVAL) {
            self.gate.ask_for_memory(self.number);
        }
    }

    /// Takes a session out of the queue of idle connections, or puts it in: it is not idle any more, has become idle,
    /// or is idle in another way.
    fn queue_if_idle(&mut self, key: Key, idle: Option<Idle>) {
        let Some(entry) = self.sessions.get_mut(key) else { return };
        entry.idle = idle;
        entry.idle_changes = entry.idle_changes.wrapping_add(1);
        let (changes, admission, is_queued) = (entry.idle_changes, entry.admission, entry.idle_position.is_some());
        if is_queued {
            self.leave_idle_queue(key);
        }
        match (idle, admission) {
            (None, _) => {}
            // These are rejected anyway.
            (_, Admission::NotAllowed | Admission::TooMany) => self.join_idle_queue(key),
            _ => {
                let until_ms = self.context.now_ms() + millis(limits::IDLE_GRACE);
                self.idle.in_grace.push_back((until_ms, key, changes));
            }
        }
    }

    /// Queues the connections that are still idle at the end of their grace period.
    pub(super) fn end_grace_periods(&mut self) {
        let now_ms = self.context.now_ms();
        while let Some((_, key, changes)) = self.idle.in_grace.pop_front_if(|(until_ms, ..)| *until_ms <= now_ms) {
            if self.sessions.get(key).is_some_and(|entry| entry.idle_changes == changes) {
                self.join_idle_queue(key);
            }
        }
    }

    fn join_idle_queue(&mut self, key: Key) {
        let Some(entry) = self.sessions.get_mut(key) else { return };
        let client = entry.gate_client();
        let position = self.idle.next_position();
        let queue = if entry.has_place() { &mut self.idle.with_place } else { &mut self.idle.rejected };
        queue.join(position, key, entry.queue_address());
        entry.idle_position = Some(position);
        if entry.has_place() {
            self.gate.count_idle(client, self.number, 1);
        } else if self.idle.rejected.len() > self.gate.rejected_per_shard()
            && let Some(oldest) = self.idle.rejected.oldest(None)
        {
            self.close_idle(oldest);
        }
    }

    pub(super) fn leave_idle_queue(&mut self, key: Key) {
        let Some(entry) = self.sessions.get_mut(key) else { return };
        let Some(position) = entry.idle_position.take() else { return };
        let client = entry.gate_client();
        let queue = if entry.has_place() { &mut self.idle.with_place } else { &mut self.idle.rejected };
        queue.leave(position, entry.queue_address());
        if entry.has_place() {
            self.gate.count_idle(client, self.number, -1);
        }
    }

    fn close_idle(&mut self, key: Key) {
        if let Some(entry) = self.sessions.get_mut(key) {
            entry.session.give_way(key, &mut self.context);
            self.follow(key, Next::Close);
        }
    }

    /// Closes the oldest idle connection in favour of one that has been admitted already.
    pub(super) fn evict(&mut self, eviction: Eviction) {
        // If its request has begun meanwhile, there is one connection too many for a while.
        if let Some(oldest) = self.idle.with_place.oldest(eviction.client) {
            self.close_idle(oldest);
        }
        self.gate.settle(eviction);
        if self.eviction_log.allows(self.context.now_ms(), limits::ACCEPT_PAUSE_LOG_INTERVAL) {
            log::warn!(
                "no place is left: idle connections give way to new ones, the oldest first; not logged again for 10 s"
            );
        }
    }

    /// Closes a few idle connections for their descriptors, or asks another shard to close one; `false` when this shard
    /// has none.
    pub(super) fn free_descriptors(&mut self) -> bool {
        let mut freed = 0;
        while freed < limits::IDLE_CLOSED_FOR_DESCRIPTORS
            && let Some(oldest) = self.idle.with_place.oldest(None)
        {
            self.close_idle(oldest);
            freed += 1;
        }
        if freed == 0
            && let Some(shard) = self.gate.claim_idle(self.number)
        {
            self.gate.send(Eviction { shard, client: None });
        }
        freed > 0
    }
}
