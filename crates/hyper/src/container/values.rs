//! The values of flags: sizes, CPU counts, ulimits, hosts and so on.

use std::net::IpAddr;

use bollard::models::ResourcesUlimits;

/// A flag's value that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("invalid argument {value:?} for --{flag}: {reason}")]
pub struct FlagError {
    flag: String,
    value: String,
    reason: String,
}

impl FlagError {
    /// An unusable `value` of `--flag`.
    pub fn new(flag: &str, value: &str, reason: &str) -> Self {
        Self { flag: flag.to_owned(), value: value.to_owned(), reason: reason.to_owned() }
    }
}

/// Names of the resource limits, as docker takes them (`getrlimit(2)`).
const ULIMITS: [&str; 16] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
    "as",
];

/// Bytes from `512m`, `1.5GiB`, `1024`; units are powers of 1024 as docker's.
///
/// # Errors
/// Text that is no such size, or one beyond 2^63-1.
pub fn parse_bytes(flag: &str, text: &str) -> Result<i64, FlagError> {
    let failed = || FlagError::new(flag, text, "invalid size: use a number and b, k, m, g, t or p");
    let digits_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits_end].parse().map_err(|_| failed())?;
    let unit = text[digits_end..].strip_prefix(' ').unwrap_or(&text[digits_end..]).to_ascii_lowercase();
    let letter = match unit.as_str() {
        "" | "b" => 'b',
        _ => {
            let (letter, rest) = unit.split_at_checked(1).ok_or_else(failed)?;
            if !["", "b", "ib"].contains(&rest) {
                return Err(failed());
            }
            letter.chars().next().ok_or_else(failed)?
        }
    };
    let power = "bkmgtp".find(letter).ok_or_else(failed)?;
    let bytes = number * 1024f64.powi(i32::try_from(power).map_err(|_| failed())?);
    // Above 2^63 the conversion would lose the value.
    if !(0.0..9.2e18).contains(&bytes) {
        return Err(failed());
    }
    Ok(bytes as i64)
}

/// Billionths of a CPU from a decimal such as `1.5`.
///
/// # Errors
/// Text that is no decimal, is negative, or has more than nine decimals.
pub fn parse_cpus(text: &str) -> Result<i64, FlagError> {
    let failed = |reason| FlagError::new("cpus", text, reason);
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.len() + fraction.len() == 0 || !text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(failed("failed to parse as a rational number"));
    }
    if fraction.trim_end_matches('0').len() > 9 {
        return Err(failed("value is too precise"));
    }
    let digits = format!("{}{:0<9.9}", if whole.is_empty() { "0" } else { whole }, fraction);
    digits.parse().map_err(|_| failed("value is too large"))
}

/// One `NAME=SOFT[:HARD]`.
///
/// # Errors
/// An unknown name, a limit that is no number, a soft limit above the hard one.
pub fn parse_ulimit(text: &str) -> Result<ResourcesUlimits, FlagError> {
    let failed = |reason: &str| FlagError::new("ulimit", text, reason);
    let (name, limits) = text.split_once('=').ok_or_else(|| failed("use NAME=SOFT[:HARD]"))?;
    if !ULIMITS.contains(&name) {
        return Err(failed("invalid ulimit type"));
    }
    let number = |text: &str| -> Result<i64, FlagError> {
        text.parse()
            .ok()
            .filter(|value| *value >= -1)
            .ok_or_else(|| failed("a limit is a number, or -1 for none"))
    };
    let (soft, hard) = match limits.split_once(':') {
        Some((soft, hard)) => (number(soft)?, number(hard)?),
        None => (number(limits)?, number(limits)?),
    };
    if hard != -1 && (soft > hard || soft == -1) {
        return Err(failed("ulimit soft limit must be less than or equal to hard limit"));
    }
    Ok(ResourcesUlimits { name: Some(name.to_owned()), soft: Some(soft), hard: Some(hard) })
}

/// `HOST:IP` or `HOST=IP`, as `HOST:IP`; the daemon knows `host-gateway`.
///
/// # Errors
/// No separator, an empty host, or an address that is none.
pub fn parse_add_host(text: &str) -> Result<String, FlagError> {
    let failed = |reason: &str| FlagError::new("add-host", text, reason);
    let (host, address) = text
        .split_once('=')
        .or_else(|| text.split_once(':'))
        .ok_or_else(|| failed("bad format for add-host"))?;
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    if host.is_empty() {
        return Err(failed("bad format for add-host"));
    }
    if bare != "host-gateway" && bare.parse::<IpAddr>().is_err() {
        return Err(failed("invalid IP address in add-host"));
    }
    Ok(format!("{host}:{bare}"))
}

/// An IP address.
///
/// # Errors
/// Text that is none.
pub fn parse_ip(flag: &str, text: &str) -> Result<String, FlagError> {
    let address: IpAddr = text
        .trim()
        .parse()
        .map_err(|_| FlagError::new(flag, text, "IP address is not correctly formatted"))?;
    Ok(address.to_string())
}

