//! Sizes and durations as docker shows them (`github.com/docker/go-units`).

/// Units of 1000.
const DECIMAL: [&str; 9] = ["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"];
/// Units of 1024.
const BINARY: [&str; 9] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"];

/// `1.984MB`: four digits, units of 1000.
pub fn human_size(bytes: f64) -> String {
    sized(bytes, 1000.0, &DECIMAL, 4)
}

/// `1.98MB`: three digits, units of 1000.
pub fn short_size(bytes: f64) -> String {
    sized(bytes, 1000.0, &DECIMAL, 3)
}

/// `1.892MiB`: four digits, units of 1024.
pub fn bytes_size(bytes: f64) -> String {
    sized(bytes, 1024.0, &BINARY, 4)
}

fn sized(mut size: f64, base: f64, units: &[&str], digits: usize) -> String {
    let mut unit = 0;
    while size >= base && unit < units.len() - 1 {
        size /= base;
        unit += 1;
    }
    format!("{}{}", significant(size, digits), units[unit])
}

/// Go's `%.Ng`: that many significant digits without trailing zeros; an exponent when the number has more.
fn significant(value: f64, digits: usize) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let scientific = format!("{value:.*e}", digits - 1);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let in_range = exponent >= -4 && usize::try_from(exponent).map_or(true, |exponent| exponent < digits);
    if in_range {
        let decimals = i32::try_from(digits).unwrap_or(i32::MAX) - 1 - exponent;
        return trimmed(&format!("{value:.*}", usize::try_from(decimals).unwrap_or(0)));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", trimmed(mantissa), exponent.abs())
}

fn trimmed(number: &str) -> String {
    if number.contains('.') {
        number.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        number.to_owned()
    }
}

/// `About an hour`, `3 weeks` and so on.
pub fn duration(seconds: i64) -> String {
    let minutes = seconds / 60;
    // Go rounds hours, and only them, to the nearest.
    let hours = (seconds + 1800).div_euclid(3600);
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_docker_sizes() {
        let table = [
            (0.0, "0B"),
            (2.0, "2B"),
            (1_984_512.0, "1.985MB"),
            (1000.0, "1kB"),
            (999_960.0, "1000kB"),
            (123_456_789_000.0, "123.5GB"),
        ];
        for (bytes, text) in table {
            assert_eq!(human_size(bytes), text);
        }
        assert_eq!(short_size(1_984_512.0), "1.98MB");
        assert_eq!(short_size(999_900.0), "1e+03kB");
        assert_eq!(bytes_size(25_277_923_328.0), "23.54GiB");
    }

    #[test]
    fn durations_are_docker_durations() {
        let table = [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3600, "About an hour"),
            (5400, "2 hours"),
            (47 * 3600, "47 hours"),
            (48 * 3600, "2 days"),
            (15 * 86400, "2 weeks"),
            (61 * 86400, "2 months"),
            (800 * 86400, "2 years"),
        ];
        for (seconds, text) in table {
            assert_eq!(duration(seconds), text, "{seconds}");
        }
    }
}
