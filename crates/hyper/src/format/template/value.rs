//! The data of a template: JSON with its order kept, printed as Go prints it.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

/// Fields of the API that are maps with free keys, not structs: a missing key is no error there.
const MAPS: [&str; 16] = [
    "Labels",
    "Annotations",
    "Sysctls",
    "Tmpfs",
    "Networks",
    "Ports",
    "PortBindings",
    "Volumes",
    "Options",
    "Data",
    "ExposedPorts",
    "StorageOpt",
    "DriverOpts",
    "LogConfig",
    "Attributes",
    "Details",
];
/// Fields of the API that are pointers, which Go prints as `<nil>` where a list would be `[]`.
const POINTERS: [&str; 8] = [
    "Health",
    "Healthcheck",
    "Init",
    "OomKillDisable",
    "PidsLimit",
    "MemorySwappiness",
    "StopTimeout",
    "IPAMConfig",
];

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A JSON null or a Go nil, with the text that it prints as.
    Nil(&'static str),
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// Another number.
    Float(f64),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Value>),
    /// A struct or map, in the order it came.
    Object {
        /// Names and values.
        fields: Vec<(String, Value)>,
        /// What Go would have.
        kind: Kind,
    },
    /// A method with one text argument, such as docker's `.Label "key"`.
    Lookup(Vec<(String, String)>),
    /// The same method in a table's heading: the label's last part.
    LookupHeading,
}

/// What an object is in Go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A struct: its fields are known, a missing one is an error.
    Struct,
    /// A map with free keys: a missing one is `<no value>`.
    Map,
    /// A row of docker's lists: a struct whose JSON has HTML's characters escaped.
    Row,
}

impl Value {
    /// A text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A struct.
    pub fn object(fields: Vec<(String, Value)>) -> Self {
        Self::Object { fields, kind: Kind::Struct }
    }

    /// A row of a list.
    pub fn row(fields: Vec<(String, Value)>) -> Self {
        Self::Object { fields, kind: Kind::Row }
    }

    /// Go's notion of an empty value.
    pub fn is_true(&self) -> bool {
        match self {
            Self::Nil(_) => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::List(values) => !values.is_empty(),
            Self::Object { fields, kind } => *kind != Kind::Map || !fields.is_empty(),
            Self::Lookup(_) | Self::LookupHeading => true,
        }
    }

    /// The field's value. A struct's fields answer in any case: Go's names differ from JSON's (`ID` and `Id`).
    pub fn field(&self, name: &str) -> Option<&Value> {
        let Self::Object { fields, kind } = self else { return None };
        let exact = fields.iter().find(|(field, _)| field == name);
        let any_case = || fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name));
        let found = if *kind == Kind::Struct { exact.or_else(any_case) } else { exact };
        found.map(|(_, value)| value)
    }

    /// Compact JSON as docker's `json` function writes it.
    pub fn to_json(&self) -> String {
        let json =
            serde_json::to_string(self).expect("a value has only text keys and finite numbers from JSON");
        match self {
            // These three stand only inside texts.
            Self::Object { kind: Kind::Row, .. } => {
                json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
            }
            _ => json,
        }
    }

    fn named(self, name: &str) -> Self {
        match self {
            Self::Object { fields, .. } if MAPS.contains(&name) => Self::Object { fields, kind: Kind::Map },
            Self::Nil(_) if MAPS.contains(&name) => Self::Nil("map[]"),
            Self::Nil(_) if POINTERS.contains(&name) => Self::Nil("<nil>"),
            Self::Nil(_) => Self::Nil("[]"),
            other => other,
        }
    }
}

/// Prints as Go's `fmt` does with `%v`.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nil(text) => f.write_str(text),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Int(value) => write!(f, "{value}"),
            Self::Float(value) => f.write_str(&float(*value)),
            Self::Text(text) => f.write_str(text),
            Self::List(values) => {
                f.write_str("[")?;
                for (index, value) in values.iter().enumerate() {
                    write!(f, "{}{value}", if index == 0 { "" } else { " " })?;
                }
                f.write_str("]")
            }
            Self::Object { fields, kind: Kind::Struct | Kind::Row } => {
                f.write_str("{")?;
                for (index, (_, value)) in fields.iter().enumerate() {
                    write!(f, "{}{value}", if index == 0 { "" } else { " " })?;
                }
                f.write_str("}")
            }
            Self::Object { fields, kind: Kind::Map } => {
                let mut sorted: Vec<_> = fields.iter().collect();
                sorted.sort_by(|a, b| a.0.cmp(&b.0));
                f.write_str("map[")?;
                for (index, (key, value)) in sorted.into_iter().enumerate() {
                    write!(f, "{}{key}:{value}", if index == 0 { "" } else { " " })?;
                }
                f.write_str("]")
            }
            Self::Lookup(_) | Self::LookupHeading => f.write_str(""),
        }
    }
}

/// Go's `%v` of a float: the shortest text, with an exponent from 1e21 on and below 1e-4.
fn float(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e21).contains(&size) {
        let text = format!("{value:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
        return format!("{mantissa}e{sign}{digits:0>2}");
    }
    format!("{value}")
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Nil(_) | Self::Lookup(_) | Self::LookupHeading => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Int(value) => match i64::try_from(*value) {
                Ok(value) => serializer.serialize_i64(value),
                Err(_) => serializer.serialize_u64(u64::try_from(*value).unwrap_or(u64::MAX)),
            },
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(values) => values.serialize(serializer),
            Self::Object { fields, .. } => {
                let mut map = serializer.serialize_map(None)?;
                for (name, value) in fields.iter().filter(|(_, value)| !matches!(value, Self::Lookup(_))) {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Nil("<nil>"))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element()? {
            values.push(value);
        }
        Ok(Value::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Vec::new();
        while let Some((name, value)) = map.next_entry::<String, Value>()? {
            let value = value.named(&name);
            fields.push((name, value));
        }
        Ok(Value::object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Value {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn values_print_as_go_prints_them() {
        let table = [
            (r#"["A=1","B"]"#, "[A=1 B]"),
            (r#"{"Labels":{"b":"2","a":"1"}}"#, "{map[a:1 b:2]}"),
            (r#"{"State":"x","Pid":12,"Dead":false}"#, "{x 12 false}"),
            ("1.5", "1.5"),
            ("1e21", "1e+21"),
            ("0.00001", "1e-05"),
            (r#"{"Binds":null,"Health":null,"Labels":null}"#, "{[] <nil> map[]}"),
        ];
        for (json, text) in table {
            assert_eq!(parse(json).to_string(), text, "{json}");
        }
    }

    #[test]
    fn json_keeps_order_and_characters() {
        let json = r#"{"b":1,"a":["<&>",null,-5,18446744073709551615,1.25]}"#;
        assert_eq!(parse(json).to_json(), json);
    }
}
