//! The functions a template may call: Go's own and docker's.

use std::cmp::Ordering;
use std::fmt::Write as _;

use super::{TemplateError, Value};

/// Largest width of `pad` and `printf`, in characters.
const MAX_WIDTH: usize = 4096;

/// Calls `name`.
///
/// # Errors
/// An unknown function, or values that it does not take.
pub fn call(name: &str, arguments: &[Value]) -> Result<Value, TemplateError> {
    let text = |value: &Value| -> Result<String, TemplateError> {
        match value {
            Value::Text(text) => Ok(text.clone()),
            other => Err(TemplateError::new(format!("wrong type for value in {name}: {other} is no string"))),
        }
    };
    match (name, arguments) {
        ("json", [value]) => Ok(Value::Text(value.to_json())),
        ("len", [value]) => length(value),
        ("not", [value]) => Ok(Value::Bool(!value.is_true())),
        ("print", values) => Ok(Value::Text(print(values))),
        ("println", values) => Ok(Value::Text(spaced(values) + "\n")),
        ("printf", [format, values @ ..]) => Ok(Value::Text(printf(&text(format)?, values)?)),
        ("index", [value, keys @ ..]) => index(value, keys),
        ("slice", [value, bounds @ ..]) => slice(value, bounds),
        ("eq", [first, others @ ..]) if !others.is_empty() => {
            let mut equal = false;
            for other in others {
                equal |= compare(first, other)? == Ordering::Equal;
            }
            Ok(Value::Bool(equal))
        }
        ("ne", [a, b]) => Ok(Value::Bool(compare(a, b)? != Ordering::Equal)),
        ("lt", [a, b]) => Ok(Value::Bool(compare(a, b)? == Ordering::Less)),
        ("le", [a, b]) => Ok(Value::Bool(compare(a, b)? != Ordering::Greater)),
        ("gt", [a, b]) => Ok(Value::Bool(compare(a, b)? == Ordering::Greater)),
        ("ge", [a, b]) => Ok(Value::Bool(compare(a, b)? != Ordering::Less)),
        ("join", [Value::List(values), separator]) => {
            let texts: Vec<String> = values.iter().map(ToString::to_string).collect();
            Ok(Value::Text(texts.join(&text(separator)?)))
        }
        ("join", [Value::Nil(_), _]) => Ok(Value::text("")),
        ("split", [value, separator]) => {
            let (value, separator) = (text(value)?, text(separator)?);
            Ok(Value::List(split(&value, &separator)))
        }
        ("lower", [value]) => Ok(Value::Text(text(value)?.to_lowercase())),
        ("upper", [value]) => Ok(Value::Text(text(value)?.to_uppercase())),
        ("title", [value]) => Ok(Value::Text(title(&text(value)?))),
        ("truncate", [value, Value::Int(length)]) => {
            let length = usize::try_from(*length).unwrap_or(0);
            Ok(Value::Text(text(value)?.chars().take(length).collect()))
        }
        ("pad", [value, Value::Int(left), Value::Int(right)]) => {
            let text = text(value)?;
            if text.is_empty() {
                return Ok(Value::Text(text));
            }
            Ok(Value::Text(format!("{}{text}{}", spaces(*left), spaces(*right))))
        }
        (
            "json" | "len" | "not" | "printf" | "index" | "slice" | "eq" | "ne" | "lt" | "le" | "gt" | "ge"
            | "join" | "split" | "lower" | "upper" | "title" | "truncate" | "pad",
            _,
        ) => Err(TemplateError::new(format!("wrong number or type of args for {name}"))),
        _ => Err(TemplateError::new(format!("function {name:?} not defined"))),
    }
}

fn spaces(count: i128) -> String {
    " ".repeat(usize::try_from(count).unwrap_or(0).min(MAX_WIDTH))
}

fn length(value: &Value) -> Result<Value, TemplateError> {
    let length = match value {
        Value::Text(text) => text.len(),
        Value::List(values) => values.len(),
        Value::Object { fields, .. } => fields.len(),
        Value::Nil(_) => 0,
        _ => return Err(TemplateError::new("len of a value that has no length")),
    };
    Ok(Value::Int(i128::try_from(length).unwrap_or(i128::MAX)))
}

/// Go's `Sprint`: a space between two operands when neither is text.
fn print(values: &[Value]) -> String {
    let mut text = String::new();
    let mut before_is_text = true;
    for value in values {
        let is_text = matches!(value, Value::Text(_));
        if !before_is_text && !is_text {
            text.push(' ');
        }
        let _ = write!(text, "{value}");
        before_is_text = is_text;
    }
    text
}

