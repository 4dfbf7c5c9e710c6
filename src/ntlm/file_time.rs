//! FILETIME (MS-DTYP 2.3.3): 100-nanosecond ticks since 1601-01-01 00:00 UTC.

use std::fmt;

use crate::calendar;

const TICKS_PER_SECOND: u64 = 10_000_000;
const SECONDS_PER_DAY: u64 = 86_400;
/// Seconds from 1601-01-01 to 1970-01-01.
const UNIX_EPOCH_SECONDS: u64 = 11_644_473_600;
/// 1601-01-01, in days since 1970-01-01.
const DAY_1601: i64 = calendar::day(1601, 1, 1);

/// A time in ticks of 100 ns since 1601.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct FileTime(pub u64);

impl FileTime {
    /// Converts seconds and nanoseconds since the Unix epoch. Saturates at the end of the range, in the year 60,056.
    #[must_use]
    pub const fn from_unix(seconds: u64, nanoseconds: u32) -> Self {
        let ticks = seconds.saturating_add(UNIX_EPOCH_SECONDS).saturating_mul(TICKS_PER_SECOND);
        Self(ticks.saturating_add(nanoseconds as u64 / 100))
    }

    /// Microseconds since the Unix epoch; 0 for a time before it.
    #[must_use]
    pub const fn unix_micros(self) -> u64 {
        (self.0 / 10).saturating_sub(UNIX_EPOCH_SECONDS * 1_000_000)
    }
}

impl fmt::Display for FileTime {
    /// UTC in RFC 3339 style, with the precision of a tick: `2003-05-06 10:20:30.1234567Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0 / TICKS_PER_SECOND;
        let since_1601 = i64::try_from(seconds / SECONDS_PER_DAY).unwrap_or_default();
        let (year, month, day) = calendar::date(since_1601 + DAY_1601);
        let second = seconds % SECONDS_PER_DAY;
        write!(
            f,
            "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}.{:07}Z",
            second / 3600,
            second / 60 % 60,
            second % 60,
            self.0 % TICKS_PER_SECOND
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unix_epoch_is_converted_as_microsoft_does() {
        assert_eq!(FileTime::from_unix(0, 0), FileTime(116_444_736_000_000_000));
        assert_eq!(FileTime::from_unix(0, 199), FileTime(116_444_736_000_000_001));
        assert_eq!(FileTime::from_unix(0, 0).to_string(), "1970-01-01 00:00:00.0000000Z");
    }

    #[test]
    fn leap_days_and_ends_of_years_are_formatted_correctly() {
        assert_eq!(FileTime(0).to_string(), "1601-01-01 00:00:00.0000000Z");
        assert_eq!(FileTime::from_unix(951_782_400, 0).to_string(), "2000-02-29 00:00:00.0000000Z");
        assert_eq!(FileTime::from_unix(978_307_199, 0).to_string(), "2000-12-31 23:59:59.0000000Z");
        assert_eq!(FileTime::from_unix(4_107_542_400, 0).to_string(), "2100-03-01 00:00:00.0000000Z");
        assert_eq!(FileTime::from_unix(1_700_000_000, 500).to_string(), "2023-11-14 22:13:20.0000005Z");
    }

    #[test]
    fn the_end_of_the_range_neither_overflows_nor_panics() {
        assert_eq!(FileTime::from_unix(u64::MAX, 0), FileTime(u64::MAX));
        assert_eq!(FileTime(u64::MAX).to_string(), "60056-05-28 05:36:10.9551615Z");
    }
}
