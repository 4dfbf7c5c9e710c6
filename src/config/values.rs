//! Durations, sizes and numbers as operators write them.

use std::ops::RangeInclusive;
use std::time::Duration;

use thiserror::Error;

/// The longest duration. Longer than any sensible time-out, and short enough that sums of time-outs cannot overflow.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// Why a text is not a duration, size or number.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ValueError {
    /// A number without a unit of time.
    #[error("{0:?} has no unit; write 500ms, 30s, 5m or 1h")]
    NoUnit(String),
    /// Not a number with a unit of time.
    #[error("{0:?} is not a duration; write a whole number and a unit: 500ms, 30s, 5m or 1h")]
    Duration(String),
    /// A duration out of range.
    #[error("{text:?} is out of range; the duration must be from {shortest} to {longest}")]
    DurationBounds {
        /// The given value.
        text: String,
        /// The shortest allowed.
        shortest: String,
        /// The longest allowed.
        longest: String,
    },
    /// Not a number of bytes.
    #[error("{0:?} is not a size; write a number of bytes, or a number with KiB or MiB: 64KiB")]
    Size(String),
    /// A size out of range.
    #[error("{text:?} is out of range; the size must be from {smallest} to {largest}")]
    SizeBounds {
        /// The given value.
        text: String,
        /// The smallest allowed.
        smallest: String,
        /// The largest allowed.
        largest: String,
    },
    /// Neither `auto` nor a whole number in range.
    #[error("{text:?} is neither auto nor a whole number from 0 to {max}")]
    AutoOrInteger {
        /// The given value.
        text: String,
        /// The largest number allowed.
        max: usize,
    },
    /// Not a whole number, or one out of range.
    #[error("{text:?} is not a whole number from {min} to {max}")]
    Integer {
        /// The given value.
        text: String,
        /// The smallest allowed.
        min: usize,
        /// The largest allowed.
        max: usize,
    },
}

/// Parses a duration from `shortest` to one week: a whole number and `ms`, `s`, `m` or `h`.
///
/// # Errors
/// [`ValueError::NoUnit`], [`ValueError::Duration`] and [`ValueError::DurationBounds`].
pub fn parse_duration(text: &str, shortest: Duration) -> Result<Duration, ValueError> {
    let (digits, unit) = split_unit(text);
    let unit_ms = match unit {
        "" if !digits.is_empty() => return Err(ValueError::NoUnit(text.into())),
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(ValueError::Duration(text.into())),
    };
    let bounds = || ValueError::DurationBounds {
        text: text.into(),
        shortest: format_duration(shortest),
        longest: format_duration(LONGEST),
    };
    if digits.is_empty() {
        return Err(ValueError::Duration(text.into()));
    }
    // Only digits are left, so this fails only on overflow.
    let number: u64 = digits.parse().map_err(|_| bounds())?;
    let duration = number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(bounds)?;
    if (shortest..=LONGEST).contains(&duration) { Ok(duration) } else { Err(bounds()) }
}

/// The shortest text for a duration that [`parse_duration`] accepts. Fractions of a millisecond are dropped.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    match ms {
        0 => "0s".into(),
        _ if ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
        _ if ms.is_multiple_of(60_000) => format!("{}m", ms / 60_000),
        _ if ms.is_multiple_of(1_000) => format!("{}s", ms / 1_000),
        _ => format!("{ms}ms"),
    }
}

/// Parses a number of bytes within `bounds`: a whole number, alone or with `B`, `KiB` or `MiB`.
///
/// # Errors
/// [`ValueError::Size`] and [`ValueError::SizeBounds`].
pub fn parse_size(text: &str, bounds: RangeInclusive<usize>) -> Result<usize, ValueError> {
    let (digits, unit) = split_unit(text);
    let factor = match unit {
        "" | "B" => 1,
        "KiB" => 1024,
        "MiB" => 1024 * 1024,
        _ => return Err(ValueError::Size(text.into())),
    };
    if digits.is_empty() {
        return Err(ValueError::Size(text.into()));
    }
    let size = digits.parse::<usize>().ok().and_then(|number| number.checked_mul(factor));
    size.filter(|size| bounds.contains(size)).ok_or_else(|| ValueError::SizeBounds {
        text: text.into(),
        smallest: format_size(*bounds.start()),
        largest: format_size(*bounds.end()),
    })
}

