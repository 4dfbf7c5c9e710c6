//! Spreads connections evenly over the shards.
//!
//! The kernel assigns a new connection to a listener by a hash of its addresses. That is even for many connections, but
//! not for a few, nor after the connections of one shard have ended. So a shard that has clearly more connections than
//! another one hands those over that it accepts. It looks at one other shard for each connection, in turn, because each
//! look may cost a cache miss.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::limits;

/// How many connections each shard has, including those that are on their way to it.
pub struct Balance(Box<[OwnLines<AtomicUsize>]>);

/// A value with cache lines of its own, so that shards that write neighbouring values do not slow each other down. Two
/// lines, because processors fetch them in pairs.
#[repr(align(128))]
pub struct OwnLines<T>(pub T);

/// Set in a number of [`Balance`] when the shard takes no further connections of others.
const CLOSED: usize = 1 << (usize::BITS - 1);

impl Balance {
    /// Shards without connections.
    pub fn new(shards: usize) -> Balance {
        Balance((0..shards).map(|_| OwnLines(AtomicUsize::new(0))).collect())
    }

    /// The shard that is to have a connection that shard `own` accepts: another one if that has clearly fewer. Counts
    /// the connection there. `turn` selects the shard to compare with.
    pub fn place(&self, own: usize, turn: usize) -> usize {
        let others = self.0.len() - 1;
        if others > 0 {
            let other = (own + 1 + turn % others) % self.0.len();
            let few = self.0[other].0.load(Ordering::Relaxed);
            let threshold = few.saturating_add(limits::SHARD_IMBALANCE + few / limits::SHARD_IMBALANCE_PART);
            let is_open = |load: usize| (load & CLOSED == 0).then_some(load + 1);
            if self.connections(own) >= threshold
                && self.0[other].0.fetch_update(Ordering::SeqCst, Ordering::Relaxed, is_open).is_ok()
            {
                return other;
            }
        }
        self.0[own].0.fetch_add(1, Ordering::Relaxed);
        own
    }

    /// A connection of the shard has ended.
    pub fn leave(&self, shard: usize) {
        self.0[shard].0.fetch_sub(1, Ordering::Relaxed);
    }

    /// No shard hands connections over to this one any more. What is on its way still counts.
    pub fn close(&self, shard: usize) {
        self.0[shard].0.fetch_or(CLOSED, Ordering::SeqCst);
    }

    /// How many connections the shard has, including those on their way to it.
    pub fn connections(&self, shard: usize) -> usize {
        self.0[shard].0.load(Ordering::SeqCst) & !CLOSED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(balance: &Balance) -> Vec<usize> {
        (0..balance.0.len()).map(|shard| balance.connections(shard)).collect()
    }

    #[test]
    fn a_shard_that_accepts_everything_shares_it_with_the_others() {
        let balance = Balance::new(4);
        for turn in 0..10_000 {
            balance.place(0, turn);
        }
        let counts = counts(&balance);
        assert_eq!(counts.iter().sum::<usize>(), 10_000);
        // At most 1.1 times the mean.
        assert!(counts.iter().all(|count| *count <= 2_750), "{counts:?}");
    }

    #[test]
    fn nearly_even_shards_keep_what_they_accept() {
        let balance = Balance::new(2);
        for turn in 0..1_000 {
            let own = turn % 2;
            assert_eq!(balance.place(own, turn), own);
        }
        for turn in 0..limits::SHARD_IMBALANCE {
            assert_eq!(balance.place(0, turn), 0);
        }
    }

    #[test]
    fn a_single_shard_keeps_everything() {
        let balance = Balance::new(1);
        assert!((0..100).all(|turn| balance.place(0, turn) == 0));
        assert_eq!(balance.connections(0), 100);
    }

    #[test]
    fn a_closed_shard_gets_nothing_and_counts_what_is_on_its_way() {
        let balance = Balance::new(2);
        while balance.place(0, 0) == 0 {}
        balance.close(1);
        assert_eq!(balance.connections(1), 1);
        assert!((0..100).all(|turn| balance.place(0, turn) == 0));
        balance.leave(1);
        assert_eq!(balance.connections(1), 0);
    }
}
