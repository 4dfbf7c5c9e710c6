//! How many connections a shard keeps pre-challenged for one upstream and identity. Pure: time is an argument.
//!
//! By default the number follows the demand. A connection that a request has taken is replaced at once, and the
//! replacement is ready after the time to a challenge. So the pool has to hold as many connections as requests come
//! within that time, and a few more, because requests come in bursts. The most that came within it during the last
//! [`limits::WARM_AGE`] decide. Most connections must be used before they are too old, so the pool holds no more than
//! one for every [`limits::REQUESTS_PER_WARM`] requests of that period. A quiet gateway therefore holds none.

use std::collections::VecDeque;

use crate::limits;
use crate::upstream::WarmSize;

/// The size of one pool.
#[derive(Debug)]
pub(super) struct Sizing {
    size: WarmSize,
    /// Grows with each request and shrinks with each connection that was not used, so that connections that nobody uses
    /// are not dialled again and again.
    allowance: usize,
    demand: Demand,
    wanted: usize,
}

/// The requests of the recent past.
#[derive(Debug)]
struct Demand {
    /// When the last ones came, in ms, the oldest first: those within the time to a challenge.
    recent: VecDeque<u64>,
    challenge_time: ChallengeTime,
    /// How long it looks back, in ms.
    period_ms: u64,
    parts: [Part; PARTS],
}

/// The parts of the period. The oldest is forgotten as a whole.
const PARTS: usize = 8;

/// What came in a part of the period.
#[derive(Clone, Copy, Debug, Default)]
struct Part {
    /// Its number since the clock began.
    number: u64,
    requests: usize,
    /// The most that came within the time to a challenge.
    most_at_once: usize,
}

/// The time from dialling to the challenge, as a moving average with its deviation (as in RFC 6298), in µs.
#[derive(Debug)]
struct ChallengeTime {
    mean_us: u64,
    deviation_us: u64,
    is_known: bool,
}

impl Sizing {
    /// A pool that nobody has asked yet. `age_ms` is how long a connection may stay unused.
    pub fn new(size: WarmSize, age_ms: u64) -> Sizing {
        let challenge_time = ChallengeTime { mean_us: 0, deviation_us: 0, is_known: false };
        let demand =
            Demand { recent: VecDeque::new(), challenge_time, period_ms: age_ms.max(1), parts: Default::default() };
        Sizing { size, allowance: 0, demand, wanted: 0 }
    }

    /// How many connections there should be, with their challenge or on the way to it.
    pub fn wanted(&self) -> usize {
        self.wanted
    }

    /// A request came, and has `found` a connection or not.
    pub fn requested(&mut self, found: bool, now_ms: u64) {
        match self.size {
            WarmSize::Auto => {
                self.demand.requested(now_ms);
                self.allowance = (self.allowance + 1).min(limits::WARM_MOST);
            }
            WarmSize::Fixed(most) if !found => self.allowance = (self.allowance + 1).min(most),
            WarmSize::Fixed(_) => {}
        }
        self.update(now_ms);
    }

    /// A connection has its challenge, this long after it was dialled.
    pub fn challenged(&mut self, took_ms: u64) {
        self.demand.challenge_time.measured(1000 * took_ms);
    }

    /// A connection was closed without having been used.
    pub fn unused(&mut self, now_ms: u64) {
        self.allowance = self.wanted.saturating_sub(1);
        self.update(now_ms);
    }

    /// The upstream gives no challenges.
    pub fn stop(&mut self) {
        (self.allowance, self.wanted) = (0, 0);
    }

    fn update(&mut self, now_ms: u64) {
        self.wanted = match self.size {
            WarmSize::Auto => self.allowance.min(self.demand.wanted(now_ms)),
            WarmSize::Fixed(_) => self.allowance,
        };
    }
}

