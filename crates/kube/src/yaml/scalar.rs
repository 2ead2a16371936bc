//! What a plain scalar is: as go-yaml v2 has it, which is what Kubernetes reads files with (YAML 1.1 with few exceptions).

use super::node::Value;

/// What an unquoted text is. `None` for one that no JSON value can be (`.inf`, `.nan`).
pub(super) fn resolve(text: &str) -> Option<Value> {
    Some(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            Value::Bool(true)
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            Value::Bool(false)
        }
        ".nan" | ".NaN" | ".NAN" | ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" | "-.inf"
        | "-.Inf" | "-.INF" => return None,
        _ if text.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first)) => number(text),
        _ => Value::Text(text.to_owned()),
    })
}

/// A number, or a text after all: dates and times stay texts, and so do IPv4 addresses and versions.
fn number(text: &str) -> Value {
    let plain = text.replace('_', "");
    if let Some(integer) = integer(&plain).filter(|_| !text.starts_with('.')) {
        return Value::Integer(integer);
    }
    match plain.parse::<f64>() {
        Ok(float) if decimal(&plain) && float.is_finite() => Value::Float(float),
        _ => Value::Text(text.to_owned()),
    }
}

/// An integer as Go's `ParseInt` with base 0 reads it: `0x`, `0o`, `0b`, and a leading zero for octal.
fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let prefix = digits.get(..2).unwrap_or_default().to_ascii_lowercase();
    let (digits, base) = match prefix.as_str() {
        "0x" => (&digits[2..], 16),
        "0o" => (&digits[2..], 8),
        "0b" => (&digits[2..], 2),
        _ if digits.len() > 1 && digits.starts_with('0') => (&digits[1..], 8),
        _ => (digits, 10),
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(base)) {
        return None;
    }
    let number = i128::from_str_radix(digits, base).ok()?;
    Some(if negative { -number } else { number })
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`, nothing else is a number to YAML.
fn decimal(text: &str) -> bool {
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let sound = exponent.is_none_or(|exponent| {
        let exponent = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        !exponent.is_empty() && digits(exponent)
    });
    digits(whole) && digits(fraction) && !(whole.is_empty() && fraction.is_empty()) && sound
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Option<Value> {
        Some(Value::Text(text.to_owned()))
    }

    #[test]
    fn booleans_are_those_of_yaml_1_1() {
        for yes in ["y", "Yes", "on", "true", "TRUE"] {
            assert_eq!(resolve(yes), Some(Value::Bool(true)), "{yes}");
        }
        for no in ["n", "NO", "off", "False"] {
            assert_eq!(resolve(no), Some(Value::Bool(false)), "{no}");
        }
        for neither in ["yEs", "truE", "yes ", "norway"] {
            assert_eq!(resolve(neither), text(neither));
        }
    }

    #[test]
    fn integers_are_those_of_go() {
        for (from, to) in [
            ("0", 0),
            ("42", 42),
            ("-7", -7),
            ("+7", 7),
            ("0644", 0o644),
            ("0o644", 0o644),
            ("0x1F", 31),
            ("0b11", 3),
            ("1_000", 1000),
            ("18446744073709551615", u64::MAX.into()),
        ] {
            assert_eq!(resolve(from), Some(Value::Integer(to)), "{from}");
        }
        assert_eq!(resolve("089"), Some(Value::Float(89.0)));
    }

    #[test]
    fn what_looks_like_a_number_and_is_none_stays_a_text() {
        for one in
            ["1.2.3", "10.0.0.1", "2001-12-14", "1Gi", "100m", "-", "+", "0x", "1e", ".", "12:30:45", "1e999"]
        {
            assert_eq!(resolve(one), text(one), "{one}");
        }
        for (from, to) in [("0.5", 0.5), (".5", 0.5), ("1.", 1.0), ("1e3", 1000.0), ("-1.5E-1", -0.15)] {
            assert_eq!(resolve(from), Some(Value::Float(to)), "{from}");
        }
    }

    #[test]
    fn what_no_json_can_hold_is_nothing() {
        assert_eq!((resolve(".inf"), resolve("-.INF"), resolve(".nan")), (None, None, None));
        assert_eq!(resolve("~"), Some(Value::Null));
    }
}
