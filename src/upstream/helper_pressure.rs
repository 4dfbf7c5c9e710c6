//! Whether clients wait for challenges longer than the upstream usually takes: it may be short of the helpers that it
//! challenges with, and connections that were challenged ahead hold some of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::limits;

/// What the clients of all shards experience.
#[derive(Debug, Default)]
pub struct HelperPressure {
    /// Clients that wait for a challenge.
    waiting: AtomicUsize,
    /// When the last one got its challenge, or the first of those now waiting began to, in ms.
    progress_ms: AtomicU64,
    /// How long a challenge takes when all is well, in µs: it follows a quick one at once and slow ones slowly, or the
    /// shortage itself would become the usual.
    usual_us: AtomicU64,
    /// How long challenges took lately, in µs: a moving average.
    lately_us: AtomicU64,
    /// Nothing is challenged ahead until then, in ms, on any shard.
    rests_until_ms: AtomicU64,
}

/// A client that waits for a challenge on a connection of its own, until this is dropped.
#[derive(Debug)]
pub struct Waiting {
    helper_pressure: Arc<HelperPressure>,
    since_ms: u64,
}

impl HelperPressure {
    /// A client begins to wait for a challenge.
    pub fn client_waits(self: &Arc<HelperPressure>, now_ms: u64) -> Waiting {
        if self.waiting.fetch_add(1, Ordering::Relaxed) == 0 {
            self.progress_ms.store(now_ms, Ordering::Relaxed);
        }
        Waiting { helper_pressure: Arc::clone(self), since_ms: now_ms }
    }

    /// Whether nothing is to be challenged ahead now: during a shortage, and for [`limits::PRE_CHALLENGE_PAUSE`] after it was seen, for the
    /// next connections would take the same helpers away again.
    pub fn forbids_warming(&self, now_ms: u64) -> bool {
        if self.is_acute(now_ms) {
            self.rest(now_ms);
        }
        now_ms < self.rests_until_ms.load(Ordering::Relaxed)
    }

    /// Clients that wait for a challenge.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Leaves the upstream alone for [`limits::PRE_CHALLENGE_PAUSE`]; clients still get their cold connections.
    pub fn rest(&self, now_ms: u64) {
        self.rests_until_ms.store(now_ms + limits::millis(limits::PRE_CHALLENGE_PAUSE), Ordering::Relaxed);
    }

    /// Clients wait, and challenges have lately taken several times the usual, or none has come for so long.
    fn is_acute(&self, now_ms: u64) -> bool {
        let much_us = 4 * self.usual_us.load(Ordering::Relaxed);
        let queues =
            self.lately_us.load(Ordering::Relaxed) > much_us.max(1000 * limits::millis(limits::CHALLENGE_QUEUE_DELAY));
        let since_progress_ms = now_ms.saturating_sub(self.progress_ms.load(Ordering::Relaxed));
        let stands_still = since_progress_ms >= (much_us / 1000).max(limits::millis(limits::STALL_CHECK_INTERVAL));
        self.waiting.load(Ordering::Relaxed) > 0 && (queues || stands_still)
    }
}

impl Waiting {
    /// The challenge is there.
    pub fn challenged(self, now_ms: u64) {
        let took_us = 1000 * now_ms.saturating_sub(self.since_ms);
        let usual_us = self.helper_pressure.usual_us.load(Ordering::Relaxed);
        let next_us = match usual_us {
            0 => took_us.max(1),
            _ => took_us.min(usual_us + took_us.saturating_sub(usual_us) / 256).max(1),
        };
        self.helper_pressure.usual_us.store(next_us, Ordering::Relaxed);
        let lately_us = self.helper_pressure.lately_us.load(Ordering::Relaxed);
        self.helper_pressure.lately_us.store((3 * lately_us + took_us) / 4, Ordering::Relaxed);
        self.helper_pressure.progress_ms.store(now_ms, Ordering::Relaxed);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.helper_pressure.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_that_are_served_as_usual_are_no_shortage_however_many_wait() {
        let shortage = Arc::new(HelperPressure::default());
        for round in 0..100 {
            let waiting: Vec<Waiting> = (0..50).map(|_| shortage.client_waits(round * 20)).collect();
            assert!(!shortage.forbids_warming(round * 20 + 10));
            waiting.into_iter().for_each(|client| client.challenged(round * 20 + 20));
        }
    }

    #[test]
    fn a_standstill_is_a_shortage_and_is_remembered_when_it_is_over() {
        let shortage = Arc::new(HelperPressure::default());
        shortage.client_waits(1_000).challenged(1_003);
        let waiting = shortage.client_waits(2_000);
        assert!(!shortage.forbids_warming(2_100));
        assert!(shortage.forbids_warming(2_200));
        drop(waiting);
        assert!(shortage.forbids_warming(20_000));
        assert!(!shortage.forbids_warming(40_000));
    }

    #[test]
    fn a_queue_in_front_of_few_helpers_is_a_shortage_though_it_moves() {
        let shortage = Arc::new(HelperPressure::default());
        shortage.client_waits(0).challenged(2);
        let waiting: Vec<Waiting> = (0..50).map(|_| shortage.client_waits(10)).collect();
        for (number, client) in waiting.into_iter().enumerate() {
            client.challenged(10 + 20 * number as u64);
        }
        let _next = shortage.client_waits(1_020);
        assert!(shortage.forbids_warming(1_030));
    }

    #[test]
    fn an_upstream_far_away_is_not_taken_for_one_that_stands_still() {
        let shortage = Arc::new(HelperPressure::default());
        for round in 0..100 {
            shortage.client_waits(round * 1_000).challenged(round * 1_000 + 600);
        }
        let _waiting = shortage.client_waits(200_000);
        assert!(!shortage.forbids_warming(201_000));
        assert!(shortage.forbids_warming(203_000));
    }
}
