//! Points in time: as the user writes them, as the API wants them, as tables show them.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{Timestamp, civil};

/// A time that cannot be understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("failed to parse value as time or duration: {0:?}")]
pub struct TimeError(String);

/// What `--since` and `--until` mean: seconds since 1970, with nanoseconds where the text had them.
///
/// A duration (`10m`, `1h30m`) counts back from `now`; a date without a zone is local; a number stays.
///
/// # Errors
/// [`TimeError`]
pub fn parse_when(text: &str, now: Timestamp) -> Result<String, TimeError> {
    let failed = || TimeError(text.to_owned());
    if text != "0"
        && let Some(duration) = go_duration(text)
    {
        let back = now.checked_sub(jiff::SignedDuration::try_from(duration).map_err(|_| failed())?);
        return Ok(back.map_err(|_| failed())?.as_second().to_string());
    }
    if let Some(timestamp) = dated(text) {
        return Ok(format!("{}.{:09}", timestamp.as_second(), timestamp.subsec_nanosecond()));
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_number =
        seconds.parse::<i64>().is_ok() && fraction.bytes().all(|b| b.is_ascii_digit()) && fraction.len() < 10;
    if is_number && !text.contains('-') { Ok(text.to_owned()) } else { Err(failed()) }
}

fn dated(text: &str) -> Option<Timestamp> {
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Some(timestamp);
    }
    let (local, zone) = split_zone(text);
    let (date, time) = local.split_once('T').unwrap_or((local, "00:00:00"));
    let time = match time.matches(':').count() {
        0 => format!("{time}:00:00"),
        1 => format!("{time}:00"),
        _ => time.to_owned(),
    };
    let moment: civil::DateTime = format!("{date}T{time}").parse().ok()?;
    match zone {
        Some(zone) => format!("{moment}{zone}").parse().ok(),
        None => Some(moment.to_zoned(TimeZone::system()).ok()?.timestamp()),
    }
}

/// Cuts `Z` or `+01:00` off.
fn split_zone(text: &str) -> (&str, Option<&str>) {
    let date = text.len().min(10);
    let Some((date, rest)) = text.split_at_checked(date) else { return (text, None) };
    match rest.find(['Z', 'z', '+', '-']) {
        Some(at) => (&text[..date.len() + at], Some(&rest[at..])),
        None => (text, None),
    }
}

/// Go's `time.ParseDuration` for durations that are not negative.
fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = 0.0f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit_end = rest[digits..]
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .map_or(rest.len(), |at| digits + at);
        total += number
            * match &rest[digits..unit_end] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" | "μs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[unit_end..];
    }
    Duration::try_from_secs_f64(total).ok()
}

/// `2026-11-22 08:40:00 +0000 UTC` in the local zone, as Go prints a time.
pub fn go_time(seconds: i64) -> String {
    let Ok(timestamp) = Timestamp::from_second(seconds) else { return String::new() };
    timestamp.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string()
}

/// `2026-11-22T08:40:00Z` in the local zone, as Go's RFC 3339.
pub fn local_time(timestamp: Timestamp) -> String {
    with_colon_zone(&timestamp.to_zoned(TimeZone::system()).strftime("%Y-%m-%dT%H:%M:%S%z").to_string())
}

/// Nine decimals and the local zone, as docker's events print.
pub fn rfc3339_nano(timestamp: Timestamp) -> String {
    with_colon_zone(&timestamp.to_zoned(TimeZone::system()).strftime("%Y-%m-%dT%H:%M:%S.%9f%z").to_string())
}

fn with_colon_zone(text: &str) -> String {
    match text.split_at_checked(text.len().saturating_sub(5)) {
        Some((time, "+0000")) => format!("{time}Z"),
        Some((time, zone)) => format!("{time}{}:{}", &zone[..3], &zone[3..]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_become_what_the_api_wants() {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let table = [
            ("10m", "1699999400"),
            ("1h30m", "1699994600"),
            ("1.5s", "1699999998"),
            ("2024-01-01T00:00:00Z", "1704067200.000000000"),
            ("2024-01-01T00:00:00.5Z", "1704067200.500000000"),
            ("2024-01-01T01:00:00+01:00", "1704067200.000000000"),
            ("2024-01-01T00:00Z", "1704067200.000000000"),
            ("1704067200", "1704067200"),
            ("1704067200.25", "1704067200.25"),
            ("0", "0"),
        ];
        for (text, expected) in table {
            assert_eq!(parse_when(text, now).as_deref(), Ok(expected), "{text}");
        }
        for wrong in ["", "yesterday", "2024-13-01", "10x", "-5m", "1.2.3"] {
            assert!(parse_when(wrong, now).is_err(), "{wrong}");
        }
    }
}
