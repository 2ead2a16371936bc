//! Points in time, as the API writes and reads them.

use std::fmt;
use std::str::FromStr as _;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::civil;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

const NANOS: i64 = 1_000_000_000;

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
        let without_zone = || civil::DateTime::from_str(text).ok()?.to_zoned(TimeZone::UTC).ok();
        let with_zone = text.parse::<jiff::Timestamp>().ok();
        let time = with_zone.or_else(|| without_zone().map(|time| time.timestamp()))?;
        Some(Self::from_parts(time.as_second(), time.subsec_nanosecond().into()))
    }
}

fn parse_fraction(digits: &str) -> Option<i64> {
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nine: String = digits.chars().chain("000000000".chars()).take(9).collect();
    nine.parse().ok()
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = jiff::Timestamp::from_nanosecond(self.0.into());
        fmt::Display::fmt(&time.expect("64 bits of nanoseconds are less than 300 years"), f)
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
