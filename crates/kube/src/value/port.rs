//! A number or a text: ports by number or name, amounts by number or percentage.

use std::fmt;

use crate::fault::Report;
use crate::place::At;
use crate::read::integer;
use crate::table::{Read, Shape, wrong_type};
use crate::yaml::{Node, Value};

/// A number or a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IntOrString {
    /// A number.
    Int(i32),
    /// A text: a port's name, or a percentage.
    String(String),
}

impl IntOrString {
    /// How many of `total` an amount is that may be a percentage, `None` if it is neither.
    #[must_use]
    pub fn of(&self, total: i32, round_up: bool) -> Option<i32> {
        match self {
            Self::Int(number) => Some(*number),
            Self::String(text) => {
                let percent: i64 = text.strip_suffix('%')?.parse().ok()?;
                let product = percent.checked_mul(total.into())?;
                let rounded = if round_up { product.checked_add(99)?.div_euclid(100) } else { product / 100 };
                i32::try_from(rounded).ok()
            }
        }
    }
}

impl fmt::Display for IntOrString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(number) => number.fmt(f),
            Self::String(text) => text.fmt(f),
        }
    }
}

impl Read for IntOrString {
    fn shape() -> Shape {
        Shape::IntOrString
    }

    fn read(node: &Node, at: &At, report: &mut Report) -> Option<Self> {
        match &node.value {
            Value::Text(text) => Some(Self::String(text.clone())),
            Value::Integer(_) | Value::Float(_) if integer(node).is_some() => {
                i32::read(node, at, report).map(Self::Int)
            }
            _ => {
                wrong_type(node, "an integer or a string", at, report);
                None
            }
        }
    }

    fn write(&self) -> Option<serde_json::Value> {
        Some(match self {
            Self::Int(number) => (*number).into(),
            Self::String(text) => text.as_str().into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_rounded_as_asked() {
        let quarter = IntOrString::String("25%".to_owned());
        assert_eq!(
            (quarter.of(3, true), quarter.of(3, false), quarter.of(4, true)),
            (Some(1), Some(0), Some(1))
        );
        assert_eq!(IntOrString::Int(2).of(3, true), Some(2));
        assert_eq!(IntOrString::String("x".to_owned()).of(3, true), None);
    }
}
