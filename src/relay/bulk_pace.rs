//! How much the bulk transfers of a shard may move while others need the shard, too.

use std::time::Duration;

use super::Moved;
use crate::limits::{self, millis};

/// The pace of a shard's bulk transfers: how much each half of a tunnel may move in a turn, and when it may.
///
/// Each turn of a bulk transfer makes everything else on the shard wait, so it is shorter while small messages are
/// exchanged. And after a turn in which small work was done as well, bulk transfers pause: what comes next is served at
/// once, and the thread sleeps now and then, so that the scheduler lets it run as soon as something comes.
///
/// A pause begins only after a turn in which bulk transfers could move, so they are never held up for long.
#[derive(Debug, Default)]
pub struct BulkPace {
    /// Until when more small work is expected, in µs.
    small_work_until_us: u64,
    /// How often something small was done in this turn.
    small_work: u32,
    /// How often bulk data was moved in this turn.
    bulk_moves: u32,
    /// Until when bulk transfers pause, in µs.
    paused_until_us: u64,
}

impl BulkPace {
    /// Takes note of small work: a message, or a step of a request.
    #[inline]
    pub fn did_small_work(&mut self, now_us: u64) {
        self.small_work_until_us = now_us + 1000 * millis(limits::MESSAGES_WINDOW);
        self.small_work += 1;
    }

    /// Takes note of what a bulk transfer has moved in its turn, if anything.
    #[inline]
    pub fn moved_bulk(&mut self, moved: Moved) {
        self.bulk_moves += u32::from(moved != Moved::default());
    }

    /// How often bulk data was moved in this turn so far.
    pub fn bulk_moves(&self) -> u32 {
        self.bulk_moves
    }

    /// The most bytes that a half may move in a turn; 0 if it `is_bulk` and bulk transfers pause.
    #[inline]
    pub fn budget_bytes(&self, is_bulk: bool, now_us: u64) -> usize {
        if is_bulk && self.is_paused(now_us) {
            0
        } else if now_us < self.small_work_until_us {
            limits::TURN_BYTES_BESIDE_MESSAGES
        } else {
            limits::TURN_BYTES
        }
    }

    /// A turn that began and ended at these times, in ns, is over. Says whether bulk transfers pause from now on.
    #[inline]
    pub fn turn_ended(&mut self, began_ns: u64, ended_ns: u64) -> bool {
        // In the middle of a pause, a transfer may begin, or deliver what it had taken before.
        let pauses = self.bulk_moves > 0 && self.small_work > 0 && !self.is_paused(began_ns / 1000);
        if pauses {
            self.pause(Duration::from_nanos(ended_ns.saturating_sub(began_ns)), ended_ns / 1000);
        }
        (self.bulk_moves, self.small_work) = (0, 0);
        pauses
    }

    /// Pauses after a turn that took so long.
    #[cold]
    fn pause(&mut self, took: Duration, now_us: u64) {
        let pause = took.min(limits::BULK_PAUSE_PER_MESSAGE.saturating_mul(self.small_work)).min(limits::BULK_PAUSE);
        self.paused_until_us = now_us + u64::try_from(pause.as_micros()).unwrap_or(0);
    }

    /// Whether bulk transfers pause.
    #[inline]
    pub fn is_paused(&self, now_us: u64) -> bool {
        now_us < self.paused_until_us
    }

