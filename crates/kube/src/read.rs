//! Reading what types are made of: strings, numbers, lists, maps, and texts of which there are only a few.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::fault::{Problem, Report};
use crate::place::At;
use crate::table::{Read, Shape, wrong_type};
use crate::yaml::{Node, Value};

use serde_json::Value as Json;

/// Bytes, in a file as base64.
#[derive(Clone, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl std::fmt::Debug for Bytes {
    /// Secrets are among them: not shown.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// A value that is not looked into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anything;

impl Read for Anything {
    fn shape() -> Shape {
        Shape::Any
    }

    fn read(_: &Node, _: &At, _: &mut Report) -> Option<Self> {
        Some(Self)
    }

    fn write(&self) -> Option<Json> {
        None
    }
}

impl Read for String {
    fn shape() -> Shape {
        Shape::Text
    }

    fn read(node: &Node, at: &At, report: &mut Report) -> Option<Self> {
        match &node.value {
            Value::Text(text) => Some(text.clone()),
            _ => {
                wrong_type(node, "a string", at, report);
                None
            }
        }
    }

    fn write(&self) -> Option<Json> {
        Some(self.as_str().into())
    }

    fn is_absent(node: &Node) -> bool {
        no_text(node)
    }
}

/// Whether there is nothing, or a text with nothing in it.
pub(crate) fn no_text(node: &Node) -> bool {
    match &node.value {
        Value::Null => true,
        Value::Text(text) => text.is_empty(),
        _ => false,
    }
}

impl Read for bool {
    fn shape() -> Shape {
        Shape::Bool
    }

    fn read(node: &Node, at: &At, report: &mut Report) -> Option<Self> {
        match node.value {
            Value::Bool(truth) => Some(truth),
            _ => {
                wrong_type(node, "a boolean", at, report);
                None
            }
        }
    }

    fn write(&self) -> Option<Json> {
        Some((*self).into())
    }
}

/// An integer of JSON, which knows no difference between 1 and 1.0.
pub(crate) fn integer(node: &Node) -> Option<i128> {
    match node.value {
        Value::Integer(number) => Some(number),
        Value::Float(number) if number.fract() == 0.0 => Some(number as i128),
        _ => None,
    }
}

macro_rules! integers {
    ($($type:ty)*) => {
        $(impl Read for $type {
            fn shape() -> Shape {
                Shape::Integer(<$type>::BITS)
            }

            fn read(node: &Node, at: &At, report: &mut Report) -> Option<Self> {
                let Some(number) = integer(node) else {
                    wrong_type(node, "an integer", at, report);
                    return None;
                };
                let fitting = Self::try_from(number).ok();
                if fitting.is_none() {
                    report.invalid(at, number, format!("must fit into {} bits", <$type>::BITS));
                }
                fitting
            }

            fn write(&self) -> Option<Json> {
                Some((*self).into())
            }
        })*
    };
}

integers!(i32 i64);

impl Read for Bytes {
    fn shape() -> Shape {
        Shape::Base64
    }

    fn read(node: &Node, at: &At, report: &mut Report) -> Option<Self> {
        let Value::Text(text) = &node.value else {
            wrong_type(node, "a string", at, report);
            return None;
        };
        let packed: String = text.chars().filter(|one| !matches!(one, '\n' | '\r')).collect();
        let bytes = STANDARD.decode(packed).ok();
        if bytes.is_none() {
            let (wanted, found) = ("base64 data".to_owned(), "a string that is none".to_owned());
            report.tell(at, Problem::Type { wanted, found });
        }
        bytes.map(Self)
    }

    fn write(&self) -> Option<Json> {
        Some(STANDARD.encode(&self.0).into())
    }
}

impl<T: Read> Read for Option<T> {
    const NEEDED: bool = false;

    fn shape() -> Shape {
        T::shape()
    }

    fn read(node: &Node, at: &At, report: &mut Report) -> Option<Self> {
        T::read(node, at, report).map(Some)
    }

    fn absent() -> Option<Self> {
        Some(None)
    }

