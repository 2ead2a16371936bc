//! Signals by name and number.

use crate::error::{EngineError, Result};

/// Names of the signals of Linux on x86-64, from number 1 on (`signal(7)`).
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// First and last real-time signal as glibc counts them.
const REALTIME: std::ops::RangeInclusive<i32> = 34..=64;

/// `SIGTERM`.
pub(crate) const TERM: i32 = 15;

/// `SIGKILL`.
pub(crate) const KILL: i32 = 9;

/// The number of a signal written as `KILL`, `SIGKILL`, `9`, `RTMIN+1` or `RTMAX-1`.
///
/// # Errors
/// It is none of them.
pub fn parse(text: &str) -> Result<i32> {
    let invalid = || EngineError::invalid(format!("invalid signal: {text}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=64).contains(&number) { Ok(number) } else { Err(invalid()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let realtime = |base: i32, offset: &str, sign: i32| -> Option<i32> {
        let offset: i32 = if offset.is_empty() { 0 } else { offset.get(1..)?.parse().ok()? };
        let number = base.checked_add(offset.checked_mul(sign)?)?;
        REALTIME.contains(&number).then_some(number)
    };
    let number = match name {
        "POLL" => Some(29),
        "IOT" => Some(6),
        "CLD" => Some(17),
        "UNUSED" => Some(31),
        _ if name.starts_with("RTMIN") && !name.contains('-') => realtime(*REALTIME.start(), &name[5..], 1),
        _ if name.starts_with("RTMAX") && !name.contains('+') => realtime(*REALTIME.end(), &name[5..], -1),
        _ => NAMES.iter().position(|known| *known == name).map(|at| at as i32 + 1),
    };
    number.ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_numbers_and_realtime_signals_are_known() {
        for (text, number) in
            [("KILL", 9), ("sigterm", 15), ("10", 10), ("SIGSYS", 31), ("RTMIN+3", 37), ("RTMAX-1", 63)]
        {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        for bad in ["", "0", "65", "-9", "NOSUCH", "SIG", "RTMIN+99", "RTMIN-1", "RTMINx"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
