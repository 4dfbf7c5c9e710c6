//! Making room: idle connections give way to new ones, and what holds much memory for nothing goes first.

use super::{Shard, live};
use crate::event::Key;
use crate::limits::{self, millis};
use crate::session::{Admission, Idle, Next};
use crate::shard::admission::GiveWay;

impl Shard {
    /// Takes note of what a step has changed about a connection.
    pub(super) fn look_after(&mut self, key: Key) {
        let Some(slot) = live(&mut self.slots, key) else { return };
        let (held_bytes, idle) = (slot.session.held_bytes(), slot.session.idle());
        if held_bytes != slot.held_bytes {
            self.count_held(key, held_bytes);
        }
        self.queue_if_large(key, idle == Some(Idle::Begun) && held_bytes >= limits::LARGE_HEAD_BYTES);
        self.queue_if_idle(key);
        if self.context.is_short_of_memory() {
            self.free_memory();
        }
    }

    pub(super) fn count_held(&mut self, key: Key, held_bytes: usize) {
        let Some(slot) = live(&mut self.slots, key) else { return };
        let count = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.context.metrics.buffered_bytes.add(count(held_bytes) - count(slot.held_bytes));
        slot.held_bytes = held_bytes;
    }

    /// Unfinished heads that take much memory are in a queue of their own, without any grace.
    pub(super) fn queue_if_large(&mut self, key: Key, is_large: bool) {
        let Some(slot) = live(&mut self.slots, key) else { return };
        let client = slot.session.client().ip().to_canonical();
        match (slot.turn_of_head, is_large) {
            (None, true) => {
                self.last_turn += 1;
                slot.turn_of_head = Some(self.last_turn);
                self.large_heads.join(self.last_turn, key, client);
            }
            (Some(turn), false) => {
                slot.turn_of_head = None;
                self.large_heads.leave(turn, client);
            }
            _ => {}
        }
    }

    /// Closes unfinished heads that take much memory, the oldest first, while memory is short. They are another shard's where this one has
    /// none.
    pub(super) fn free_memory(&mut self) {
        for _ in 0..limits::LARGE_HEADS_CLOSED_PER_TURN {
            if !self.context.is_short_of_memory() {
                return;
            }
            let Some(oldest) = self.large_heads.oldest(None) else { break };
            self.close_idle(oldest);
        }
        let now_ms = self.context.now_ms();
        if self.context.is_short_of_memory() && now_ms >= self.memory_asked_until_ms {
            self.memory_asked_until_ms = now_ms + millis(limits::MEMORY_REQUEST_INTERVAL);
            self.gate.ask_for_memory(self.number);
        }
    }

    /// Takes note of a connection that has become idle, is idle in another way, or is not idle any more.
    fn queue_if_idle(&mut self, key: Key) {
        let Some(slot) = live(&mut self.slots, key) else { return };
        // One that was let in and answered is about to go by itself, and its answer may still be on its way.
        let idle = slot.session.idle().filter(|idle| *idle != Idle::Answered || !slot.has_place());
        if slot.idle == idle {
            return;
        }
        slot.idle = idle;
        slot.changes = slot.changes.wrapping_add(1);
        let (changes, admission) = (slot.changes, slot.admission);
        self.leave_queue(key);
        match (idle, admission) {
            (None, _) => {}
            // They are to be refused anyway.
            (_, Admission::NotAllowed | Admission::TooMany) => self.join_queue(key),
            _ => self.fresh.push_back((self.context.now_ms() + millis(limits::IDLE_GRACE), key, changes)),
        }
    }

    /// Queues those that are still idle when their time is over.
    pub(super) fn queue_fresh(&mut self) {
        let now_ms = self.context.now_ms();
        while let Some((_, key, changes)) = self.fresh.pop_front_if(|(until_ms, ..)| *until_ms <= now_ms) {
            if live(&mut self.slots, key).is_some_and(|slot| slot.changes == changes) {
                self.join_queue(key);
            }
        }
    }

    /// Puts an idle connection behind those that have been idle longer.
    fn join_queue(&mut self, key: Key) {
        let Some(slot) = live(&mut self.slots, key) else { return };
        let client = slot.session.client();
        let queue = if slot.has_place() { &mut self.idle } else { &mut self.turned_away };
        self.last_turn += 1;
        let turn = self.last_turn;
        queue.join(turn, key, client.ip().to_canonical());
        slot.turn = Some(turn);
        if slot.has_place() {
            self.gate.count_idle(client, self.number, 1);
        } else if self.turned_away.len() > self.gate.turned_away_per_shard()
            && let Some(oldest) = self.turned_away.oldest(None)
        {
            self.close_idle(oldest);
        }
    }

    pub(super) fn leave_queue(&mut self, key: Key) {
        let Some(slot) = live(&mut self.slots, key) else { return };
        let Some(turn) = slot.turn.take() else { return };
        let client = slot.session.client();
        let queue = if slot.has_place() { &mut self.idle } else { &mut self.turned_away };
        queue.leave(turn, client.ip().to_canonical());
        if slot.has_place() {
            self.gate.count_idle(client, self.number, -1);
        }
    }

    fn close_idle(&mut self, key: Key) {
        if let Some(slot) = live(&mut self.slots, key) {
            slot.session.give_way(key, &mut self.context);
            self.follow(key, Next::Close);
        }
    }

    /// The oldest idle connection makes room; somebody has been let in already.
    pub(super) fn give_way(&mut self, room: GiveWay) {
        // It may have begun its request meanwhile: then there is one more for a while.
        if let Some(oldest) = self.idle.oldest(room.client) {
            self.close_idle(oldest);
        }
        self.gate.done(room);
        if self.context.now_ms() >= self.give_way_told_until_ms {
            self.give_way_told_until_ms = self.context.now_ms() + millis(limits::ACCEPT_PAUSE_LOG_INTERVAL);
            log::warn!(
                "no place is left: idle connections give way to new ones, the oldest first; the next 10 s of it are not told"
            );
        }
    }

    /// Closes a few idle connections for their descriptors, here or, where there are none, on another shard; `false` when there are none
    /// at all.
    pub(super) fn free_descriptors(&mut self) -> bool {
        let mut freed = 0;
        while freed < limits::IDLE_CLOSED_FOR_DESCRIPTORS
            && let Some(oldest) = self.idle.oldest(None)
        {
            self.close_idle(oldest);
            freed += 1;
        }
        if freed == 0
            && let Some(shard) = self.gate.promise(self.number)
        {
            self.gate.ask(GiveWay { shard, client: None });
        }
        freed > 0
    }
}
