//! The schedule of a CronJob: five fields of cron, or a word behind `@`.

use std::fmt;
use std::str::FromStr;

use crate::fault::Report;
use crate::place::At;
use crate::table::{Read, Shape};
use crate::yaml::Node;

/// When a CronJob starts, as robfig/cron's standard parser reads it, which is the one of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    text: String,
    /// What it says.
    pub times: Times,
}

/// The times of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// At the minutes that all fields name.
    Fields {
        /// Bit n: minute n.
        minutes: u64,
        /// Bit n: hour n.
        hours: u64,
        /// Bit n: day n of the month.
        days: u64,
        /// Bit n: month n, January is 1.
        months: u64,
        /// Bit n: day n of the week, Sunday is 0.
        weekdays: u64,
        /// Whether both days have to fit: one of the fields is `*`. Else one of them is enough.
        both_days: bool,
    },
    /// Every so many seconds.
    Every(u64),
}

/// A text that is no schedule, with the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoSchedule(String);

impl Read for Schedule {
    fn shape() -> Shape {
        Shape::Schedule
    }

    fn read(node: &Node, at: &At, report: &mut Report) -> Option<Self> {
        let text = String::read(node, at, report)?;
        let schedule = text.parse::<Self>();
        if let Err(NoSchedule(reason)) = &schedule {
            report.invalid_text(at, &text, [reason.as_str()]);
        }
        schedule.ok()
    }

    fn write(&self) -> Option<serde_json::Value> {
        Some(self.text.as_str().into())
    }

    fn is_absent(node: &Node) -> bool {
        String::is_absent(node)
    }
}

struct Bounds {
    from: u32,
    to: u32,
    names: &'static [&'static str],
}

