//! Deadlines: one timer wheel per shard, with entries of eight bytes and all operations in constant time.
//!
//! A connection has one deadline at a time, that of its stage, and moves it by writing a number ([`Deadline`]). Only
//! when its entry in the wheel comes up is the entry compared with that number, and put back if activity has moved the
//! deadline. So a busy tunnel costs one entry per idle time-out, not one per message.
//!
//! A FIFO queue for each kind of time-out would take less code. But a deadline that was moved and is put back at the
//! end of its queue fires up to a whole time-out late. The wheel keeps all of them within a tick.

use super::Key;

/// The wheel's resolution in milliseconds. No deadline fires early, and none more than a tick late.
pub const TICK_MS: u64 = 64;

/// Slots of the wheel. The entry of a deadline further away than `SLOTS * TICK_MS` (262 s) comes up early and is put
/// back.
const SLOTS: usize = 4096;
const WORDS: usize = SLOTS / 64;
/// [`Timers::occupied_words`] has a bit for each word.
const _: () = assert!(WORDS == 64);

/// A connection's deadline, and the place of its entry in the wheel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// When the connection's stage has lasted too long, in milliseconds of the shard's clock.
    pub at_ms: u64,
    /// The tick of the one entry in the wheel that counts; other entries of the same connection are outdated.
    armed_tick: u64,
}

impl Deadline {
    /// A deadline that is not in the wheel yet.
    pub const UNARMED: Deadline = Deadline { at_ms: u64::MAX, armed_tick: u64::MAX };
}

/// The wheel.
pub struct Timers {
    slots: Vec<Vec<Key>>,
    occupied: [u64; WORDS],
    /// Which words of `occupied` are not 0. The next entry is looked for once a turn, and so is found in constant time.
    occupied_words: u64,
    /// The next tick to handle.
    next_tick: u64,
    /// An empty list for the next slot that gets an entry, to reuse the allocation. Empty slots keep none: over all
    /// slots that would add up to megabytes.
    spare: Vec<Key>,
}

impl Timers {
    /// An empty wheel that starts at `now_ms`.
    pub fn new(now_ms: u64) -> Timers {
        Timers {
            slots: vec![Vec::new(); SLOTS],
            occupied: [0; WORDS],
            occupied_words: 0,
            next_tick: now_ms / TICK_MS,
            spare: Vec::new(),
        }
    }

    /// Sets a deadline. Adds an entry only if there is none that comes up early enough.
    #[inline]
    pub fn set(&mut self, key: Key, deadline: &mut Deadline, at_ms: u64) {
        deadline.at_ms = at_ms;
        // Rounded up: the deadline has passed when the tick begins.
        self.wake_by(key, deadline, at_ms);
    }

    /// Has an entry come up at `at_ms` at the latest, for an owner that has something else to do then
    /// ([`Timers::expired`] tells it apart). The deadline stays as it is.
    #[inline]
    pub fn wake_by(&mut self, key: Key, deadline: &mut Deadline, at_ms: u64) {
        let tick = at_ms.div_ceil(TICK_MS).max(self.next_tick);
        if tick < deadline.armed_tick {
            self.insert(key, deadline, tick);
        }
    }

    /// Whether the deadline has passed whose entry came up at the present tick. Puts the entry back if the deadline was
    /// moved; ignores an outdated entry.
    pub fn expired(&mut self, key: Key, deadline: &mut Deadline, now_ms: u64) -> bool {
        if deadline.armed_tick >= self.next_tick {
            return false;
        }
        deadline.armed_tick = u64::MAX;
        if deadline.at_ms <= now_ms {
            return true;
        }
        if deadline.at_ms != u64::MAX {
            self.set(key, deadline, deadline.at_ms);
        }
        false
    }

    /// The entries of the next slot that is due at `now_ms`; `None` when there are no more. The caller must pass each
    /// entry to [`Timers::expired`], otherwise its deadline never fires, and return the list with [`Timers::done`].
    pub fn pop(&mut self, now_ms: u64) -> Option<Vec<Key>> {
        let now_tick = now_ms / TICK_MS;
        while self.next_tick <= now_tick {
            let slot = slot_of(self.next_tick);
            if self.occupied[slot / 64] == 0 && slot.is_multiple_of(64) {
                self.next_tick = (self.next_tick + 64).min(now_tick + 1);
                continue;
            }
            self.next_tick += 1;
            if self.occupied[slot / 64] & (1 << (slot % 64)) != 0 {
                self.occupied[slot / 64] &= !(1 << (slot % 64));
                if self.occupied[slot / 64] == 0 {
                    self.occupied_words &= !(1 << (slot / 64));
                }
                return Some(std::mem::take(&mut self.slots[slot]));
            }
        }
        None
    }

    /// Takes back a list from [`Timers::pop`].
    pub fn done(&mut self, mut list: Vec<Key>) {
        list.clear();
        // A list that has held a burst would keep its memory forever.
        if list.capacity() <= 1024 {
            self.spare = list;
        }
    }

