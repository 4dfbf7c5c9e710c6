//! The store's clock: the `Date` of the API's answers, continued by the monotonic clock between two of them.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::calendar;

/// `Date` has whole seconds, and cuts off the rest.
const DATE_RESOLUTION_MS: u64 = 1000;

/// By how much the estimates of two processes may differ, besides the duration of a request.
pub(super) const ERROR: Duration = Duration::from_millis(DATE_RESOLUTION_MS);

/// The time of the API server, in ms since 1970. It never runs backwards within a process.
///
/// An answer bounds the server's clock at its arrival: not before its `Date`, and not later than one second plus the
/// duration of the request after it. The estimate continues from the last one and is moved into these bounds. So it is
/// wrong by at most one second plus the duration of a request, which has a time-out of two seconds. The estimates of
/// two processes differ by no more than that, see [`ERROR`]. If the server's clock is set back, or several API servers
/// disagree, the estimate stops until the server has caught up, which makes waiting times longer and never shorter.
#[derive(Debug)]
pub(super) struct StoreClock {
    start: Instant,
    estimate: Mutex<Option<Estimate>>,
}

impl StoreClock {
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), estimate: Mutex::new(None) }
    }

    /// The server's time when an answer with this `Date` arrived, to a request that was sent at `sent`.
    pub(super) fn observe(&self, date_ms: u64, sent: Instant, received: Instant) -> u64 {
        let mut estimate = self.estimate.lock().unwrap_or_else(PoisonError::into_inner);
        let next = Estimate::next(*estimate, date_ms, self.ms(sent), self.ms(received));
        *estimate = Some(next);
        next.at_ms
    }

    /// The server's time now; `None` before the first answer.
    pub(super) fn now(&self) -> Option<u64> {
        let mut estimate = self.estimate.lock().unwrap_or_else(PoisonError::into_inner);
        // Kept, so that no later answer leads to an earlier time than this one.
        *estimate = estimate.map(|estimate| estimate.continued(self.ms(Instant::now())));
        estimate.map(|estimate| estimate.at_ms)
    }

    fn ms(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_millis()).unwrap_or(u64::MAX)
    }
}

/// The server's time at one instant of the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Estimate {
    at_ms: u64,
    local_ms: u64,
}

impl Estimate {
    fn next(previous: Option<Self>, date_ms: u64, sent_ms: u64, received_ms: u64) -> Self {
        let latest_ms = date_ms + DATE_RESOLUTION_MS + received_ms.saturating_sub(sent_ms);
        let Some(previous) = previous else { return Self { at_ms: date_ms, local_ms: received_ms } };
        let continued = previous.continued(received_ms);
        Self { at_ms: continued.at_ms.clamp(date_ms, latest_ms).max(previous.at_ms), ..continued }
    }

    /// The same clock later. It stays as it is if another thread has seen a later answer already.
    fn continued(self, local_ms: u64) -> Self {
        let local_ms = local_ms.max(self.local_ms);
        Self { at_ms: self.at_ms + (local_ms - self.local_ms), local_ms }
    }
}

/// The time in an HTTP header, in ms since 1970, if it has the form that is required of senders (RFC 9110 §5.6.7,
/// IMF-fixdate).
pub(super) fn parse_http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, rest) = text.split_once(", ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let [day, month, year, time, "GMT"] = fields[..] else { return None };
    let month = MONTHS.iter().position(|name| *name == month)? as i64 + 1;
    let (day, year) = (number(day, 2)?.into(), number(year, 4)?.into());
    let times: Vec<&str> = time.split(':').collect();
    let [hour, minute, second] = times[..] else { return None };
    let (hour, minute, second) = (number(hour, 2)?, number(minute, 2)?, number(second, 2)?);
    // 60: a leap second.
    if year < 1970 || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let days = u64::try_from(calendar::day(year, month, day)).ok()?;
    Some((((days * 24 + u64::from(hour)) * 60 + u64::from(minute)) * 60 + u64::from(second)) * 1000)
}