const MINUTES: Bounds = Bounds { from: 0, to: 59, names: &[] };
const HOURS: Bounds = Bounds { from: 0, to: 23, names: &[] };
const DAYS: Bounds = Bounds { from: 1, to: 31, names: &[] };
const MONTHS: Bounds = Bounds {
    from: 1,
    to: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const WEEKDAYS: Bounds = Bounds { from: 0, to: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Schedule {
    type Err = NoSchedule;

    fn from_str(text: &str) -> Result<Self, NoSchedule> {
        let standing_for = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            _ => text,
        };
        let times = if let Some(interval) = standing_for.strip_prefix("@every ") {
            let seconds = seconds(interval);
            let failed = || NoSchedule(format!("failed to parse duration {}", crate::fault::quoted(text)));
            Times::Every(seconds.ok_or_else(failed)?.max(1))
        } else if standing_for.starts_with('@') {
            return Err(NoSchedule(format!("unrecognized descriptor: {}", crate::fault::quoted(text))));
        } else {
            fields(standing_for)?
        };
        Ok(Self { text: text.to_owned(), times })
    }
}

fn fields(text: &str) -> Result<Times, NoSchedule> {
    let fields: Vec<&str> = text.split_whitespace().collect();
    let [minute, hour, day, month, weekday] = fields[..] else {
        let found = fields.len();
        return Err(NoSchedule(format!("expected exactly 5 fields, found {found}")));
    };
    let any = |field: &str| field.split(',').any(|part| part.starts_with(['*', '?']));
    Ok(Times::Fields {
        minutes: field(minute, &MINUTES)?,
        hours: field(hour, &HOURS)?,
        days: field(day, &DAYS)?,
        months: field(month, &MONTHS)?,
        weekdays: field(weekday, &WEEKDAYS)?,
        both_days: any(day) || any(weekday),
    })
}

/// The numbers that a field names, as bits.
fn field(text: &str, bounds: &Bounds) -> Result<u64, NoSchedule> {
    let mut bits = 0;
    for part in text.split(',').filter(|part| !part.is_empty()) {
        bits |= range(part, bounds)?;
    }
    if bits == 0 {
        return Err(NoSchedule(format!("field {} names nothing", crate::fault::quoted(text))));
    }
    Ok(bits)
}

/// `number`, `number-number`, `*`, each also with `/step`.
fn range(text: &str, bounds: &Bounds) -> Result<u64, NoSchedule> {
    let failed = |why: &str| NoSchedule(format!("{why}: {}", crate::fault::quoted(text)));
    let (range, step) = match text.split_once('/') {
        Some((range, step)) => (range, Some(step)),
        None => (text, None),
    };
    let number = |text: &str| {
        let name = text.to_lowercase();
        let named = bounds.names.iter().position(|known| *known == name);
        let named = named.and_then(|index| u32::try_from(index).ok()).map(|index| index + bounds.from);
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = named.or_else(|| text.parse().ok().filter(|_| digits));
        number.ok_or_else(|| failed("failed to parse number"))
    };
    let (from, to) = match range.split_once('-') {
        _ if matches!(range, "*" | "?") => (bounds.from, bounds.to),
        Some((from, to)) => (number(from)?, number(to)?),
        None if step.is_some() => (number(range)?, bounds.to),
        None => (number(range)?, number(range)?),
    };
    let step = step.map_or(Ok(1), number)?;
    match () {
        () if from < bounds.from => Err(failed("beginning of range below minimum")),
        () if to > bounds.to => Err(failed("end of range above maximum")),
        () if from > to => Err(failed("beginning of range beyond end of range")),
        () if step == 0 => Err(failed("step of range should be a positive number")),
        () => Ok((from..=to).step_by(step as usize).fold(0, |bits, bit| bits | 1 << bit)),
    }
}

/// A duration of Go (`1h30m`), in whole seconds.
fn seconds(text: &str) -> Option<u64> {
    let (mut rest, mut total) = (text, 0.0);
    while !rest.is_empty() {
        let end = rest.find(|one: char| !one.is_ascii_digit() && one != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|one: char| one.is_ascii_digit() || one == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += number * unit;
        rest = &rest[end..];
    }
    // The largest duration of Go is 2^63-1 nanoseconds.
    (!text.is_empty() && total <= 9.2e9).then_some(total as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(of: &[u32]) -> u64 {
        of.iter().fold(0, |bits, bit| bits | 1 << bit)
    }

    #[test]
    fn fields_name_times() {
        let schedule: Schedule = "*/15 2-4,22 1 JAN,mar mon-fri".parse().unwrap();
        let Times::Fields { minutes, hours, days, months, weekdays, both_days } = schedule.times else {
            panic!()
        };
        assert_eq!(minutes, bits(&[0, 15, 30, 45]));
        assert_eq!(hours, bits(&[2, 3, 4, 22]));
        assert_eq!((days, months), (bits(&[1]), bits(&[1, 3])));
        assert_eq!((weekdays, both_days), (bits(&[1, 2, 3, 4, 5]), false));
        assert_eq!("5/20 * * * *".parse::<Schedule>().unwrap().to_string(), "5/20 * * * *");
    }

    #[test]
    fn words_stand_for_fields() {
        let daily: Schedule = "@daily".parse().unwrap();
        assert_eq!(daily.times, "0 0 * * *".parse::<Schedule>().unwrap().times);
        assert_eq!("@every 1h30m".parse::<Schedule>().unwrap().times, Times::Every(5400));
        assert_eq!("@every 10ms".parse::<Schedule>().unwrap().times, Times::Every(1));
    }

    #[test]
    fn what_is_no_schedule_is_told_why() {
        for (text, why) in [
            ("", "expected exactly 5 fields, found 0"),
            ("* * * *", "expected exactly 5 fields, found 4"),
            ("* * * * * *", "expected exactly 5 fields, found 6"),
            ("60 * * * *", "end of range above maximum: \"60\""),
            ("* * 0 * *", "beginning of range below minimum: \"0\""),
            ("5-1 * * * *", "beginning of range beyond end of range: \"5-1\""),
            ("*/0 * * * *", "step of range should be a positive number: \"*/0\""),
            ("a * * * *", "failed to parse number: \"a\""),
            ("@never", "unrecognized descriptor: \"@never\""),
            ("@every", "unrecognized descriptor: \"@every\""),
            ("@every x", "failed to parse duration \"@every x\""),
            ("* * * * 7", "end of range above maximum: \"7\""),
        ] {
            assert_eq!(text.parse::<Schedule>(), Err(NoSchedule(why.to_owned())), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_schedule_or_none(text in "[-*?/,0-9a-z@ .µ]{0,40}") {
            let _ = text.parse::<Schedule>();
        }
    }
}
