//! Times for people and programs: RFC 3339 in UTC, and how far away they are.

use crate::calendar;

/// Seconds in a day.
const DAY: u64 = 86_400;

/// A time in ms since 1970, to the second: `2026-11-28T10:10:09Z`.
pub(super) fn rfc3339(ms: u64) -> String {
    let seconds = ms / 1000;
    let (year, month, day) = calendar::date(i64::try_from(seconds / DAY).unwrap_or_default());
    let of_day = seconds % DAY;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", of_day / 3600, of_day / 60 % 60, of_day % 60)
}

/// The same, and when that is as seen from `now_ms`: `2026-11-28T10:40:09Z (in 30 min)`.
pub(super) fn relative(ms: u64, now_ms: u64) -> String {
    let (far, is_past) = (ms.abs_diff(now_ms).div_ceil(1000), ms < now_ms);
    let far = match far {
        0..=119 => format!("{far} s"),
        120..=7199 => format!("{} min", far.div_ceil(60)),
        _ => format!("{} h", far.div_ceil(3600)),
    };
    if is_past { format!("{} ({far} ago)", rfc3339(ms)) } else { format!("{} (in {far})", rfc3339(ms)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_date_u() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (1_767_225_600, "2026-01-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds * 1000 + 999), expected);
        }
    }

    #[test]
    fn a_distance_is_rounded_up_so_that_it_is_over_by_then() {
        let now_ms = 1_767_225_600_000;
        for (ms, expected) in [
            (now_ms + 1, "2026-01-01T00:00:00Z (in 1 s)"),
            (now_ms + 90_500, "2026-01-01T00:01:30Z (in 91 s)"),
            (now_ms + 1_740_001, "2026-01-01T00:29:00Z (in 30 min)"),
            (now_ms + 7_200_000, "2026-01-01T02:00:00Z (in 2 h)"),
            (now_ms - 180_000, "2025-12-31T23:57:00Z (3 min ago)"),
        ] {
            assert_eq!(relative(ms, now_ms), expected);
        }
    }
}
