//! Whether clients wait for challenges longer than usual. The upstream may then be short of helpers, some of which are
//! occupied by pre-challenged connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::limits;

/// How long the clients of one upstream wait for challenges, over all shards.
#[derive(Debug, Default)]
pub struct HelperPressure {
    /// Clients that wait for a challenge now.
    waiting: AtomicUsize,
    /// When the last client got its challenge, or when the first of those now waiting began to wait, in ms.
    progress_ms: AtomicU64,
    /// How long a challenge usually takes, in µs. It adopts a shorter time at once and a longer one slowly, so that a
    /// shortage does not become the usual time.
    usual_us: AtomicU64,
    /// How long challenges took recently, in µs, as a moving average.
    recent_us: AtomicU64,
    /// No connection is pre-challenged until then, in ms, on any shard.
    rests_until_ms: AtomicU64,
    /// Connections that are pre-challenged, or on the way to it.
    held: AtomicUsize,
    /// How many of those were allowed when there last was a shortage; 0 if there was none.
    limit: AtomicUsize,
    /// When that was, in ms.
    limited_ms: AtomicU64,
}

/// A client that waits for a challenge on its own connection. The wait ends when this is dropped.
#[derive(Debug)]
pub struct ChallengeWait {
    helper_pressure: Arc<HelperPressure>,
    since_ms: u64,
}

/// A pre-challenged connection, which may occupy a helper until this is dropped.
#[derive(Debug)]
pub struct HelperShare(Arc<HelperPressure>);

impl HelperPressure {
    /// Counts a client that begins to wait for a challenge.
    pub fn begin_wait(self: &Arc<HelperPressure>, now_ms: u64) -> ChallengeWait {
        if self.waiting.fetch_add(1, Ordering::Relaxed) == 0 {
            self.progress_ms.store(now_ms, Ordering::Relaxed);
        }
        ChallengeWait { helper_pressure: Arc::clone(self), since_ms: now_ms }
    }

    /// Whether no connection may be pre-challenged now: during a shortage, and for [`limits::PRE_CHALLENGE_PAUSE`]
    /// after it was seen, because the next pre-challenged connections would occupy the same helpers again.
    pub fn forbids_pre_challenging(&self, now_ms: u64) -> bool {
        let rests = now_ms < self.rests_until_ms.load(Ordering::Relaxed);
        if !self.is_acute(now_ms) {
            return rests;
        }
        if !rests {
            self.lower_limit(now_ms);
        }
        self.rest(now_ms);
        true
    }

    /// Counts a connection that is going to be pre-challenged.
    pub fn hold(self: &Arc<HelperPressure>) -> HelperShare {
        self.held.fetch_add(1, Ordering::Relaxed);
        HelperShare(Arc::clone(self))
    }

    /// How many more connections may be pre-challenged, over all shards, as far as shortages have shown.
    pub fn room(&self, now_ms: u64) -> usize {
        let limit = self.limit.load(Ordering::Relaxed);
        if limit == 0 {
            return usize::MAX;
        }
        let passed_ms = now_ms.saturating_sub(self.limited_ms.load(Ordering::Relaxed));
        let periods_of = |part: u64| part.saturating_mul(passed_ms) / limits::millis(limits::WARM_LIMIT_RECOVERY);
        let recovered = usize::try_from(periods_of(limit as u64)).unwrap_or(usize::MAX);
        limit.saturating_add(recovered).saturating_sub(self.held.load(Ordering::Relaxed))
    }

    /// There is a shortage. If connections are pre-challenged, they are a part of it.
    fn lower_limit(&self, now_ms: u64) {
        let held = self.held.load(Ordering::Relaxed);
        if held > 0 {
            self.limit.store((held / 2).max(1), Ordering::Relaxed);
            self.limited_ms.store(now_ms, Ordering::Relaxed);
        }
    }

    /// Clients that wait for a challenge now.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Lets no connection be pre-challenged for [`limits::PRE_CHALLENGE_PAUSE`]. Clients' own connections are not
    /// affected.
    pub fn rest(&self, now_ms: u64) {
        self.rests_until_ms.store(now_ms + limits::millis(limits::PRE_CHALLENGE_PAUSE), Ordering::Relaxed);
    }

    /// When to ask again whether there is a shortage, in ms: as soon as there is one if no client gets a challenge
    /// before.
    pub fn check_again_ms(&self, now_ms: u64) -> u64 {
        let latest_ms = now_ms + limits::millis(limits::STALL_CHECK_INTERVAL);
        match self.waiting.load(Ordering::Relaxed) {
            0 => latest_ms,
            _ => (self.progress_ms.load(Ordering::Relaxed) + self.stall_ms()).clamp(now_ms + 1, latest_ms),
        }
    }

    /// How long no client must get a challenge for that to be a shortage.
    fn stall_ms(&self) -> u64 {
        let usual_us = self.usual_us.load(Ordering::Relaxed);
        (4 * usual_us / 1000).max(limits::millis(limits::STALL_CHECK_INTERVAL))
    }

