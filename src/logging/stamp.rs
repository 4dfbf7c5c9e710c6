//! The time of a line: RFC 3339 in UTC, with milliseconds.

use std::cell::Cell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::calendar;

/// Seconds in a day.
const DAY: i64 = 86_400;

/// The present time in ms since 1970, negative if the clock is wrong.
pub(super) fn now_ms() -> i64 {
    let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or_default();
    SystemTime::now().duration_since(UNIX_EPOCH).map_or_else(|error| -ms(error.duration()), ms)
}

/// `2026-01-02T03:04:05.678Z`.
#[derive(Clone, Copy)]
pub(super) struct Stamp {
    text: [u8; 24],
    /// The second since 1970 that `text` belongs to; negative if the clock is wrong.
    second: i64,
}

thread_local! {
    /// That of the last line, of which only the milliseconds change most of the time.
    static LAST: Cell<Stamp> = const { Cell::new(Stamp::EPOCH) };
}

impl Stamp {
    const EPOCH: Stamp = Stamp { text: *b"1970-01-01T00:00:00.000Z", second: 0 };

    /// The time so many ms after 1970.
    pub(super) fn at(ms: i64) -> Stamp {
        let next = |last: Stamp| last.moved_to(ms.div_euclid(1000), ms.rem_euclid(1000));
        // Lines are also written while a thread ends, when it has no such variables any more.
        let stamp = LAST.try_with(|last| next(last.get())).unwrap_or_else(|_| next(Stamp::EPOCH));
        let _ = LAST.try_with(|last| last.set(stamp));
        stamp
    }

    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    fn moved_to(mut self, second: i64, ms: i64) -> Stamp {
        if second != self.second {
            self.second = second;
            let (year, month, day) = calendar::date(second.div_euclid(DAY));
            let of_day = second.rem_euclid(DAY);
            let parts = [(0, year / 100), (2, year), (5, month), (8, day), (11, of_day / 3600), (14, of_day / 60 % 60)];
            parts.into_iter().chain([(17, of_day % 60)]).for_each(|(at, value)| self.put(at, value % 100));
        }
        self.text[20] = digit(ms / 100);
        self.put(21, ms % 100);
        self
    }

    /// Writes a number of two digits.
    fn put(&mut self, at: usize, value: i64) {
        (self.text[at], self.text[at + 1]) = (digit(value / 10), digit(value));
    }
}

/// The last digit of a number.
fn digit(value: i64) -> u8 {
    b'0' + u8::try_from(value % 10).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_follows_the_clock_forwards_and_backwards() {
        let mut stamp = Stamp::EPOCH;
        for (second, ms, expected) in [
            (0, 7, "1970-01-01T00:00:00.007Z"),
            (951_782_399, 999, "2000-02-28T23:59:59.999Z"),
            (951_782_400, 0, "2000-02-29T00:00:00.000Z"),
            (951_782_400, 120, "2000-02-29T00:00:00.120Z"),
            (1_767_323_045, 678, "2026-01-02T03:04:05.678Z"),
            (1_767_225_599, 45, "2025-12-31T23:59:59.045Z"),
            (-1, 999, "1969-12-31T23:59:59.999Z"),
            (-11_644_473_600, 0, "1601-01-01T00:00:00.000Z"),
        ] {
            stamp = stamp.moved_to(second, ms);
            assert_eq!(str::from_utf8(stamp.text()), Ok(expected));
        }
    }
}