    /// When the next slot with an entry is due, in ms; `None` when the wheel is empty.
    pub fn next_due_ms(&self) -> Option<u64> {
        let start = slot_of(self.next_tick);
        let word = start / 64;
        let rest = self.occupied[word] & (u64::MAX << (start % 64));
        let slot = match rest {
            0 => {
                let later = self.occupied_words & (u64::MAX << word << 1);
                // Behind the last slot the wheel begins again, up to the slots of this word that are before `start`.
                let words = if later != 0 { later } else { self.occupied_words };
                if words == 0 {
                    return None;
                }
                let word = words.trailing_zeros() as usize;
                word * 64 + self.occupied[word].trailing_zeros() as usize
            }
            _ => word * 64 + rest.trailing_zeros() as usize,
        };
        let ticks = slot.wrapping_sub(start) % SLOTS;
        Some((self.next_tick + ticks as u64) * TICK_MS)
    }

    #[inline(never)]
    fn insert(&mut self, key: Key, deadline: &mut Deadline, tick: u64) {
        // A deadline beyond the wheel goes into the last slot, and is put back when that comes up.
        let tick = tick.min(self.next_tick + SLOTS as u64 - 1);
        deadline.armed_tick = tick;
        let slot = slot_of(tick);
        if self.slots[slot].capacity() == 0 {
            self.slots[slot] = std::mem::take(&mut self.spare);
        }
        self.slots[slot].push(key);
        self.occupied[slot / 64] |= 1 << (slot % 64);
        self.occupied_words |= 1 << (slot / 64);
    }
}

#[allow(clippy::cast_possible_truncation, reason = "a remainder of SLOTS fits")]
fn slot_of(tick: u64) -> usize {
    (tick % SLOTS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// Connections of one wheel, on a clock that the test moves.
    struct Bench {
        timers: Timers,
        deadlines: HashMap<u32, Deadline>,
        fired: Vec<(u32, u64)>,
    }

    impl Bench {
        fn new() -> Bench {
            Bench { timers: Timers::new(0), deadlines: HashMap::new(), fired: Vec::new() }
        }

        fn set(&mut self, index: u32, at_ms: u64) {
            let deadline = self.deadlines.entry(index).or_insert(Deadline::UNARMED);
            self.timers.set(Key { index, generation: 1 }, deadline, at_ms);
        }

        fn advance(&mut self, now_ms: u64) {
            while let Some(list) = self.timers.pop(now_ms) {
                for key in &list {
                    if let Some(deadline) = self.deadlines.get_mut(&key.index)
                        && self.timers.expired(*key, deadline, now_ms)
                    {
                        self.fired.push((key.index, now_ms));
                    }
                }
                self.timers.done(list);
            }
        }

        /// Sleeps like the event loop: never longer than `next_due_ms` says.
        fn run_until(&mut self, end_ms: u64) {
            let mut now_ms = 0;
            while now_ms < end_ms {
                now_ms = match self.timers.next_due_ms() {
                    Some(due_ms) => due_ms.max(now_ms + 1).min(end_ms),
                    None => end_ms,
                };
                self.advance(now_ms);
            }
        }
    }

    #[test]
    fn a_deadline_fires_once_never_early_and_within_a_tick() {
        let mut bench = Bench::new();
        let deadlines: Vec<u64> = vec![1, 63, 64, 65, 100, 5_000, 75_000, 262_143, 262_144, 300_000, 3_600_000];
        for (index, at_ms) in deadlines.iter().enumerate() {
            bench.set(u32::try_from(index).unwrap(), *at_ms);
        }
        bench.run_until(4_000_000);
        assert_eq!(bench.fired.len(), deadlines.len());
        for (index, fired_ms) in bench.fired {
            let at_ms = deadlines[index as usize];
            assert!(fired_ms >= at_ms && fired_ms < at_ms + 2 * TICK_MS, "{at_ms} fired at {fired_ms}");
        }
    }

    #[test]
    fn activity_moves_a_deadline_without_a_new_entry() {
        let mut bench = Bench::new();
        bench.set(1, 1_000);
        for now_ms in (0..10_000).step_by(10) {
            bench.advance(now_ms);
            bench.set(1, now_ms + 1_000);
            let entries: usize = bench.timers.slots.iter().map(Vec::len).sum();
            assert!(entries <= 1);
        }
        bench.run_until(20_000);
        assert_eq!(bench.fired.len(), 1);
        let (_, fired_ms) = bench.fired[0];
        assert!((10_990..10_990 + 2 * TICK_MS).contains(&fired_ms), "fired at {fired_ms}");
    }

    #[test]
    fn empty_slots_keep_no_memory() {
        let mut bench = Bench::new();
        for now_ms in (0..600_000).step_by(10) {
            bench.advance(now_ms);
            bench.deadlines.clear();
            bench.set(1, now_ms + 30_000);
        }
        bench.advance(700_000);
        let capacity: usize = bench.timers.slots.iter().map(Vec::capacity).sum();
        assert_eq!(capacity, 0, "entries' capacity in an empty wheel");
    }

    #[test]
    fn a_deadline_that_is_brought_forward_fires_at_its_new_time_only() {
        let mut bench = Bench::new();
        bench.set(1, 60_000);
        bench.set(1, 500);
        bench.run_until(100_000);
        assert_eq!(bench.fired.len(), 1);
        assert!(bench.fired[0].1 < 700);
    }

    #[test]
    fn a_deadline_far_away_costs_few_wake_ups() {
        let mut bench = Bench::new();
        bench.set(1, 3_600_000);
        let (mut now_ms, mut turns) = (0, 0);
        while bench.fired.is_empty() {
            now_ms = bench.timers.next_due_ms().unwrap().max(now_ms + 1);
            bench.advance(now_ms);
            turns += 1;
        }
        assert!(turns < 20, "{turns} wake-ups for one hour");
    }
}
