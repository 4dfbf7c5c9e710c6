//! The work of one tunnel. It depends only on the scenario and the tunnel's number, so that a run can be repeated.

use std::time::Duration;

use crate::scenario::{Load, Scenario};

/// What one tunnel does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// Sends messages and checks the echoes.
    Echo {
        /// `u64::MAX`: until the run ends.
        messages: u64,
        bytes: usize,
        pause: Duration,
    },
    /// Receives the pattern.
    Down { bytes: u64 },
    /// Receives the pattern until the run ends.
    Stream,
    /// Sends the pattern.
    Up { bytes: u64 },
    /// Disappears at some point.
    Vanish { at: Point, reset: bool },
}

/// Where a client disappears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Once TCP is connected.
    Connected,
    /// After sending half of the head.
    HalfHead,
    /// This long after sending the head.
    HeadSent(Duration),
    /// After the 200.
    Opened,
    /// While a message is in flight.
    MessageSent,
    /// In the middle of a download.
    Download,
}

const NO_PAUSE: Duration = Duration::ZERO;

impl Job {
    /// The work of tunnel `number`.
    pub fn of(load: &Load, number: u64) -> Job {
        let bytes = load.message_bytes;
        match load.scenario {
            // `http` opens no tunnels and never gets here.
            Scenario::Setup
            | Scenario::Hold
            | Scenario::Http
            | Scenario::Socks
            | Scenario::Transparent
            | Scenario::Forward => Job::Echo { messages: 1, bytes, pause: NO_PAUSE },
            Scenario::Fairness if number == load.concurrency as u64 => Job::Stream,
            Scenario::Pingpong | Scenario::Fairness => {
                Job::Echo { messages: load.count.unwrap_or(u64::MAX), bytes, pause: NO_PAUSE }
            }
            Scenario::BulkUp => Job::Up { bytes: load.bulk_bytes },
            Scenario::BulkDown => Job::Down { bytes: load.bulk_bytes },
            Scenario::Mixed => mixed(number),
            Scenario::Churn => churn(number),
        }
    }

    /// The name of the origin at the other end.
    pub fn host(&self) -> String {
        match self {
            Job::Echo { .. } | Job::Vanish { at: Point::Opened | Point::MessageSent, .. } => "echo.test".to_owned(),
            Job::Down { bytes } => format!("source-{bytes}.test"),
            Job::Up { .. } => "sink.test".to_owned(),
            Job::Stream | Job::Vanish { at: Point::Download, .. } => "stream.test".to_owned(),
            Job::Vanish { .. } => "silent.test".to_owned(),
        }
    }
}

/// Out of a hundred: 85 short exchanges, 10 that last a second or two with pauses, 5 transfers of some MiB.
fn mixed(number: u64) -> Job {
    // A multiplier coprime to 100 mixes the kinds without a random generator.
    match number.wrapping_mul(37) % 100 {
        0..85 => Job::Echo {
            messages: 1 + number % 6,
            bytes: [64, 200, 900, 1400, 4096][usize::try_from(number % 5).unwrap_or(0)],
            pause: NO_PAUSE,
        },
        85..95 => Job::Echo { messages: 10 + number % 10, bytes: 600, pause: Duration::from_millis(100) },
        95..98 => Job::Down { bytes: (1 + number % 4) << 20 },
        _ => Job::Up { bytes: (1 + number % 3) << 20 },
    }
}

/// Six ways to disappear, by FIN and by RST; every fourth client stays to check that the proxy still works.
fn churn(number: u64) -> Job {
    if number.is_multiple_of(4) {
        return Job::Echo { messages: 2, bytes: 64, pause: NO_PAUSE };
    }
    let at = match number % 7 {
        0 => Point::Connected,
        1 => Point::HalfHead,
        // Spread over the duration of a handshake on one machine.
        2 | 3 => Point::HeadSent(Duration::from_micros(number % 16 * 200)),
        4 => Point::Opened,
        5 => Point::MessageSent,
        _ => Point::Download,
    };
    Job::Vanish { at, reset: number.is_multiple_of(3) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn mixed_contains_all_kinds_in_every_hundred() {
        let kinds = |job: &Job| match job {
            Job::Echo { pause, .. } if pause.is_zero() => 0,
            Job::Echo { .. } => 1,
            Job::Down { .. } => 2,
            _ => 3,
        };
        let counts = (0..100).map(mixed).fold([0; 4], |mut counts, job| {
            counts[kinds(&job)] += 1;
            counts
        });
        assert_eq!(counts, [85, 10, 3, 2]);
    }

    #[test]
    fn churn_vanishes_at_every_point_and_keeps_some_clients() {
        let jobs: Vec<Job> = (0..1000).map(churn).collect();
        let seen: HashSet<_> = jobs
            .iter()
            .filter_map(|job| match job {
                Job::Vanish { at: Point::HeadSent(_), reset } => Some((2, *reset)),
                Job::Vanish { at, reset } => Some((
                    match at {
                        Point::Connected => 0,
                        Point::HalfHead => 1,
                        Point::Opened => 3,
                        Point::MessageSent => 4,
                        _ => 5,
                    },
                    *reset,
                )),
                _ => None,
            })
            .collect();
        assert_eq!(seen.len(), 12);
        assert_eq!(jobs.iter().filter(|job| matches!(job, Job::Echo { .. })).count(), 250);
    }
}
