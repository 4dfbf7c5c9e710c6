//! The clock of an event loop.

use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};

/// Tells the time in nanoseconds. A loop asks twice in every turn, and the difference of two [`Instant`]s takes longer
/// to compute than the system takes to say what time it is.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    zero_ns: u64,
}

impl Clock {
    /// A clock whose time was 0 at `epoch`.
    pub fn starting_at(epoch: Instant) -> Clock {
        let now_ns = monotonic_ns();
        Clock { zero_ns: now_ns.saturating_sub(u64::try_from(epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)) }
    }

    /// Nanoseconds since the clock's time was 0.
    pub fn now_ns(&self) -> u64 {
        monotonic_ns().saturating_sub(self.zero_ns)
    }
}

/// The same clock as that of [`Instant`].
#[allow(clippy::cast_sign_loss, reason = "the time since the machine has started")]
fn monotonic_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_agrees_with_an_instant_of_the_standard_library() {
        let epoch = Instant::now() - Duration::from_secs(5);
        let clock = Clock::starting_at(epoch);
        let earliest = epoch.elapsed();
        let now = Duration::from_nanos(clock.now_ns());
        // Between the two readings of `starting_at` the clock goes on.
        let latest = epoch.elapsed() + Duration::from_secs(1);
        assert!(earliest <= now && now <= latest, "{earliest:?} {now:?} {latest:?}");
    }
}