    /// Whether clients wait, and challenges recently took several times the usual time or none has come for that long.
    fn is_acute(&self, now_ms: u64) -> bool {
        let limit_us = 4 * self.usual_us.load(Ordering::Relaxed);
        let is_queueing =
            self.recent_us.load(Ordering::Relaxed) > limit_us.max(1000 * limits::millis(limits::CHALLENGE_QUEUE_DELAY));
        let since_progress_ms = now_ms.saturating_sub(self.progress_ms.load(Ordering::Relaxed));
        let is_stalled = since_progress_ms >= self.stall_ms();
        self.waiting.load(Ordering::Relaxed) > 0 && (is_queueing || is_stalled)
    }
}

impl ChallengeWait {
    /// The challenge has arrived.
    pub fn challenged(self, now_ms: u64) {
        let took_us = 1000 * now_ms.saturating_sub(self.since_ms);
        let usual_us = self.helper_pressure.usual_us.load(Ordering::Relaxed);
        let next_us = match usual_us {
            0 => took_us.max(1),
            _ => took_us.min(usual_us + took_us.saturating_sub(usual_us) / 256).max(1),
        };
        self.helper_pressure.usual_us.store(next_us, Ordering::Relaxed);
        let recent_us = self.helper_pressure.recent_us.load(Ordering::Relaxed);
        self.helper_pressure.recent_us.store((3 * recent_us + took_us) / 4, Ordering::Relaxed);
        self.helper_pressure.progress_ms.store(now_ms, Ordering::Relaxed);
    }
}

impl Drop for ChallengeWait {
    fn drop(&mut self) {
        self.helper_pressure.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for HelperShare {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_halves_the_pre_challenged_connections_for_ten_minutes() {
        let pressure = Arc::new(HelperPressure::default());
        assert_eq!(pressure.room(0), usize::MAX);
        let held: Vec<HelperShare> = (0..10).map(|_| pressure.hold()).collect();
        pressure.begin_wait(1_000).challenged(1_003);
        let waiting = pressure.begin_wait(2_000);
        assert!(pressure.forbids_pre_challenging(2_200));
        assert_eq!(pressure.room(2_200), 0);
        drop(held);
        assert_eq!(pressure.room(2_200), 5);
        // The same shortage does not count again, although fewer connections are held now.
        let _one = pressure.hold();
        assert!(pressure.forbids_pre_challenging(2_400));
        assert_eq!(pressure.room(2_400), 4);
        drop(waiting);
        assert_eq!(pressure.room(2_200 + 300_000), 6);
        assert_eq!(pressure.room(2_200 + 600_000), 9);
    }

    #[test]
    fn a_shortage_without_pre_challenged_connections_sets_no_limit() {
        let pressure = Arc::new(HelperPressure::default());
        let _waiting = pressure.begin_wait(2_000);
        assert!(pressure.forbids_pre_challenging(2_200));
        assert_eq!(pressure.room(2_200), usize::MAX);
    }

    #[test]
    fn many_waiting_clients_are_no_shortage_if_challenges_take_as_usual() {
        let pressure = Arc::new(HelperPressure::default());
        for round in 0..100 {
            let waiting: Vec<ChallengeWait> = (0..50).map(|_| pressure.begin_wait(round * 20)).collect();
            assert!(!pressure.forbids_pre_challenging(round * 20 + 10));
            waiting.into_iter().for_each(|client| client.challenged(round * 20 + 20));
        }
    }

    #[test]
    fn a_stall_is_a_shortage_and_is_remembered_for_a_while() {
        let pressure = Arc::new(HelperPressure::default());
        pressure.begin_wait(1_000).challenged(1_003);
        let waiting = pressure.begin_wait(2_000);
        assert!(!pressure.forbids_pre_challenging(2_100));
        assert!(pressure.forbids_pre_challenging(2_200));
        drop(waiting);
        assert!(pressure.forbids_pre_challenging(20_000));
        assert!(!pressure.forbids_pre_challenging(40_000));
    }

    #[test]
    fn a_shortage_is_looked_for_when_a_stall_would_be_one() {
        let pressure = Arc::new(HelperPressure::default());
        assert_eq!(pressure.check_again_ms(500), 700);
        pressure.begin_wait(1_000).challenged(1_003);
        let _waiting = pressure.begin_wait(2_000);
        assert_eq!(pressure.check_again_ms(2_150), 2_200);
        assert!(!pressure.forbids_pre_challenging(2_199));
        assert!(pressure.forbids_pre_challenging(2_200));
        assert_eq!(pressure.check_again_ms(2_300), 2_301);
    }

    #[test]
    fn a_moving_queue_in_front_of_few_helpers_is_a_shortage() {
        let pressure = Arc::new(HelperPressure::default());
        pressure.begin_wait(0).challenged(2);
        let waiting: Vec<ChallengeWait> = (0..50).map(|_| pressure.begin_wait(10)).collect();
        for (number, client) in waiting.into_iter().enumerate() {
            client.challenged(10 + 20 * number as u64);
        }
        let _next = pressure.begin_wait(1_020);
        assert!(pressure.forbids_pre_challenging(1_030));
    }

    #[test]
    fn a_distant_upstream_is_not_taken_for_a_stalled_one() {
        let pressure = Arc::new(HelperPressure::default());
        for round in 0..100 {
            pressure.begin_wait(round * 1_000).challenged(round * 1_000 + 600);
        }
        let _waiting = pressure.begin_wait(200_000);
        assert!(!pressure.forbids_pre_challenging(201_000));
        assert!(pressure.forbids_pre_challenging(203_000));
    }
}