impl Demand {
    fn requested(&mut self, now_ms: u64) {
        let window_ms = self.challenge_time.window_ms();
        while self.recent.front().is_some_and(|came_ms| came_ms + window_ms <= now_ms) {
            self.recent.pop_front();
        }
        if self.recent.len() == limits::WARM_MOST {
            self.recent.pop_front();
        }
        self.recent.push_back(now_ms);
        let at_once = self.recent.len();
        let number = self.number(now_ms);
        let part = &mut self.parts[usize::try_from(number).unwrap_or_default() % PARTS];
        if part.number != number {
            *part = Part { number, ..Part::default() };
        }
        part.requests += 1;
        part.most_at_once = part.most_at_once.max(at_once);
    }

    fn wanted(&self, now_ms: u64) -> usize {
        let now = self.number(now_ms);
        let (mut requests, mut most_at_once) = (0_usize, 0);
        for part in self.parts.iter().filter(|part| part.requests > 0 && part.number + (PARTS as u64) > now) {
            requests = requests.saturating_add(part.requests);
            most_at_once = most_at_once.max(part.most_at_once);
        }
        let margin = most_at_once.isqrt();
        (most_at_once + margin).min(requests / limits::REQUESTS_PER_WARM).min(limits::WARM_MOST)
    }

    /// The number of the part of the period.
    fn number(&self, now_ms: u64) -> u64 {
        now_ms / self.period_ms.div_ceil(PARTS as u64)
    }
}

impl ChallengeTime {
    fn measured(&mut self, took_us: u64) {
        if self.is_known {
            self.deviation_us = (3 * self.deviation_us + self.mean_us.abs_diff(took_us)) / 4;
            self.mean_us = (7 * self.mean_us + took_us) / 8;
        } else {
            (self.mean_us, self.deviation_us, self.is_known) = (took_us, took_us / 2, true);
        }
    }