/// Six hexadecimal bytes, separated by colons or dashes.
///
/// # Errors
/// Text that is no such address.
pub fn parse_mac(text: &str) -> Result<String, FlagError> {
    let failed = || FlagError::new("mac-address", text, "not a valid MAC address");
    let separator = if text.contains('-') { '-' } else { ':' };
    let bytes: Vec<&str> = text.split(separator).collect();
    let is_byte = |byte: &&str| byte.len() == 2 && byte.bytes().all(|b| b.is_ascii_hexdigit());
    if bytes.len() != 6 || !bytes.iter().all(is_byte) {
        return Err(failed());
    }
    Ok(bytes.join(":").to_ascii_lowercase())
}

/// `80`, `80/udp` or `7000-7003/tcp` as `PORT/PROTO` each.
///
/// # Errors
/// No port, a range from the end to the start, an unknown protocol.
pub fn parse_expose(text: &str) -> Result<Vec<String>, FlagError> {
    let failed = |reason: &str| FlagError::new("expose", text, reason);
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err(failed("invalid proto"));
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let port =
        |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(|| failed("invalid port"));
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(failed("invalid range format for --expose"));
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

/// `KEY=VALUE` with a key.
///
/// # Errors
/// No `=`, or nothing before it.
pub fn parse_pair(flag: &str, text: &str) -> Result<(String, String), FlagError> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(FlagError::new(flag, text, "use KEY=VALUE")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        let table = [
            ("0", 0),
            ("42", 42),
            ("1b", 1),
            ("512m", 512 << 20),
            ("1.5GiB", 3 << 29),
            ("2 kb", 2048),
            ("1P", 1 << 50),
        ];
        for (text, bytes) in table {
            assert_eq!(parse_bytes("memory", text), Ok(bytes), "{text}");
        }
        for wrong in ["", "m", "-1", "1x", "1mm", "1e3", "1..2", "9999999999999p", "1é"] {
            assert!(parse_bytes("memory", wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn cpus_are_exact_decimals() {
        for (text, nano) in
            [("2", 2_000_000_000), ("1.5", 1_500_000_000), (".25", 250_000_000), ("0.000000001", 1)]
        {
            assert_eq!(parse_cpus(text), Ok(nano), "{text}");
        }
        for wrong in ["", ".", "-1", "1,5", "0.0000000001", "1.2.3", "99999999999999999999"] {
            assert!(parse_cpus(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ulimits_need_a_known_name_and_order() {
        let limit = parse_ulimit("nofile=1024:2048").unwrap();
        assert_eq!((limit.soft, limit.hard), (Some(1024), Some(2048)));
        assert_eq!(parse_ulimit("core=0").unwrap().hard, Some(0));
        assert_eq!(parse_ulimit("stack=1:-1").unwrap().hard, Some(-1));
        for wrong in ["nofile", "bad=1", "nofile=2:1", "nofile=x", "nofile=-1:5", "nofile=-2"] {
            assert!(parse_ulimit(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ports_to_expose_are_listed() {
        assert_eq!(parse_expose("80").unwrap(), ["80/tcp"]);
        assert_eq!(parse_expose("7000-7002/UDP").unwrap(), ["7000/udp", "7001/udp", "7002/udp"]);
        for wrong in ["", "0", "x", "9-8", "80/icmp", "70000"] {
            assert!(parse_expose(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn hosts_addresses_and_macs_are_checked() {
        assert_eq!(parse_add_host("h:1.2.3.4").unwrap(), "h:1.2.3.4");
        assert_eq!(parse_add_host("h=[::1]").unwrap(), "h:::1");
        assert_eq!(parse_add_host("h:host-gateway").unwrap(), "h:host-gateway");
        assert!(
            parse_add_host("h").is_err()
                && parse_add_host("h:x").is_err()
                && parse_add_host(":1.2.3.4").is_err()
        );
        assert_eq!(parse_mac("02-42-AC-11-00-02").unwrap(), "02:42:ac:11:00:02");
        assert!(parse_mac("02:42").is_err() && parse_mac("02:42:ac:11:00:0g").is_err());
        assert!(parse_ip("dns", "1.1.1").is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_value_panics(text in ".{0,24}", sized in "[0-9.]{0,22}[a-zA-Z ]{0,3}") {
            for text in [&text, &sized] {
                let _ = (parse_bytes("x", text), parse_cpus(text), parse_ulimit(text), parse_add_host(text));
                let _ = (parse_mac(text), parse_ip("x", text), parse_expose(text), crate::container::parse_mount(text));
                let _ = crate::format::parse_when(text, jiff::Timestamp::UNIX_EPOCH);
                let _ = crate::reference::Reference::parse(text);
            }
        }
    }
}
