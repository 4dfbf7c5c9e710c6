//! A shard's connections that give way when places run short, in the order in which they became idle.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::event::Key;

/// A number in the queue: lower ones have waited longer.
pub(super) type Turn = u64;

/// The connections in their order. Every operation takes logarithmic time, however many there are.
#[derive(Debug, Default)]
pub(super) struct IdleQueue {
    order: BTreeMap<Turn, Key>,
    by_client: BTreeSet<(IpAddr, Turn)>,
}

impl IdleQueue {
    /// Adds a connection; numbers grow, and none is given twice.
    pub(super) fn join(&mut self, turn: Turn, key: Key, client: IpAddr) {
        self.order.insert(turn, key);
        self.by_client.insert((client, turn));
    }

    /// Takes a connection out.
    pub(super) fn leave(&mut self, turn: Turn, client: IpAddr) {
        self.order.remove(&turn);
        self.by_client.remove(&(client, turn));
    }

    /// The connection that has waited longest; of one client, if one is named.
    pub(super) fn oldest(&self, client: Option<IpAddr>) -> Option<Key> {
        match client {
            None => self.order.values().next().copied(),
            Some(client) => {
                let (_, turn) = self.by_client.range((client, 0)..=(client, Turn::MAX)).next()?;
                self.order.get(turn).copied()
            }
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(index: u32) -> Key {
        Key { index, generation: 1 }
    }

    #[test]
    fn the_oldest_comes_first_of_all_and_of_each_client() {
        let (one, other) = ("10.0.0.1".parse().unwrap(), "::1".parse().unwrap());
        let mut queue = IdleQueue::default();
        queue.join(1, key(7), other);
        queue.join(2, key(3), one);
        queue.join(3, key(5), one);
        assert_eq!((queue.oldest(None), queue.oldest(Some(one))), (Some(key(7)), Some(key(3))));
        queue.leave(1, other);
        assert_eq!((queue.oldest(None), queue.oldest(Some(other))), (Some(key(3)), None));
        queue.leave(2, one);
        queue.join(4, key(3), one);
        assert_eq!((queue.oldest(Some(one)), queue.len()), (Some(key(5)), 2), "who comes back is last");
    }
}
