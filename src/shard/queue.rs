//! Idle connections that are closed when room is needed, in the order in which they became idle.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::event::Key;

/// A place in the queue: the lower, the longer the connection has been idle.
pub(super) type Position = u64;

/// The connections in their order. Every operation takes logarithmic time.
#[derive(Debug, Default)]
pub(super) struct IdleQueue {
    order: BTreeMap<Position, Key>,
    by_client: BTreeSet<(IpAddr, Position)>,
}

impl IdleQueue {
    /// Adds a connection. No position may be used twice.
    pub(super) fn join(&mut self, position: Position, key: Key, client: IpAddr) {
        self.order.insert(position, key);
        self.by_client.insert((client, position));
    }

    /// Removes a connection.
    pub(super) fn leave(&mut self, position: Position, client: IpAddr) {
        self.order.remove(&position);
        self.by_client.remove(&(client, position));
    }

    /// The connection that has been idle longest; if a client is named, among its connections.
    pub(super) fn oldest(&self, client: Option<IpAddr>) -> Option<Key> {
        match client {
            None => self.order.values().next().copied(),
            Some(client) => {
                let (_, position) = self.by_client.range((client, 0)..=(client, Position::MAX)).next()?;
                self.order.get(position).copied()
            }
        }
    }

    /// How many connections there are.
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
        assert_eq!(
            (queue.oldest(Some(one)), queue.len()),
            (Some(key(5)), 2),
            "a connection that is idle again is last"
        );
    }
}