/// The shortest text for a number of bytes that [`parse_size`] accepts.
#[must_use]
pub fn format_size(bytes: usize) -> String {
    const KIB: usize = 1024;
    const MIB: usize = 1024 * KIB;
    match bytes {
        0 => "0B".into(),
        _ if bytes.is_multiple_of(MIB) => format!("{}MiB", bytes / MIB),
        _ if bytes.is_multiple_of(KIB) => format!("{}KiB", bytes / KIB),
        _ => format!("{bytes}B"),
    }
}

/// Parses a whole number within `bounds`, written in digits only.
///
/// # Errors
/// [`ValueError::Integer`].
pub fn parse_integer(text: &str, bounds: RangeInclusive<usize>) -> Result<usize, ValueError> {
    let all_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|number| all_digits && bounds.contains(number));
    number.ok_or_else(|| ValueError::Integer { text: text.into(), min: *bounds.start(), max: *bounds.end() })
}

fn split_unit(text: &str) -> (&str, &str) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, unit) = text.split_at(digits);
    (digits, unit.trim_start_matches(' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn duration(text: &str) -> Result<Duration, ValueError> {
        parse_duration(text, Duration::from_millis(1))
    }

    #[test]
    fn durations_have_a_number_and_a_unit() {
        for (text, ms) in [("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("1h", 3_600_000), ("75 s", 75_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn the_error_about_a_missing_unit_shows_the_correct_form() {
        let error = duration("30").unwrap_err();
        assert_eq!(error, ValueError::NoUnit("30".into()));
        assert!(error.to_string().contains("30s"), "{error}");
    }

    #[test]
    fn texts_that_are_not_durations_are_rejected() {
        for text in ["", "s", "-5s", "1.5s", "1h30m", "5 minutes", "five", "５s", "5S"] {
            assert_eq!(duration(text), Err(ValueError::Duration(text.into())), "{text}");
        }
    }

    #[test]
    fn a_duration_out_of_range_is_rejected_with_the_range() {
        for text in ["0s", "169h", "18446744073709551615h", "99999999999999999999s"] {
            let error = duration(text).unwrap_err().to_string();
            assert!(error.contains("from 1ms to 168h"), "{text}: {error}");
        }
        assert_eq!(parse_duration("0s", Duration::ZERO), Ok(Duration::ZERO));
    }

    #[test]
    fn a_formatted_duration_can_be_parsed_again() {
        for text in ["0s", "1ms", "1500ms", "75s", "5m", "1h", "168h"] {
            assert_eq!(format_duration(parse_duration(text, Duration::ZERO).unwrap()), text);
        }
    }

    #[test]
    fn sizes_are_bytes_or_have_a_unit() {
        let size = |text| parse_size(text, 1024..=1024 * 1024);
        for (text, bytes) in [("64KiB", 65_536), ("1MiB", 1_048_576), ("1024", 1024), ("2000B", 2000), ("8 KiB", 8192)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "KiB", "64k", "64KB", "-1", "1.5MiB"] {
            assert_eq!(size(text), Err(ValueError::Size(text.into())), "{text}");
        }
        for text in ["1023", "2MiB", "99999999999999999999", "18446744073709551615MiB"] {
            let error = size(text).unwrap_err().to_string();
            assert!(error.contains("from 1KiB to 1MiB"), "{text}: {error}");
        }
    }

    #[test]
    fn a_formatted_size_can_be_parsed_again() {
        for text in ["0B", "1023B", "64KiB", "3MiB"] {
            assert_eq!(format_size(parse_size(text, 0..=usize::MAX).unwrap()), text);
        }
    }

    #[test]
    fn integers_are_digits_within_a_range() {
        assert_eq!(parse_integer("4", 1..=8), Ok(4));
        for text in ["", "0", "9", "+4", "-4", "4.0", "four", "99999999999999999999"] {
            let error = parse_integer(text, 1..=8).unwrap_err().to_string();
            assert!(error.contains("from 1 to 8"), "{text}: {error}");
        }
    }
}
