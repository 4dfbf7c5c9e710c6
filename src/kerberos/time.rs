//! KerberosTime (RFC 4120 §5.2.3) and the microseconds beside it.

use std::time::Duration;

/// A point in time, in microseconds since 1970 (UTC).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    micros: u64,
}

const DAY_SECONDS: u64 = 86_400;

impl Timestamp {
    /// The last second that KerberosTime can express.
    pub const MAX: Timestamp = Timestamp { micros: 253_402_300_799 * 1_000_000 };

    /// From microseconds since 1970, at most [`Timestamp::MAX`].
    pub fn from_micros(micros: u64) -> Timestamp {
        Timestamp { micros }.min(Timestamp::MAX)
    }

    /// From seconds since 1970.
    pub fn from_seconds(seconds: u64) -> Timestamp {
        Timestamp::from_micros(seconds.saturating_mul(1_000_000))
    }

    /// From the time since 1970.
    pub fn from_unix(since_1970: Duration) -> Timestamp {
        Timestamp::from_micros(u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX))
    }

    /// Microseconds since 1970.
    pub fn micros(self) -> u64 {
        self.micros
    }

    /// Whole seconds since 1970.
    pub fn seconds(self) -> u64 {
        self.micros / 1_000_000
    }

    /// The microseconds beyond [`Timestamp::seconds`]: below 1,000,000.
    pub fn subsec_micros(self) -> u32 {
        u32::try_from(self.micros % 1_000_000).unwrap_or_default()
    }

    /// The same second with other microseconds.
    #[must_use]
    pub fn with_subsec_micros(self, micros: u32) -> Timestamp {
        Timestamp::from_micros(self.seconds() * 1_000_000 + u64::from(micros))
    }

    /// This much later.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Timestamp {
        Timestamp::from_micros(self.micros.saturating_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)))
    }

    /// This much earlier, but not before 1970.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Timestamp {
        Timestamp { micros: self.micros.saturating_sub(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)) }
    }

    /// How much later this is than `earlier`; zero if it is not.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(self.micros.saturating_sub(earlier.micros))
    }

    /// `YYYYMMDDHHMMSSZ`; the microseconds are left out.
    pub(super) fn to_text(self) -> [u8; 15] {
        let (days, second) = (self.seconds() / DAY_SECONDS, self.seconds() % DAY_SECONDS);
        let (year, month, day) = date_of(days);
        let mut text = *b"00000000000000Z";
        let pairs = [year / 100, year % 100, month, day, second / 3600, second / 60 % 60, second % 60];
        for (digits, value) in text.as_chunks_mut::<2>().0.iter_mut().zip(pairs) {
            for (digit, value) in digits.iter_mut().zip([value / 10, value % 10]) {
                *digit += u8::try_from(value).unwrap_or_default();
            }
        }
        text
    }

    /// Reads `YYYYMMDDHHMMSSZ`, and a fraction before the `Z`, which some KDCs send. `None` for a time before 1970.
    pub(super) fn parse(text: &[u8]) -> Option<Timestamp> {
        let (digits, rest) = text.split_at_checked(14)?;
        let is_end = matches!(rest, [b'Z'] | [b'.', .., b'Z']) && rest.len() < 16;
        if !is_end || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let number = |from: usize, to: usize| {
            digits[from..to].iter().fold(0, |number: u64, digit| number * 10 + u64::from(digit - b'0'))
        };
        let (year, month, day) = (number(0, 4), number(4, 6), number(6, 8));
        let (hour, minute, second) = (number(8, 10), number(10, 12), number(12, 14));
        let is_date = year >= 1970 && (1..=12).contains(&month) && day >= 1 && day <= month_days(year, month);
        // A leap second counts as the second after it.
        let is_time = hour < 24 && minute < 60 && second <= 60;
        (is_date && is_time).then(|| {
            Timestamp::from_seconds(days_until(year, month, day) * DAY_SECONDS + hour * 3600 + minute * 60 + second)
        })
    }
}

/// As `2026-03-01 12:00:00 UTC`.
impl std::fmt::Display for Timestamp {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (days, second) = (self.seconds() / DAY_SECONDS, self.seconds() % DAY_SECONDS);
        let (year, month, day) = date_of(days);
        let (hour, minute) = (second / 3600, second / 60 % 60);
        write!(out, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{:02} UTC", second % 60)
    }
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn month_days(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a date from then on.
fn days_until(year: u64, month: u64, day: u64) -> u64 {
    let before = year - 1;
    let leap_days = before / 4 - before / 100 + before / 400 - 477;
    let months: u64 = (1..month).map(|month| month_days(year, month)).sum();
    (year - 1970) * 365 + leap_days + months + day - 1
}

fn date_of(days: u64) -> (u64, u64, u64) {
    let mut year = 1970 + days / 366;
    while days_until(year + 1, 1, 1) <= days {
        year += 1;
    }
    let mut left = days - days_until(year, 1, 1);
    let mut month = 1;
    while left >= month_days(year, month) {
        left -= month_days(year, month);
        month += 1;
    }
    (year, month, left + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read_back() {
        for (seconds, text) in [
            (0, "19700101000000Z"),
            (951_782_400, "20000229000000Z"),
            (1_078_012_799, "20040228235959Z"),
            (1_709_164_800, "20240229000000Z"),
            (2_147_483_648, "20380119031408Z"),
            (4_107_542_400, "21000301000000Z"),
            (253_402_300_799, "99991231235959Z"),
        ] {
            assert_eq!(Timestamp::from_seconds(seconds).to_text(), text.as_bytes());
            assert_eq!(Timestamp::parse(text.as_bytes()), Some(Timestamp::from_seconds(seconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_rejected() {
        for text in [
            "",
            "19691231235959Z",
            "20230229000000Z",
            "20231301000000Z",
            "20231232000000Z",
            "20230101240000Z",
            "20230101000000",
            "20230101000000+0100",
            "2023010100000:Z",
            "20230100000000Z",
        ] {
            assert_eq!(Timestamp::parse(text.as_bytes()), None, "{text}");
        }
        let with_fraction = Timestamp::parse(b"20230101000000.5Z");
        assert_eq!(with_fraction, Timestamp::parse(b"20230101000000Z"));
    }

    #[test]
    fn a_time_is_shown_for_people() {
        assert_eq!(Timestamp::from_seconds(1_709_164_801).to_string(), "2024-02-29 00:00:01 UTC");
    }
}
