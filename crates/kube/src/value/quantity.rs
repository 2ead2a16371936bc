//! `resource.Quantity`: a number with a unit, exact to a billionth.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use crate::fault::{Problem, Report};
use crate::place::At;
use crate::table::{Read, Shape, wrong_type};
use crate::yaml::{Node, Value};

/// Billionths in one.
const NANO: i128 = 1_000_000_000;

/// The largest number: 2^63-1, as Kubernetes' documentation of Quantity has it. What is larger is this.
const LARGEST: i128 = (i64::MAX as i128) * NANO;

/// Units of ten: what they are called, and the power of ten.
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];

/// Units of two: what they are called, and the power of two.
const BINARY: [(&str, u32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

/// An amount of a resource: `500m`, `1.5Gi`, `12e6`.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// How it was written, and will be again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Decimal,
    Exponent,
    Binary,
}

/// A text that is no quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "quantities must match the regular expression \
     '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
)]
pub struct NoQuantity;

impl Quantity {
    /// None of it.
    pub const ZERO: Self = Self { nanos: 0, format: Format::Decimal };

    /// So many of it.
    #[must_use]
    pub fn whole(number: i64) -> Self {
        Self { nanos: i128::from(number) * NANO, format: Format::Decimal }
    }

    /// In whole units, rounded up.
    #[must_use]
    pub fn value(self) -> i64 {
        self.scaled(NANO)
    }

    /// In thousandths, rounded up: what processors are counted in.
    #[must_use]
    pub fn milli_value(self) -> i64 {
        self.scaled(NANO / 1000)
    }

    /// Whether it has a part that is smaller than a whole one.
    #[must_use]
    pub fn is_fraction(self) -> bool {
        self.nanos % NANO != 0
    }

    fn scaled(self, unit: i128) -> i64 {
        let up = self.nanos.div_euclid(unit) + i128::from(self.nanos.rem_euclid(unit) != 0);
        up.clamp(i64::MIN.into(), i64::MAX.into()) as i64
    }

    /// Rounded up to thousandths, as Kubernetes keeps amounts of resources.
    #[must_use]
    pub fn rounded_to_milli(self) -> Self {
        const MICRO: i128 = NANO / 1000;
        let up = self.nanos.div_euclid(MICRO) + i128::from(self.nanos.rem_euclid(MICRO) != 0);
        Self { nanos: up * MICRO, ..self }
    }

    /// Together; at most the largest.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { nanos: (self.nanos + other.nanos).clamp(-LARGEST, LARGEST), ..self }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl FromStr for Quantity {
    type Err = NoQuantity;

    fn from_str(text: &str) -> Result<Self, NoQuantity> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|one: char| !one.is_ascii_digit() && one != '.').unwrap_or(rest.len());
        let (number, unit) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(NoQuantity);
        }
        let (ten, two, format) = unit_of(unit)?;
        let nanos = nanos(whole, fraction, ten, two);
        // Less than one of a unit of two is shown in units of ten.
        let small = format == Format::Binary && nanos != 0 && nanos < NANO;
        let format = if small { Format::Decimal } else { format };
        Ok(Self { nanos: if negative { -nanos } else { nanos }, format })
    }
}

/// The power of ten and of two that a unit stands for.
fn unit_of(unit: &str) -> Result<(i32, u32, Format), NoQuantity> {
    if let Some((_, power)) = DECIMAL.iter().find(|(name, _)| *name == unit) {
        return Ok((*power, 0, Format::Decimal));
    }
    if let Some((_, power)) = BINARY.iter().find(|(name, _)| *name == unit) {
        return Ok((0, *power, Format::Binary));
    }
    let exponent = unit.strip_prefix(['e', 'E']).ok_or(NoQuantity)?;
    let digits = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NoQuantity);
    }
    // Far beyond what can be told apart from nothing and from the largest.
    let power = exponent.parse::<i64>().unwrap_or(if exponent.starts_with('-') { -1 << 20 } else { 1 << 20 });
    Ok((power.clamp(-1 << 20, 1 << 20) as i32, 0, Format::Exponent))
}

