//! Times: what the protocols want from the system's clock.

use std::time::{SystemTime, UNIX_EPOCH};

use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;

/// Nanoseconds since 1970-01-01 UTC.
pub fn unix_ns() -> i64 {
    to_unix_ns(SystemTime::now())
}

/// Nanoseconds since 1970-01-01 UTC; the ends of the range for what is outside of it.
pub fn to_unix_ns(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |ns| -ns),
    }
}

/// The protobuf form.
pub fn timestamp(unix_ns: i64) -> Timestamp {
    Timestamp {
        seconds: unix_ns.div_euclid(1_000_000_000),
        nanos: i32::try_from(unix_ns.rem_euclid(1_000_000_000)).expect("less than a thousand million"),
        ..Default::default()
    }
}

/// RFC 3339 in UTC with the fraction that is needed, as Go's `RFC3339Nano` has it.
pub fn rfc3339(unix_ns: i64) -> String {
    let seconds = unix_ns.div_euclid(1_000_000_000);
    let nanoseconds = unix_ns.rem_euclid(1_000_000_000);
    let (year, month, day) = civil(seconds.div_euclid(86_400));
    let time = seconds.rem_euclid(86_400);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if nanoseconds != 0 {
        text += format!(".{nanoseconds:09}").trim_end_matches('0');
    }
    text.push('Z');
    text
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar: years of 400 are 146097 days
/// long, and counting them from March puts the leap day at the end.
fn civil(days: i64) -> (i64, i64, i64) {
    let since = days + 719_468;
    let era = since.div_euclid(146_097);
    let day_of_era = since.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments_are_written_as_go_writes_them() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_827_696_500_000_000), "2000-02-29T12:34:56.5Z");
        assert_eq!(rfc3339(1_795_336_497_123_456_789), "2026-11-22T08:34:57.123456789Z");
        assert_eq!(rfc3339(4_107_542_399_000_000_001), "2100-02-28T23:59:59.000000001Z");
        assert_eq!(rfc3339(-1), "1969-12-31T23:59:59.999999999Z");
    }

    #[test]
    fn timestamps_have_a_fraction_that_counts_forward() {
        let stamp = timestamp(-1);
        assert_eq!((stamp.seconds, stamp.nanos), (-1, 999_999_999));
    }
}
