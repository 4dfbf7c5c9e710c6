//! When the next tunnel starts.

use std::time::{Duration, Instant};

use crate::scenario::{Load, Scenario};

/// The schedule of a run.
#[derive(Debug)]
pub struct Pace {
    begun: Instant,
    /// Time between intended starts; `None` for a closed loop.
    interval: Option<Duration>,
    next: u64,
    /// Starts at or after this number or time are skipped.
    count: u64,
    until: Option<Instant>,
    concurrency: usize,
}

/// When the next tunnel may start.
#[derive(Debug, PartialEq, Eq)]
pub enum NextStart {
    /// Start this tunnel now; its latency counts from `intended`.
    Now { number: u64, intended: Instant },
    /// Not before this time.
    At(Instant),
    /// When another tunnel has ended.
    AfterAnEnd,
    /// There are no more tunnels.
    Done,
}

impl Pace {
    /// The schedule of `load`, starting now.
    pub fn new(load: &Load, now: Instant) -> Pace {
        let together = load.opens_all_first();
        let (count, concurrency) = match load.scenario {
            Scenario::Pingpong => (load.concurrency as u64, load.concurrency),
            // One more for the bulk transfer.
            Scenario::Fairness => (load.concurrency as u64 + 1, load.concurrency + 1),
            _ => (load.count.unwrap_or(u64::MAX), load.concurrency),
        };
        Pace {
            begun: now,
            interval: load.rate.map(|rate| Duration::from_secs_f64(1.0 / rate)),
            next: 0,
            count,
            until: load.duration.filter(|_| !together).map(|duration| now + duration),
            concurrency,
        }
    }

    /// When the next tunnel starts, given the number of open ones.
    pub fn next_start(&mut self, now: Instant, open: usize) -> NextStart {
        let intended = match self.interval {
            None => now,
            Some(interval) => self.begun + mul(interval, self.next),
        };
        if self.next >= self.count || self.until.is_some_and(|until| intended >= until) {
            NextStart::Done
        } else if intended > now {
            NextStart::At(intended)
        } else if open >= self.concurrency {
            NextStart::AfterAnEnd
        } else {
            self.next += 1;
            NextStart::Now { number: self.next - 1, intended }
        }
    }

    /// Starts no more tunnels.
    pub fn stop(&mut self) {
        self.count = 0;
    }

    /// The number of tunnels, if known, and the time in which they are started.
    pub fn extent(&self) -> (Option<u64>, Option<Duration>) {
        ((self.count < u64::MAX).then_some(self.count), self.until.map(|until| until - self.begun))
    }
}

/// `Duration` cannot be multiplied by a u64.
fn mul(interval: Duration, times: u64) -> Duration {
    let ns = interval.as_nanos().saturating_mul(u128::from(times));
    Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(rate: Option<f64>, count: Option<u64>, duration: Option<Duration>) -> Load {
        Load {
            scenario: Scenario::Setup,
            protocol: Default::default(),
            concurrency: 2,
            rate,
            duration,
            count,
            message_bytes: 64,
            bulk_bytes: 1,
            body_bytes: 0,
            patience: Duration::from_secs(1),
            cap: Duration::from_secs(1),
            verify: true,
            sources: 0,
        }
    }

    #[test]
    fn a_closed_loop_starts_a_tunnel_when_one_ends_up_to_the_count() {
        let now = Instant::now();
        let mut pace = Pace::new(&load(None, Some(3), None), now);
        assert_eq!(pace.next_start(now, 0), NextStart::Now { number: 0, intended: now });
        assert_eq!(pace.next_start(now, 2), NextStart::AfterAnEnd);
        assert!(matches!(pace.next_start(now, 1), NextStart::Now { number: 1, .. }));
        assert!(matches!(pace.next_start(now, 1), NextStart::Now { number: 2, .. }));
        assert_eq!(pace.next_start(now, 1), NextStart::Done);
    }

    #[test]
    fn an_open_loop_keeps_intended_starts_even_when_late() {
        let now = Instant::now();
        let ms = Duration::from_millis;
        let mut pace = Pace::new(&load(Some(100.0), None, Some(ms(35))), now);
        assert!(matches!(pace.next_start(now, 0), NextStart::Now { number: 0, .. }));
        assert_eq!(pace.next_start(now, 0), NextStart::At(now + ms(10)));
        let late = now + ms(1000);
        assert_eq!(pace.next_start(late, 2), NextStart::AfterAnEnd);
        for number in 1..4 {
            assert_eq!(pace.next_start(late, 0), NextStart::Now { number, intended: now + ms(10 * number) });
        }
        assert_eq!(pace.next_start(late, 0), NextStart::Done);
    }
}