/// `whole.fraction * 10^ten * 2^two` in billionths, rounded up, at most the largest.
fn nanos(whole: &str, fraction: &str, ten: i32, two: u32) -> i128 {
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return 0;
    }
    // Billionths are `mantissa * 10^shift`; beyond 30 digits only whether there is something counts.
    let shown = digits.len().min(30);
    let cut = digits.len() - shown;
    let rest = digits[shown..].bytes().any(|byte| byte != b'0');
    let mantissa: i128 = digits[..shown].parse().unwrap_or(i128::MAX);
    let fraction_digits = i64::try_from(fraction.len()).unwrap_or(i64::MAX / 2);
    let shift = i64::from(ten) + 9 - fraction_digits + i64::try_from(cut).unwrap_or(i64::MAX / 2);
    let scaled = match u32::try_from(shift) {
        Ok(shift) if shift <= 38 => 10i128
            .checked_pow(shift)
            .and_then(|power| mantissa.checked_mul(power))
            .and_then(|nanos| nanos.checked_add(i128::from(rest)))
            .and_then(|nanos| nanos.checked_mul(1 << two)),
        Ok(_) => None,
        Err(_) => {
            // Units of two first, so that nothing is lost that counts.
            let (down, factor) = (shift.unsigned_abs(), 1i128 << two);
            let power = u32::try_from(down).ok().and_then(|down| 10i128.checked_pow(down));
            match (mantissa.checked_mul(factor), power) {
                (Some(product), Some(power)) => {
                    Some(product / power + i128::from(product % power != 0 || rest))
                }
                (None, Some(power)) => (mantissa / power + 1).checked_mul(factor),
                (_, None) => Some(1),
            }
        }
    };
    scaled.unwrap_or(LARGEST).min(LARGEST)
}

impl fmt::Display for Quantity {
    /// The canonical form: no fraction, and the largest unit that loses nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let binary = self.format == Format::Binary && self.nanos.abs() >= 1024 * NANO;
        if binary && self.nanos % NANO == 0 {
            let (number, unit) =
                reduced(self.nanos / NANO, 1024, [""].into_iter().chain(BINARY.map(|(name, _)| name)));
            return write!(f, "{number}{unit}");
        }
        let (number, unit) = reduced(self.nanos, 1000, DECIMAL.map(|(name, _)| name).into_iter());
        let power = DECIMAL.iter().find(|(name, _)| *name == unit).map_or(0, |(_, power)| *power);
        match self.format {
            Format::Exponent if power != 0 => write!(f, "{number}e{power}"),
            _ => write!(f, "{number}{unit}"),
        }
    }
}

/// Divided by the base as often as nothing is lost, and the unit then.
fn reduced<'a>(mut number: i128, base: i128, units: impl Iterator<Item = &'a str>) -> (i128, &'a str) {
    let mut units = units.peekable();
    let mut unit = units.next().unwrap_or_default();
    while number % base == 0 && units.peek().is_some() {
        number /= base;
        unit = units.next().unwrap_or_default();
    }
    (number, unit)
}

impl Read for Quantity {
    fn shape() -> Shape {
        Shape::Quantity
    }

    fn read(node: &Node, at: &At, report: &mut Report) -> Option<Self> {
        let text = match &node.value {
            Value::Text(text) => text.clone(),
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            _ => {
                wrong_type(node, "a quantity (like 500m or 1Gi)", at, report);
                return None;
            }
        };
        let quantity = text.parse();
        if let Err(reason @ NoQuantity) = quantity {
            let (value, reason) = (crate::fault::quoted(&text), reason.to_string());
            report.tell(at, Problem::Invalid { value, reason });
        }
        quantity.ok()
    }

    fn write(&self) -> Option<serde_json::Value> {
        Some(self.to_string().into())
    }
}

#[cfg(test)]
#[path = "quantity_tests.rs"]
mod tests;