    fn write(&self) -> Option<Json> {
        self.as_ref()?.write()
    }

    fn is_absent(node: &Node) -> bool {
        T::is_absent(node)
    }
}

impl<T: Read> Read for Vec<T> {
    const NEEDED: bool = false;

    fn shape() -> Shape {
        Shape::List(T::shape)
    }

    fn read(node: &Node, at: &At, report: &mut Report) -> Option<Self> {
        let Value::List(items) = &node.value else {
            wrong_type(node, "a list", at, report);
            return None;
        };
        let read: Vec<Option<T>> =
            items.iter().enumerate().map(|(index, item)| T::read(item, &at.index(index), report)).collect();
        read.into_iter().collect()
    }

    fn absent() -> Option<Self> {
        Some(Vec::new())
    }

    fn write(&self) -> Option<Json> {
        let items = self.iter().filter_map(T::write).collect();
        if self.is_empty() { None } else { Some(Json::Array(items)) }
    }
}

impl<T: Read> Read for BTreeMap<String, T> {
    const NEEDED: bool = false;

    fn shape() -> Shape {
        Shape::Map(T::shape)
    }

    fn read(node: &Node, at: &At, report: &mut Report) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            wrong_type(node, "a map", at, report);
            return None;
        };
        let mut read = Some(Self::new());
        for (key, value) in entries {
            let at = at.key(&key.name);
            if key.was_bool {
                let text = "the key was an unquoted boolean of YAML 1.1 (on, y …) and has become a string";
                report.warn(&at, Problem::Odd(text.to_owned()));
            }
            match T::read(value, &at, report) {
                Some(value) => {
                    read = read.map(|mut map| {
                        map.insert(key.name.clone(), value);
                        map
                    })
                }
                None => read = None,
            }
        }
        read
    }

    fn absent() -> Option<Self> {
        Some(Self::new())
    }

    fn write(&self) -> Option<Json> {
        let entries = self.iter().filter_map(|(key, value)| Some((key.clone(), value.write()?))).collect();
        if self.is_empty() { None } else { Some(Json::Object(entries)) }
    }
}

/// Reads one of few texts; those that are refused come with the reason.
pub(crate) fn one_of<T: Copy>(
    node: &Node,
    known: &[(&str, T)],
    refused: &[(&str, &str)],
    at: &At,
    report: &mut Report,
) -> Option<T> {
    let Value::Text(text) = &node.value else {
        wrong_type(node, "a string", at, report);
        return None;
    };
    let found = known.iter().find(|(name, _)| name == text);
    if found.is_none() {
        match refused.iter().find(|(name, _)| name == text) {
            Some((name, reason)) => report.refused(at, &format!("{name:?}: {reason}")),
            None => report.unsupported(at, text, &known.iter().map(|(name, _)| *name).collect::<Vec<_>>()),
        }
    }
    found.map(|(_, value)| *value)
}

/// Declares a string of which Kubernetes knows only a few.
macro_rules! choice {
    (
        $(#[$about:meta])+
        $name:ident { $( $(#[$doc:meta])+ $value:ident = $text:literal, )+ }
        $( refused { $( $no:literal => $reason:expr; )+ } )?
    ) => {
        $(#[$about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $( $(#[$doc])+ $value, )+
        }

        impl $name {
            /// Its name in a file.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $( Self::$value => $text, )+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl $crate::table::Read for $name {
            fn shape() -> $crate::table::Shape {
                $crate::table::Shape::Choice(&[$($text),+])
            }

            fn read(
                node: &$crate::yaml::Node,
                at: &$crate::place::At,
                report: &mut $crate::fault::Report,
            ) -> Option<Self> {
                let known = [$( ($text, Self::$value), )+];
                $crate::read::one_of(node, &known, &[$( $( ($no, $reason), )+ )?], at, report)
            }

            fn write(&self) -> Option<serde_json::Value> {
                Some(self.name().into())
            }

            fn is_absent(node: &$crate::yaml::Node) -> bool {
                $crate::read::no_text(node)
            }
        }
    };
}
pub(crate) use choice;
