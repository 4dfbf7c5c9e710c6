//! Sessions to step though no event will come for them.

use crate::event::Key;

/// The sessions that used up their turn, or that a message is for. Those that move bulk data wait apart, because bulk
/// transfers pause at times.
#[derive(Debug, Default)]
pub(super) struct RunQueue {
    ready: Vec<Key>,
    bulk: Vec<Key>,
    /// How many wait in both, because every turn asks whether any does.
    waiting: usize,
}

impl RunQueue {
    /// Adds a session that is in neither queue.
    pub(super) fn push(&mut self, key: Key, moves_bulk: bool) {
        self.waiting += 1;
        match moves_bulk {
            true => self.bulk.push(key),
            false => self.ready.push(key),
        }
    }

    /// Takes the sessions whose turn it is: those that move bulk data only while bulk transfers do not pause.
    pub(super) fn take(&mut self, bulk_is_paused: bool) -> Vec<Key> {
        let mut keys = std::mem::take(&mut self.ready);
        if !bulk_is_paused {
            match keys.is_empty() {
                true => keys = std::mem::take(&mut self.bulk),
                false => keys.append(&mut self.bulk),
            }
        }
        self.waiting -= keys.len();
        keys
    }

    /// Whether no session waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Whether a session waits that moves no bulk data.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether sessions wait, and all of them move bulk data.
    pub(super) fn has_only_bulk(&self) -> bool {
        self.waiting > 0 && self.ready.is_empty()
    }

    /// All that wait.
    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &Key> {
        self.ready.iter().chain(&self.bulk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bulk_waits_for_the_end_of_the_pause_and_others_do_not() {
        let [first, second, third] = [1, 2, 3].map(|index| Key { index, generation: 1 });
        let mut queue = RunQueue::default();
        queue.push(first, true);
        queue.push(second, false);
        assert_eq!(queue.take(true), [second]);
        assert_eq!((queue.has_ready(), queue.is_empty()), (false, false));
        queue.push(third, false);
        assert_eq!(queue.take(false), [third, first]);
        assert_eq!((queue.has_ready(), queue.is_empty()), (false, true));
    }
}