fn number(digits: &str, length: usize) -> Option<u16> {
    (digits.len() == length && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_as_their_senders_mean_them() {
        for (text, seconds) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Tue, 29 Feb 2000 23:59:59 GMT", 951_868_799),
            ("Wed, 01 Mar 2000 00:00:00 GMT", 951_868_800),
            ("Sat, 28 Nov 2026 09:19:21 GMT", 1_795_857_561),
            ("Fri, 31 Dec 2100 23:59:59 GMT", 4_133_980_799),
        ] {
            assert_eq!(parse_http_date(text), Some(seconds * 1000), "{text}");
        }
    }

    #[test]
    fn other_forms_of_dates_are_rejected() {
        for text in [
            "",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 06 Foo 1994 08:49:37 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 06 Nov 1994 08:49 GMT",
            "Sun, 06 Nov 1969 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 GMT x",
        ] {
            assert_eq!(parse_http_date(text), None, "{text}");
        }
    }

    #[test]
    fn a_date_that_is_cut_or_corrupted_at_any_byte_never_panics() {
        let date = "Fri, 31 Dec 9999 23:59:60 GMT";
        for place in 0..date.len() {
            let _ = parse_http_date(&date[..place]);
            for c in ['9', '0', '-', '+', ' ', ':', ',', 'ä'] {
                let corrupted = format!("{}{c}{}", &date[..place], &date[place + 1..]);
                if let Some(ms) = parse_http_date(&corrupted) {
                    Estimate::next(None, ms, 0, 0);
                }
            }
        }
    }

    /// The estimates after answers as (`Date`, sent, received).
    fn estimates(answers: &[(u64, u64, u64)]) -> Vec<u64> {
        let mut last = None;
        let step = |(date_ms, sent_ms, received_ms): &(u64, u64, u64)| {
            let next = Estimate::next(last, *date_ms, *sent_ms, *received_ms);
            last = Some(next);
            next.at_ms
        };
        answers.iter().map(step).collect()
    }

    #[test]
    fn the_clock_runs_on_between_two_answers_of_one_second() {
        assert_eq!(estimates(&[(50_000, 0, 10), (50_000, 300, 310), (50_000, 900, 910)]), [50_000, 50_300, 50_900]);
    }

    #[test]
    fn a_later_date_moves_the_clock_ahead() {
        // The first answer came at the end of its second.
        assert_eq!(estimates(&[(50_000, 0, 10), (51_000, 100, 110), (60_000, 200, 210)]), [50_000, 51_000, 60_000]);
    }

    #[test]
    fn the_clock_stands_still_when_the_server_is_set_back() {
        assert_eq!(
            estimates(&[(50_000, 0, 10), (40_000, 100, 110), (45_000, 5_100, 5_110), (55_000, 15_100, 15_110)]),
            [50_000, 50_000, 50_000, 56_010]
        );
    }

    #[test]
    fn the_error_stays_below_a_second_and_the_duration_of_a_request() {
        // The server's clock is ahead by an amount with a fraction; requests take 40 ms, of which 30 on the way there.
        for ahead_ms in [0, 1, 499, 999] {
            let answers: Vec<_> = (0..50)
                .map(|number| {
                    let sent_ms = number * 137;
                    (((sent_ms + 30 + ahead_ms) / 1000 + 1000) * 1000, sent_ms, sent_ms + 40)
                })
                .collect();
            for (at_ms, answer) in estimates(&answers).iter().zip(&answers) {
                let true_ms = answer.2 + ahead_ms + 1_000_000;
                assert!(at_ms.abs_diff(true_ms) < 1040, "{at_ms} is not {true_ms}");
                assert!(*at_ms <= true_ms, "{at_ms} is later than {true_ms}");
            }
        }
    }

    #[test]
    fn an_answer_that_another_thread_overtook_does_not_set_the_clock_back() {
        assert_eq!(estimates(&[(50_000, 0, 500), (50_000, 0, 400)]), [50_000, 50_000]);
    }

    #[test]
    fn the_clock_has_no_time_before_the_first_answer() {
        let clock = StoreClock::new();
        assert_eq!(clock.now(), None);
        let now = Instant::now();
        assert_eq!(clock.observe(50_000, now, now), 50_000);
        let given = clock.now().expect("a time");
        assert!(given >= 50_000);
        assert!(clock.observe(10_000, now, now) >= given, "the clock went back");
    }
}
