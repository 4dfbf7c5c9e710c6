//! When the next tunnel begins.

use std::time::{Duration, Instant};

use crate::scenario::Load;

/// The schedule of a run.
#[derive(Debug)]
pub struct Pace {
    begun: Instant,
    /// Time between two intended starts; `None` for a closed loop.
    interval: Option<Duration>,
    next: u64,
    /// Starts at or after this number or time do not happen.
    count: u64,
    until: Option<Instant>,
    concurrency: usize,
}

/// What the schedule says.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// Begin the tunnel of that number now; its latency counts from then.
    Begin { number: u64, intended: Instant },
    /// Not before then.
    At(Instant),
    /// When another one has ended.
    WhenOneEnds,
    /// No more tunnels.
    Over,
}

impl Pace {
    /// The schedule of `load` from `now` on.
    pub fn new(load: &Load, now: Instant) -> Pace {
        let together = load.opens_all_first();
        let count = match load.scenario {
            crate::scenario::Scenario::Pingpong => load.concurrency as u64,
            _ => load.count.unwrap_or(u64::MAX),
        };
        Pace {
            begun: now,
            interval: load.rate.map(|rate| Duration::from_secs_f64(1.0 / rate)),
            next: 0,
            count,
            until: load.duration.filter(|_| !together).map(|duration| now + duration),
            concurrency: load.concurrency,
        }
    }

    /// Whether a tunnel is to begin, with so many open.
    pub fn turn(&mut self, now: Instant, open: usize) -> Turn {
        let intended = match self.interval {
            None => now,
            Some(interval) => self.begun + mul(interval, self.next),
        };
        if self.next >= self.count || self.until.is_some_and(|until| intended >= until) {
            Turn::Over
        } else if intended > now {
            Turn::At(intended)
        } else if open >= self.concurrency {
            Turn::WhenOneEnds
        } else {
            self.next += 1;
            Turn::Begin { number: self.next - 1, intended }
        }
    }

    /// No more tunnels are begun.
    pub fn stop(&mut self) {
        self.count = 0;
    }

    /// The tunnels it will have begun, if that is known, and the time it begins them in.
    pub fn extent(&self) -> (Option<u64>, Option<Duration>) {
        ((self.count < u64::MAX).then_some(self.count), self.until.map(|until| until - self.begun))
    }
}

/// `Duration` has no multiplication by u64.
fn mul(interval: Duration, times: u64) -> Duration {
    let ns = interval.as_nanos().saturating_mul(u128::from(times));
    Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    fn load(rate: Option<f64>, count: Option<u64>, duration: Option<Duration>) -> Load {
        Load {
            scenario: Scenario::Setup,
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
    fn a_closed_loop_begins_as_soon_as_one_ends_until_the_count() {
        let now = Instant::now();
        let mut pace = Pace::new(&load(None, Some(3), None), now);
        assert_eq!(pace.turn(now, 0), Turn::Begin { number: 0, intended: now });
        assert_eq!(pace.turn(now, 2), Turn::WhenOneEnds);
        assert!(matches!(pace.turn(now, 1), Turn::Begin { number: 1, .. }));
        assert!(matches!(pace.turn(now, 1), Turn::Begin { number: 2, .. }));
        assert_eq!(pace.turn(now, 1), Turn::Over);
    }

    #[test]
    fn an_open_loop_keeps_the_intended_start_however_late_it_is() {
        let now = Instant::now();
        let ms = Duration::from_millis;
        let mut pace = Pace::new(&load(Some(100.0), None, Some(ms(35))), now);
        assert!(matches!(pace.turn(now, 0), Turn::Begin { number: 0, .. }));
        assert_eq!(pace.turn(now, 0), Turn::At(now + ms(10)));
        let late = now + ms(1000);
        assert_eq!(pace.turn(late, 2), Turn::WhenOneEnds);
        for number in 1..4 {
            assert_eq!(pace.turn(late, 0), Turn::Begin { number, intended: now + ms(10 * number) });
        }
        assert_eq!(pace.turn(late, 0), Turn::Over);
    }
}
