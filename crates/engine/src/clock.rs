//! Points in time, as the API writes and reads them.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

const NANOS: i64 = 1_000_000_000;
const DAY: i64 = 86_400;

/// A point in time: nanoseconds since 1970-01-01 UTC. Its text is RFC 3339 with as many fraction digits as
/// it needs (Go's `RFC3339Nano`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The text of a time that never was: Go's zero time, which docker's answers hold.
    pub const NEVER: &str = "0001-01-01T00:00:00Z";

    /// Now, by the host's clock.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
    }

    /// Whole seconds since 1970.
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(NANOS)
    }

    /// Nanoseconds within the second.
    pub fn subsecond_nanos(self) -> i64 {
        self.0.rem_euclid(NANOS)
    }

    /// From seconds and nanoseconds; out of range becomes the nearest.
    pub fn from_parts(seconds: i64, nanos: i64) -> Self {
        Self(seconds.saturating_mul(NANOS).saturating_add(nanos))
    }

    /// Reads `seconds[.fraction]` since 1970, or RFC 3339 (a date alone and a missing zone, meaning UTC, are
    /// accepted), as the query parameters `since` and `until` have it.
    pub fn parse(text: &str) -> Option<Self> {
        Self::parse_unix(text).or_else(|| Self::parse_rfc3339(text))
    }

    fn parse_unix(text: &str) -> Option<Self> {
        let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (seconds, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if seconds.is_empty() || !seconds.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let time = Self::from_parts(seconds.parse().ok()?, parse_fraction(fraction)?);
        Some(if negative { Self(-time.0) } else { time })
    }

    fn parse_rfc3339(text: &str) -> Option<Self> {
        let number = |range: std::ops::Range<usize>| -> Option<i64> {
            let digits = text.get(range)?;
            digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
        };
        let separator = |at: usize, byte: u8| text.as_bytes().get(at) == Some(&byte);
        if !(separator(4, b'-') && separator(7, b'-')) {
            return None;
        }
        let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return None;
        }
        let midnight = days_from_civil(year, month, day) * DAY;
        let rest = text.get(10..)?;
        if rest.is_empty() {
            return Some(Self::from_parts(midnight, 0));
        }
        if !(separator(10, b'T') && separator(13, b':') && separator(16, b':')) {
            return None;
        }
        let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
        if hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        let tail = text.get(19..)?;
        let zone_at = tail.find(['Z', 'z', '+', '-']).unwrap_or(tail.len());
        let nanos = match tail.get(..zone_at)? {
            "" => 0,
            fraction => parse_fraction(fraction.strip_prefix('.')?)?,
        };
        let offset = parse_zone(tail.get(zone_at..)?)?;
        Some(Self::from_parts(midnight + hour * 3600 + minute * 60 + second - offset, nanos))
    }
}

fn parse_fraction(digits: &str) -> Option<i64> {
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nine: String = digits.chars().chain("000000000".chars()).take(9).collect();
    nine.parse().ok()
}

/// Seconds east of UTC.
fn parse_zone(zone: &str) -> Option<i64> {
    match zone.as_bytes() {
        [] | [b'Z' | b'z'] => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let digit = |byte: &u8| byte.is_ascii_digit().then(|| i64::from(byte - b'0'));
            let seconds = (digit(h1)? * 10 + digit(h2)?) * 3600 + (digit(m1)? * 10 + digit(m2)?) * 60;
            Some(if *sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

/// Days since 1970-01-01 of a date of the Gregorian calendar.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.seconds();
        let (year, month, day) = civil_from_days(seconds.div_euclid(DAY));
        let of_day = seconds.rem_euclid(DAY);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}",
            of_day / 3600,
            of_day / 60 % 60,
            of_day % 60
        )?;
        let nanos = self.subsecond_nanos();
        if nanos != 0 {
            write!(f, ".{}", format!("{nanos:09}").trim_end_matches('0'))?;
        }
        f.write_str("Z")
    }
}

/// A duration as docker tells it to people: `Less than a second`, `5 minutes`, `3 weeks`.
pub fn human_duration(nanos: i64) -> String {
    let seconds = nanos.max(0) / NANOS;
    let (minutes, hours) = (seconds / 60, (seconds as f64 / 3600.0).round() as i64);
    match seconds {
        0 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        _ if minutes == 1 => "About a minute".to_owned(),
        _ if minutes < 60 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_is_rfc3339_with_needed_fraction_digits() {
        assert_eq!(Timestamp(0).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(Timestamp(1_795_336_981_120_000_000).to_string(), "2026-11-22T08:43:01.12Z");
        assert_eq!(Timestamp(951_782_400_000_000_001).to_string(), "2000-02-29T00:00:00.000000001Z");
    }

    #[test]
    fn since_and_until_take_unix_times_and_rfc3339() {
        assert_eq!(Timestamp::parse("1795336981.5"), Some(Timestamp(1_795_336_981_500_000_000)));
        assert_eq!(Timestamp::parse("2026-11-22T09:43:01+01:00"), Some(Timestamp(1_795_336_981_000_000_000)));
        assert_eq!(Timestamp::parse("2026-11-22"), Some(Timestamp(1_795_305_600_000_000_000)));
        for bad in ["", "x", "1.x", "2026-13-01", "2026-11-22T", "2026-11-22T09:43:01+1", "11:22", "\u{e4}.5"]
        {
            assert_eq!(Timestamp::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_read_as_dockers() {
        let at = |seconds: i64| human_duration(seconds * NANOS);
        assert_eq!(at(0), "Less than a second");
        assert_eq!(at(45), "45 seconds");
        assert_eq!(at(61), "About a minute");
        assert_eq!(at(300), "5 minutes");
        assert_eq!(at(3600), "About an hour");
        assert_eq!(at(3600 * 47), "47 hours");
        assert_eq!(at(3600 * 24 * 10), "10 days");
        assert_eq!(at(3600 * 24 * 21), "3 weeks");
    }

    proptest! {
        #[test]
        fn display_and_parse_are_inverse(nanos in -62_135_596_800_000_000_000_i128..i128::from(i64::MAX)) {
            let time = Timestamp(i64::try_from(nanos).unwrap_or(0));
            prop_assert_eq!(Timestamp::parse(&time.to_string()), Some(time));
        }

        #[test]
        fn any_text_is_parsed_or_refused(text: String) {
            let _ = Timestamp::parse(&text);
        }
    }
}
