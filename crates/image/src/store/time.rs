//! RFC 3339 times, as image configurations have them.

use jiff::Timestamp;

/// Seconds since 1970, now.
pub fn now() -> i64 {
    Timestamp::now().as_second()
}

/// Now, with nanoseconds, in UTC.
pub fn now_text() -> String {
    format!("{:.9}", Timestamp::now())
}

/// Seconds since 1970 of an RFC 3339 time; its fraction is dropped.
pub fn parse(text: &str) -> Option<i64> {
    text.parse().ok().map(Timestamp::as_second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_times_are_read() {
        assert_eq!(parse("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(parse("2024-02-29T12:30:45.123456789Z"), Some(1_709_209_845));
        assert_eq!(parse("2024-02-29T14:30:45+02:00"), Some(1_709_209_845));
        assert_eq!(parse("0001-01-01T00:00:00Z"), Some(-62_135_596_800));
        for bad in ["", "2024", "2024-13-01T00:00:00Z", "2024-01-01T00:00:00", "2024-01-01T00:00:00+0"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn now_has_nine_digits_and_is_read_back() {
        let text = now_text();
        assert_eq!((text.len(), text.ends_with('Z')), ("2024-02-29T12:30:45.123456789Z".len(), true));
        assert!((0..=1).contains(&(now() - parse(&text).expect("our own text"))));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = parse(&text);
        }
    }
}
