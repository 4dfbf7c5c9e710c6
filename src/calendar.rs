//! The Gregorian calendar: days since 1970-01-01 as dates, and back.
//!
//! Both directions count years from March, so that a leap day is the last day of its year.

/// Days from 0000-03-01 to 1970-01-01.
const MARCH_0_TO_1970: i64 = 719_468;

/// Days in 400 years, after which the calendar repeats.
const CYCLE: i64 = 146_097;

/// The year, month (1 to 12) and day (1 to 31) of a day since 1970-01-01.
#[must_use]
pub const fn date(day: i64) -> (i64, i64, i64) {
    let day = day + MARCH_0_TO_1970;
    let (cycle, of_cycle) = (day.div_euclid(CYCLE), day.rem_euclid(CYCLE));
    let year = (of_cycle - of_cycle / 1_460 + of_cycle / 36_524 - of_cycle / 146_096) / 365;
    let of_year = of_cycle - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (400 * cycle + year + (month <= 2) as i64, month, day)
}

/// The day since 1970-01-01 of a date; the inverse of [`date`]. A day that the month does not have counts into the next
/// month.
#[must_use]
pub const fn day(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + of_year - MARCH_0_TO_1970
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (number, expected) in [
            (0, (1970, 1, 1)),
            (-1, (1969, 12, 31)),
            (11_015, (2000, 2, 28)),
            (11_016, (2000, 2, 29)),
            (11_017, (2000, 3, 1)),
            (47_541, (2100, 3, 1)),
            (-134_774, (1601, 1, 1)),
        ] {
            assert_eq!(date(number), expected, "{number}");
        }
    }

    #[test]
    fn every_day_follows_the_day_before_and_converts_back() {
        let leap = |year: i64| (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
        let (mut year, mut month, mut of_month) = (1600, 1, 1);
        let first = day(year, month, of_month);
        for number in first..first + 2 * CYCLE {
            assert_eq!(date(number), (year, month, of_month));
            assert_eq!(day(year, month, of_month), number);
            let length = match month {
                2 => 28 + i64::from(leap(year)),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            of_month += 1;
            if of_month > length {
                (month, of_month) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
    }
}