    /// The time after which a connection dialled now is nearly always ready, in ms.
    fn window_ms(&self) -> u64 {
        match self.is_known {
            true => (self.mean_us + 2 * self.deviation_us).div_ceil(1000) + 1,
            false => limits::millis(limits::CHALLENGE_TIME_UNKNOWN),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE_MS: u64 = 8_000;

    /// A pool with the default size whose challenges take `challenge_ms`.
    fn auto(challenge_ms: u64) -> Sizing {
        let mut sizing = Sizing::new(WarmSize::Auto, AGE_MS);
        (0..64).for_each(|_| sizing.challenged(challenge_ms));
        sizing
    }

    /// `count` requests at even distances from `from_ms` on; returns when the next one would come.
    fn requests(sizing: &mut Sizing, count: u64, per_second: u64, from_ms: u64) -> u64 {
        (0..count).for_each(|number| sizing.requested(true, from_ms + 1000 * number / per_second));
        from_ms + 1000 * count / per_second
    }

    #[test]
    fn the_pool_holds_the_requests_of_one_challenge_time_and_a_margin() {
        for (per_second, challenge_ms) in [(200, 50), (1000, 20), (100, 200)] {
            let mut sizing = auto(challenge_ms);
            requests(&mut sizing, 4 * per_second, per_second, 1_000);
            let expected = usize::try_from(per_second * challenge_ms / 1000).unwrap();
            let wanted = sizing.wanted();
            assert!(
                (expected..=2 * expected).contains(&wanted),
                "{wanted} for {per_second}/s with challenges after {challenge_ms} ms"
            );
        }
    }

    #[test]
    fn a_burst_is_provided_for_while_bursts_are_recent() {
        let mut sizing = auto(20);
        for round in 0..8 {
            (0..16).for_each(|_| sizing.requested(true, 1_000 + round * 500));
        }
        assert!((16..=20).contains(&sizing.wanted()), "{}", sizing.wanted());
    }

    #[test]
    fn few_requests_in_the_age_of_a_connection_want_none() {
        let mut sizing = auto(20);
        for number in 0..20 {
            sizing.requested(false, 4_000 * number);
            assert_eq!(sizing.wanted(), 0, "request {number}");
        }
        // Two a second are worth a connection.
        requests(&mut sizing, 20, 2, 200_000);
        assert!((1..=2).contains(&sizing.wanted()), "{}", sizing.wanted());
    }

    #[test]
    fn one_connection_is_wanted_for_four_requests_at_most() {
        let mut sizing = auto(1_000);
        for number in 1..=40 {
            sizing.requested(false, 1_000);
            assert_eq!(sizing.wanted(), number / limits::REQUESTS_PER_WARM);
        }
    }

    #[test]
    fn a_quiet_pool_shrinks_to_nothing_and_is_not_filled_again() {
        let mut sizing = auto(20);
        let end_ms = requests(&mut sizing, 4_000, 1_000, 0);
        let mut held = sizing.wanted();
        assert!(held >= 20);
        // All of them grow old at about the same time.
        while held > 0 {
            held -= 1;
            sizing.unused(end_ms + AGE_MS);
            assert!(sizing.wanted() <= held, "{} are wanted, {held} are left", sizing.wanted());
        }
        // Whatever was held, long ago demand counts no longer.
        let mut sizing = auto(20);
        let end_ms = requests(&mut sizing, 4_000, 1_000, 0);
        sizing.unused(end_ms + AGE_MS + AGE_MS / PARTS as u64);
        assert_eq!(sizing.wanted(), 0);
    }

    #[test]
    fn an_upstream_that_closes_its_connections_is_dialled_once_a_request() {
        let mut sizing = auto(20);
        requests(&mut sizing, 4_000, 1_000, 0);
        let mut dialled = 0;
        for now_ms in 4_000..5_000 {
            sizing.requested(false, now_ms);
            // All that are dialled are closed before they are used.
            while sizing.wanted() > 0 {
                dialled += 1;
                sizing.unused(now_ms);
            }
        }
        assert!(dialled <= 1_000 + limits::WARM_MOST, "{dialled}");
    }

    #[test]
    fn the_default_size_has_a_cap() {
        let mut sizing = auto(10_000);
        requests(&mut sizing, 100_000, 10_000, 0);
        assert_eq!(sizing.wanted(), limits::WARM_MOST);
        assert!(sizing.demand.recent.len() <= limits::WARM_MOST);
    }

    #[test]
    fn a_fixed_size_grows_with_requests_that_find_nothing_up_to_the_number() {
        let mut sizing = Sizing::new(WarmSize::Fixed(3), AGE_MS);
        sizing.requested(true, 0);
        assert_eq!(sizing.wanted(), 0);
        for expected in [1, 2, 3, 3] {
            sizing.requested(false, 0);
            assert_eq!(sizing.wanted(), expected);
        }
        sizing.unused(0);
        assert_eq!(sizing.wanted(), 2);
        sizing.stop();
        assert_eq!(sizing.wanted(), 0);
        let mut off = Sizing::new(WarmSize::Fixed(0), AGE_MS);
        off.requested(false, 0);
        assert_eq!(off.wanted(), 0);
    }

    #[test]
    fn slower_challenges_enlarge_the_pool() {
        let mut sizing = auto(20);
        let end_ms = requests(&mut sizing, 1_000, 500, 0);
        let fast = sizing.wanted();
        (0..64).for_each(|_| sizing.challenged(60));
        requests(&mut sizing, 1_000, 500, end_ms);
        assert!(sizing.wanted() >= 2 * fast, "{fast}, then {}", sizing.wanted());
    }

    #[test]
    fn a_clock_that_jumps_is_harmless() {
        let mut sizing = auto(20);
        for now_ms in [u64::MAX / 2, 0, 5, u64::MAX / 2, 1] {
            requests(&mut sizing, 10, 1_000, now_ms);
            sizing.unused(now_ms);
        }
        assert!(sizing.wanted() <= limits::WARM_MOST);
    }
}
