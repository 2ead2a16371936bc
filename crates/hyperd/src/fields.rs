//! Reading a request's JSON object field by field, so that none is passed over.
//!
//! Every field is either taken by name, or must be neutral: what a client writes for "nothing asked for". As with
//! dockerd, whose language does it so, the case of a field's name is nothing; names that users choose (labels, ports,
//! networks) are no fields.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::http::{ApiError, Result};

/// The fields of an object that are still to be looked at.
#[derive(Debug)]
pub(crate) struct Fields {
    path: &'static str,
    map: Map<String, Value>,
}

impl Fields {
    /// The fields of `value`, which is at `path` of the request; `null` has none.
    ///
    /// # Errors
    /// No object, or one that has a field twice in different case: dockerd takes the last, which nobody can mean.
    pub(crate) fn of(value: Value, path: &'static str) -> Result<Self> {
        match value {
            Value::Object(map) => {
                let mut seen = BTreeSet::new();
                let fields = Self { path, map };
                match fields.map.keys().find(|name| !seen.insert(fold(name))) {
                    Some(twice) => {
                        Err(ApiError::invalid(format!("invalid JSON: {} is there twice", fields.name(twice))))
                    }
                    None => Ok(fields),
                }
            }
            Value::Null => Ok(Self { path, map: Map::new() }),
            _ => {
                let what = if path.is_empty() { "the request's body" } else { path };
                Err(ApiError::invalid(format!("invalid JSON: {what} must be an object")))
            }
        }
    }

    fn name(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    fn wrong(&self, name: &str, kind: &str) -> ApiError {
        ApiError::invalid(format!("invalid JSON: {} must be {kind}", self.name(name)))
    }

    /// The field itself; `null` when it is not there.
    pub(crate) fn take(&mut self, name: &str) -> Value {
        if let Some(value) = self.map.remove(name) {
            return value;
        }
        let written = self.map.keys().find(|written| fold(written) == fold(name)).cloned();
        written.and_then(|written| self.map.remove(&written)).unwrap_or(Value::Null)
    }

    /// A field that is an object.
    pub(crate) fn object(&mut self, name: &'static str) -> Result<Fields> {
        let value = self.take(name);
        Fields::of(value, name)
    }

    pub(crate) fn string(&mut self, name: &str) -> Result<String> {
        match self.take(name) {
            Value::Null => Ok(String::new()),
            Value::String(text) => Ok(text),
            _ => Err(self.wrong(name, "a string")),
        }
    }

    pub(crate) fn bool(&mut self, name: &str) -> Result<bool> {
        match self.take(name) {
            Value::Null => Ok(false),
            Value::Bool(value) => Ok(value),
            _ => Err(self.wrong(name, "true or false")),
        }
    }

    pub(crate) fn optional_int(&mut self, name: &str) -> Result<Option<i64>> {
        match self.take(name) {
            Value::Null => Ok(None),
            Value::Number(number) => {
                number.as_i64().map(Some).ok_or_else(|| self.wrong(name, "a whole number"))
            }
            _ => Err(self.wrong(name, "a whole number")),
        }
    }

    pub(crate) fn int(&mut self, name: &str) -> Result<i64> {
        Ok(self.optional_int(name)?.unwrap_or(0))
    }

    /// A list of strings; a string alone is a list of one, as Go's `strslice` has it.
    pub(crate) fn optional_strings(&mut self, name: &str) -> Result<Option<Vec<String>>> {
        match self.take(name) {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(vec![text])),
            Value::Array(values) => {
                let strings = values.into_iter().map(|value| match value {
                    Value::String(text) => Ok(text),
                    _ => Err(self.wrong(name, "a list of strings")),
                });
                strings.collect::<Result<Vec<_>>>().map(Some)
            }
            _ => Err(self.wrong(name, "a list of strings")),
        }
    }

    pub(crate) fn strings(&mut self, name: &str) -> Result<Vec<String>> {
        Ok(self.optional_strings(name)?.unwrap_or_default())
    }

