//! The `filters` of list, prune and event requests.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::error::{EngineError, Result};

/// Names to wanted values. A thing passes when for each name one of the values fits; for labels and negated
/// labels, all must.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    /// Reads the JSON of the query parameter, `{"name":["value"]}` or the older `{"name":{"value":true}}`;
    /// empty text is no filter.
    ///
    /// # Errors
    /// It is no such JSON, or a name is not in `known`.
    pub fn parse(text: &str, known: &[&str]) -> Result<Self> {
        let filters = Self::parse_any(text)?;
        match filters.0.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => Err(EngineError::invalid(format!("invalid filter '{name}'"))),
            None => Ok(filters),
        }
    }

    /// As [`Filters::parse`], with any names.
    ///
    /// # Errors
    /// It is no such JSON.
    pub fn parse_any(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let invalid = || EngineError::invalid("invalid filter: it must be a JSON object of lists");
        let object = match serde_json::from_str(text).map_err(|_| invalid())? {
            Value::Object(object) => object,
            Value::Null => return Ok(Self::default()),
            _ => return Err(invalid()),
        };
        let mut filters = BTreeMap::new();
        for (name, values) in object {
            let values: Vec<String> = match values {
                Value::Array(values) => values
                    .into_iter()
                    .map(|value| value.as_str().map(str::to_owned).ok_or_else(invalid))
                    .collect::<Result<_>>()?,
                Value::Object(values) => values
                    .into_iter()
                    .filter(|(_, on)| on == &Value::Bool(true))
                    .map(|(value, _)| value)
                    .collect(),
                _ => return Err(invalid()),
            };
            filters.insert(name, values);
        }
        Ok(Self(filters))
    }

    /// The wanted values of a filter.
    pub fn values(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// There is no filter at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of the wanted values passes `test`, or none is wanted.
    pub fn any(&self, name: &str, test: &dyn Fn(&str) -> bool) -> bool {
        let values = self.values(name);
        values.is_empty() || values.iter().any(|value| test(value))
    }

    /// The one value of a filter that is a boolean.
    ///
    /// # Errors
    /// It is neither true nor false, or given more than once.
    pub fn boolean(&self, name: &str) -> Result<Option<bool>> {
        let value = match self.values(name) {
            [] => return Ok(None),
            [value] => value.as_str(),
            _ => return Err(EngineError::invalid(format!("invalid filter '{name}': it takes one value"))),
        };
        match value {
            "1" | "true" | "True" | "TRUE" | "t" => Ok(Some(true)),
            "0" | "false" | "False" | "FALSE" | "f" => Ok(Some(false)),
            _ => Err(EngineError::invalid(format!("invalid filter '{name}={value}'"))),
        }
    }

    /// Whether labels have all that `label` asks for (`key` or `key=value`) and nothing that `label!` does.
    pub fn matches_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        let has = |wanted: &String| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
            None => labels.contains_key(wanted),
        };
        self.values("label").iter().all(has) && !self.values("label!").iter().any(has)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_json_forms_are_read() {
        let list = Filters::parse(r#"{"status":["running","exited"]}"#, &["status"]).unwrap();
        let map =
            Filters::parse(r#"{"status":{"running":true,"exited":true,"dead":false}}"#, &["status"]).unwrap();
        assert!(list.any("status", &|wanted| wanted == "exited"));
        assert!(map.any("status", &|wanted| wanted == "exited"));
        assert!(!map.any("status", &|wanted| wanted == "dead"));
    }

    #[test]
    fn unknown_names_and_other_json_are_refused() {
        for text in ["[]", "x", r#"{"status":1}"#, r#"{"status":[1]}"#, r#"{"nosuch":[]}"#] {
            assert!(Filters::parse(text, &["status"]).is_err(), "{text}");
        }
    }

    #[test]
    fn all_labels_must_fit() {
        let labels = [("a".to_owned(), "1".to_owned()), ("b".to_owned(), String::new())].into();
        let fits = |text: &str| Filters::parse(text, &["label", "label!"]).unwrap().matches_labels(&labels);
        assert!(fits(r#"{"label":["a","b","a=1"]}"#));
        assert!(!fits(r#"{"label":["a","c"]}"#));
        assert!(!fits(r#"{"label":["a=2"]}"#));
        assert!(!fits(r#"{"label!":["a=1"]}"#));
    }
}
