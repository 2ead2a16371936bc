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
    let time = jiff::Timestamp::from_nanosecond(unix_ns.into());
    time.expect("64 bits of nanoseconds are less than 300 years").to_string()
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