    /// An object of strings.
    pub(crate) fn string_map(&mut self, name: &str) -> Result<BTreeMap<String, String>> {
        match self.take(name) {
            Value::Null => Ok(BTreeMap::new()),
            Value::Object(map) => map
                .into_iter()
                .map(|(key, value)| match value {
                    Value::String(value) => Ok((key, value)),
                    _ => Err(self.wrong(name, "an object of strings")),
                })
                .collect(),
            _ => Err(self.wrong(name, "an object of strings")),
        }
    }

    /// The names of an object, which docker uses as a set.
    pub(crate) fn keys(&mut self, name: &str) -> Result<Vec<String>> {
        match self.take(name) {
            Value::Null => Ok(Vec::new()),
            Value::Object(map) => Ok(map.into_iter().map(|(key, _)| key).collect()),
            _ => Err(self.wrong(name, "an object")),
        }
    }

    /// Refuses a field unless it is neutral or one of `also`.
    pub(crate) fn refuse(&mut self, name: &str, also: &[Value], reason: &str) -> Result<()> {
        let value = self.take(name);
        if is_neutral(&value) || also.contains(&value) {
            return Ok(());
        }
        Err(ApiError::unsupported(format!("{} is not supported: {reason}", self.name(name))))
    }

    /// Refuses every field left that is not neutral.
    pub(crate) fn finish(self) -> Result<()> {
        match self.map.iter().find(|(_, value)| !is_neutral(value)) {
            Some((name, _)) => Err(ApiError::invalid(format!(
                "{} is not known here, so it cannot be honoured",
                self.name(name)
            ))),
            None => Ok(()),
        }
    }
}

/// A field's name without its case, by Go's rules (`encoding/json`): two letters beyond ASCII are equal to ASCII ones.
fn fold(name: &str) -> String {
    let plain = |letter| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        letter => letter.to_ascii_lowercase(),
    };
    name.chars().map(plain).collect()
}

/// What asks for nothing: `null`, `false`, 0, an empty text, and lists and objects of only such.
pub(crate) fn is_neutral(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(map) => map.values().all(is_neutral),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn neutral_fields_pass_and_others_are_refused_by_name() {
        let mut fields =
            Fields::of(json!({"A": [], "B": {"x": 0, "y": ""}, "C": ["v"], "D": -1}), "HostConfig").unwrap();
        fields.refuse("A", &[], "reason").unwrap();
        fields.refuse("B", &[], "reason").unwrap();
        fields.refuse("D", &[json!(-1)], "reason").unwrap();
        fields.refuse("absent", &[], "reason").unwrap();
        let error = fields.refuse("C", &[], "volumes come later").unwrap_err();
        assert_eq!(error.message, "HostConfig.C is not supported: volumes come later");
        fields.finish().unwrap();
    }

    #[test]
    fn fields_nobody_took_are_refused() {
        let fields = Fields::of(json!({"New": 1}), "HostConfig").unwrap();
        assert!(fields.finish().unwrap_err().message.contains("HostConfig.New"));
    }

    #[test]
    fn the_case_of_a_name_is_nothing() {
        let mut fields = Fields::of(json!({"detachKeys": "ctrl-a", "TTY": true}), "").unwrap();
        assert_eq!(fields.string("DetachKeys").unwrap(), "ctrl-a");
        assert!(fields.bool("Tty").unwrap());
        fields.finish().unwrap();
        let unknown = Fields::of(json!({"fieldOfTomorrow": 1}), "").unwrap();
        assert!(unknown.finish().unwrap_err().message.contains("fieldOfTomorrow"));
        let twice = Fields::of(json!({"Memory": 1, "memory": 2}), "HostConfig").unwrap_err();
        assert_eq!(twice.message, "invalid JSON: HostConfig.memory is there twice");
    }

    #[test]
    fn wrong_types_are_refused() {
        let mut fields = Fields::of(json!({"a": 1, "b": "x", "c": [1], "d": 1.5}), "").unwrap();
        assert!(fields.string("a").is_err());
        assert!(fields.bool("b").is_err());
        assert!(fields.strings("c").is_err());
        assert!(fields.int("d").is_err());
        assert!(Fields::of(json!([]), "x").is_err());
    }
}
