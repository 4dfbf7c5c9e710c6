//! Doing something at most once per interval.

use std::time::Duration;

use crate::limits::millis;

/// When something may be done again.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    /// In ms of the shard's clock.
    again_ms: u64,
}

impl Throttle {
    /// Whether it may be done now; if so, not again before the interval has passed.
    pub(super) fn allows(&mut self, now_ms: u64, interval: Duration) -> bool {
        let allowed = now_ms >= self.again_ms;
        if allowed {
            self.again_ms = now_ms + millis(interval);
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_allows_once_per_interval() {
        let mut throttle = Throttle::default();
        let interval = Duration::from_millis(50);
        let allowed: Vec<u64> = (0..120).filter(|now_ms| throttle.allows(*now_ms, interval)).collect();
        assert_eq!(allowed, [0, 50, 100]);
    }
}