fn spaced(values: &[Value]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn index(value: &Value, keys: &[Value]) -> Result<Value, TemplateError> {
    let mut value = value.clone();
    for key in keys {
        value = match (&value, key) {
            (Value::List(values), Value::Int(at)) => {
                let found = usize::try_from(*at).ok().and_then(|at| values.get(at));
                found.cloned().ok_or_else(|| TemplateError::new(format!("index out of range: {at}")))?
            }
            // The zero value of docker's maps is an empty text.
            (Value::Object { .. }, Value::Text(name)) => {
                value.field(name).cloned().unwrap_or(Value::text(""))
            }
            (Value::Nil("map[]"), Value::Text(_)) => Value::text(""),
            (Value::Nil(_), _) => return Err(TemplateError::new("index of untyped nil")),
            (_, key) => return Err(TemplateError::new(format!("can't index with {key}"))),
        };
    }
    Ok(value)
}

fn slice(value: &Value, bounds: &[Value]) -> Result<Value, TemplateError> {
    let out_of_range = || TemplateError::new("slice index out of range");
    let bound = |at: usize, default: usize| match bounds.get(at) {
        Some(Value::Int(bound)) => usize::try_from(*bound).map_err(|_| out_of_range()),
        Some(_) => Err(TemplateError::new("cannot slice with a value that is no integer")),
        None => Ok(default),
    };
    match value {
        Value::Text(text) => {
            let (from, to) = (bound(0, 0)?, bound(1, text.len())?);
            text.get(from..to).map(Value::text).ok_or_else(out_of_range)
        }
        Value::List(values) => {
            let (from, to) = (bound(0, 0)?, bound(1, values.len())?);
            values.get(from..to).map(|part| Value::List(part.to_vec())).ok_or_else(out_of_range)
        }
        _ => Err(TemplateError::new("can't slice this value")),
    }
}

fn compare(a: &Value, b: &Value) -> Result<Ordering, TemplateError> {
    let incompatible = || TemplateError::new("incompatible types for comparison");
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Ok(a.cmp(b)),
        (Value::Float(a), Value::Float(b)) => a.partial_cmp(b).ok_or_else(incompatible),
        (Value::Int(a), Value::Float(b)) => (*a as f64).partial_cmp(b).ok_or_else(incompatible),
        (Value::Float(a), Value::Int(b)) => a.partial_cmp(&(*b as f64)).ok_or_else(incompatible),
        (Value::Text(a), Value::Text(b)) => Ok(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Ok(a.cmp(b)),
        (Value::Nil(_), Value::Nil(_)) => Ok(Ordering::Equal),
        (Value::Nil(_), _) => Ok(Ordering::Less),
        (_, Value::Nil(_)) => Ok(Ordering::Greater),
        _ => Err(incompatible()),
    }
}

fn split(text: &str, separator: &str) -> Vec<Value> {
    if separator.is_empty() {
        return text.chars().map(|c| Value::text(c.to_string())).collect();
    }
    text.split(separator).map(Value::text).collect()
}

fn title(text: &str) -> String {
    let mut at_start = true;
    text.chars()
        .flat_map(|c| {
            let upper = at_start;
            at_start = c.is_whitespace();
            if upper { c.to_uppercase().collect::<Vec<_>>() } else { vec![c] }
        })
        .collect()
}

/// Go's `Sprintf` with the verbs and flags that templates use.
fn printf(format: &str, values: &[Value]) -> Result<String, TemplateError> {
    let mut text = String::new();
    let mut values = values.iter();
    let mut rest = format;
    while let Some((before, directive)) = rest.split_once('%') {
        text.push_str(before);
        let length = directive.find(|c: char| !"-+ 0123456789.#".contains(c)).unwrap_or(directive.len());
        let (flags, tail) = directive.split_at(length);
        let Some(verb) = tail.chars().next() else {
            text.push_str("%!(NOVERB)");
            return Ok(text);
        };
        rest = &tail[verb.len_utf8()..];
        if verb == '%' {
            text.push('%');
            continue;
        }
        match values.next() {
            Some(value) => text.push_str(&padded(flags, &verb_text(verb, flags, value)?)?),
            None => {
                let _ = write!(text, "%!{verb}(MISSING)");
            }
        }
    }
    text.push_str(rest);
    let extra: Vec<String> = values.map(|value| format!("{}={value}", kind(value))).collect();
    if !extra.is_empty() {
        let _ = write!(text, "%!(EXTRA {})", extra.join(", "));
    }
    Ok(text)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Text(_) => "string",
        Value::Int(_) => "int",
        Value::Float(_) => "float64",
        Value::Bool(_) => "bool",
        _ => "value",
    }
}

fn verb_text(verb: char, flags: &str, value: &Value) -> Result<String, TemplateError> {
    let precision =
        flags.split_once('.').map(|(_, digits)| digits.parse::<usize>().unwrap_or(0).min(MAX_WIDTH));
    Ok(match (verb, value) {
        ('s' | 'v', Value::Text(text)) => match precision {
            Some(length) => text.chars().take(length).collect(),
            None => text.clone(),
        },
        ('s' | 'v', value) => value.to_string(),
        ('q', Value::Text(text)) => format!("{text:?}"),
        ('d', Value::Int(value)) => value.to_string(),
        ('x', Value::Int(value)) => format!("{value:x}"),
        ('X', Value::Int(value)) => format!("{value:X}"),
        ('o', Value::Int(value)) => format!("{value:o}"),
        ('x', Value::Text(text)) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
        ('f', Value::Float(value)) => format!("{value:.*}", precision.unwrap_or(6)),
        ('t', Value::Bool(value)) => value.to_string(),
        (verb, value) => format!("%!{verb}({}={value})", kind(value)),
    })
}

fn padded(flags: &str, text: &str) -> Result<String, TemplateError> {
    let width = flags.split('.').next().unwrap_or("").trim_start_matches(['-', '+', ' ', '0', '#']);
    let width: usize = if width.is_empty() { 0 } else { width.parse().unwrap_or(usize::MAX) };
    if width > MAX_WIDTH {
        return Err(TemplateError::new("printf width is too large"));
    }
    Ok(match (flags.contains('-'), flags.starts_with('0')) {
        (true, _) => format!("{text:<width$}"),
        (false, true) => format!("{text:0>width$}"),
        (false, false) => format!("{text:>width$}"),
    })
}