    /// How long to wait for the next event before bulk transfers go on without one: until a little after the pause,
    /// because bulk data that is moved in the turn of a message needs no turn of its own.
    pub fn longest_wait(&self, now_us: u64) -> Duration {
        match Duration::from_micros(self.paused_until_us.saturating_sub(now_us)) {
            Duration::ZERO => Duration::ZERO,
            pause_left => pause_left + limits::BULK_PAUSE_SLACK,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BULK: Moved = Moved { copied: 64 * 1024, spliced: 500_000 };

    /// The pause after a turn of 80 µs.
    fn pause_after(turn: impl FnOnce(&mut BulkPace)) -> Duration {
        let mut pace = BulkPace::default();
        turn(&mut pace);
        pace.turn_ended(1_000_000_000, 1_000_080_000);
        Duration::from_micros(pace.paused_until_us.saturating_sub(1_000_080))
    }

    #[test]
    fn bulk_transfers_move_less_in_a_turn_while_there_is_small_work() {
        let mut pace = BulkPace::default();
        pace.moved_bulk(BULK);
        assert_eq!(pace.budget_bytes(true, 1_000_000), limits::TURN_BYTES);
        pace.did_small_work(1_000_000);
        pace.moved_bulk(BULK);
        assert_eq!(pace.budget_bytes(true, 1_009_999), limits::TURN_BYTES_BESIDE_MESSAGES);
        assert_eq!(pace.budget_bytes(true, 1_010_000), limits::TURN_BYTES);
    }

    #[test]
    fn they_pause_after_a_turn_as_long_as_it_took_or_as_its_messages_are_worth() {
        let mixed = |messages: u32| {
            pause_after(|pace| {
                pace.moved_bulk(BULK);
                (0..messages).for_each(|_| pace.did_small_work(1_000_000));
            })
        };
        assert_eq!(mixed(1), limits::BULK_PAUSE_PER_MESSAGE);
        assert_eq!(mixed(64), Duration::from_micros(80), "no longer than the turn");
    }

    #[test]
    fn they_pause_only_if_both_took_place_in_the_turn() {
        assert_eq!(pause_after(|pace| pace.moved_bulk(BULK)), Duration::ZERO);
        assert_eq!(pause_after(|pace| pace.did_small_work(1_000_000)), Duration::ZERO);
        let mut pace = BulkPace::default();
        pace.did_small_work(1_000_000);
        pace.turn_ended(1_000_000_000, 1_000_080_000);
        pace.moved_bulk(BULK);
        pace.turn_ended(1_001_000_000, 1_001_080_000);
        assert!(!pace.is_paused(1_001_080), "the message was a turn earlier");
    }

    #[test]
    fn a_pause_ends_though_messages_go_on() {
        let mut pace = BulkPace::default();
        pace.moved_bulk(BULK);
        pace.did_small_work(1_000_000);
        pace.turn_ended(1_000_000_000, 1_000_080_000);
        let until_us = pace.paused_until_us;
        assert!(pace.is_paused(1_000_100));
        pace.moved_bulk(Moved::default());
        pace.did_small_work(1_000_000);
        pace.turn_ended(1_000_090_000, 1_000_100_000);
        assert_eq!(pace.paused_until_us, until_us, "a transfer that moved nothing");
    }

    #[test]
    fn bulk_transfers_have_a_turn_between_two_pauses() {
        let mut pace = BulkPace::default();
        let mut turns = 0;
        for turn in 0..1_000 {
            let began_us = 1_000_000 + 100 * turn;
            turns += u32::from(!pace.is_paused(began_us));
            // Others move bulk data for the first time, and so without a pause.
            (0..2).for_each(|_| pace.did_small_work(began_us));
            pace.moved_bulk(BULK);
            pace.turn_ended(began_us * 1000, (began_us + 99) * 1000);
        }
        assert!(turns >= 450, "bulk transfers had {turns} of 1000 turns");
    }

    #[test]
    fn only_bulk_transfers_pause_and_not_for_long() {
        let mut pace = BulkPace::default();
        pace.moved_bulk(BULK);
        (0..1000).for_each(|_| pace.did_small_work(1_000_000));
        pace.turn_ended(1_000_000_000, 1_050_000_000);
        assert_eq!(pace.longest_wait(1_050_000), limits::BULK_PAUSE + limits::BULK_PAUSE_SLACK);
        assert_eq!(pace.longest_wait(1_052_000), Duration::ZERO);
        assert_eq!(pace.budget_bytes(true, 1_050_001), 0);
        assert!(pace.budget_bytes(false, 1_050_001) > 0);
    }
}
