//! The table of what is known: each type of Kubernetes with all its fields, and how Hyper stands to each.
//!
//! [`table!`] makes of one declaration the type that carries the supported fields, what reads it, and the rows that
//! `docs/kube.md` and the tests are made from: a field that is called supported is one that the model carries.

use crate::fault::Report;
use crate::place::At;
use crate::yaml::{Node, Value};

/// A type of Kubernetes.
#[derive(Debug)]
pub struct Table {
    /// Its name in Kubernetes' API.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// All its fields.
    pub rows: &'static [Row],
}

/// A field of a type.
#[derive(Debug)]
pub struct Row {
    /// Its name in a file.
    pub name: &'static str,
    /// What it is for; empty where it is not supported.
    pub about: &'static str,
    /// What its value is; of a refused field nothing is known.
    pub shape: Option<fn() -> Shape>,
    /// Whether it has to be there.
    pub required: bool,
    /// What it is when it is not there, if that is a constant.
    pub default: Option<fn() -> String>,
    /// How Hyper stands to it.
    pub standing: Standing,
}

/// How Hyper stands to a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Standing {
    /// Carried by the model.
    Supported,
    /// An error, with this reason, but for a value that asks for nothing.
    Refused(&'static str, Option<Harmless>),
    /// A warning, with this reason, but for a value that asks for nothing. The value is checked and dropped.
    Warned(&'static str, Option<Harmless>),
}

/// A value of a field that is not supported which is no different from leaving it out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Harmless {
    /// This truth.
    Is(bool),
    /// This text.
    Text(&'static str),
    /// This number.
    Number(i64),
    /// A list or a map with nothing in it.
    Empty,
}

/// What a value is.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// A string.
    Text,
    /// A boolean.
    Bool,
    /// An integer of so many bits.
    Integer(u32),
    /// A quantity: a number with a unit, or a plain number.
    Quantity,
    /// An integer or a string.
    IntOrString,
    /// Bytes in base64.
    Base64,
    /// A string with a schedule of cron.
    Schedule,
    /// One of these texts.
    Choice(&'static [&'static str]),
    /// A list of it.
    List(fn() -> Shape),
    /// A map from names to it.
    Map(fn() -> Shape),
    /// A map with the fields of a type.
    Table(&'static Table),
    /// Anything: it is not looked into.
    Any,
}

/// What can be a field's value: read from a file, and written to one.
pub(crate) trait Read: Sized {
    /// What it is.
    fn shape() -> Shape;

    /// Reads it. What is wrong is told, and then there is no value.
    fn read(node: &Node, at: &At, report: &mut Report) -> Option<Self>;

    /// Whether it must be there.
    const NEEDED: bool = true;

    /// What it is when it is not there; `None` if it must be.
    fn absent() -> Option<Self> {
        None
    }

    /// As it is written to a file; `None` where nothing is.
    fn write(&self) -> Option<serde_json::Value>;

    /// Whether this value is the same as none, as Go's zero values are to Kubernetes.
    fn is_absent(node: &Node) -> bool {
        node.value == Value::Null
    }
}

impl Harmless {
    fn matches(self, value: &Value) -> bool {
        match (self, value) {
            (Self::Is(truth), Value::Bool(value)) => truth == *value,
            (Self::Text(text), Value::Text(value)) => text == value,
            (Self::Number(number), Value::Integer(value)) => i128::from(number) == *value,
            (Self::Empty, Value::List(items)) => items.is_empty(),
            (Self::Empty, Value::Map(entries)) => entries.is_empty(),
            _ => false,
        }
    }
}

/// Looks through the keys of a map for what the type has not, or what is not supported of it.
///
/// # Errors
/// `None`, when it is no map.
pub(crate) fn check_keys(node: &Node, table: &'static Table, at: &At, report: &mut Report) -> Option<()> {
    let Value::Map(entries) = &node.value else {
        wrong_type(node, "a map", at, report);
        return None;
    };
    for (key, value) in entries {
        let Some(row) = table.rows.iter().find(|row| row.name == key.name) else {
            // Looking for one takes long, when there are very many keys.
            let names = table.rows.iter().map(|row| row.name);
            let nearest = if report.is_full() { None } else { nearest(&key.name, names) };
            report.tell(&at.unknown(&key.name), crate::Problem::Unknown(nearest));
            continue;
        };
        let there = at.field(row.name);
        let asks = |harmless: Option<Harmless>| {
            value.value != Value::Null && !harmless.is_some_and(|harmless| harmless.matches(&value.value))
        };
        match row.standing {
            Standing::Refused(reason, harmless) if asks(harmless) => report.refused(&there, reason),
            Standing::Warned(reason, harmless) if asks(harmless) => {
                report.warn(&there, crate::Problem::Ignored(reason.to_owned()));
            }
            _ => {}
        }
    }
    Some(())
}

/// Reads one field of a map.
pub(crate) fn read_field<T: Read>(
    node: &Node,
    name: &'static str,
    default: Option<T>,
    at: &At,
    report: &mut Report,
) -> Option<T> {
    let at = at.field(name);
    match node.get(name).filter(|value| !T::is_absent(value)) {
        Some(value) => T::read(value, &at, report),
        None => default.or_else(T::absent).or_else(|| {
            report.required(&at, "");
            None
        }),
    }
}

/// Tells that a value is of another type than is wanted, and what may be the cause.
pub(crate) fn wrong_type(node: &Node, wanted: &str, at: &At, report: &mut Report) {
    let found = match (&node.value, wanted) {
        (Value::Bool(_), "a string") => {
            "a boolean (unquoted, words like true, yes, on and y are; put it into quotes)".to_owned()
        }
        (Value::Integer(_) | Value::Float(_), "a string") => {
            format!("{} (put it into quotes)", node.value.kind())
        }
        (value, _) => value.kind().to_owned(),
    };
    report.tell(at, crate::Problem::Type { wanted: wanted.to_owned(), found });
}

/// The known name that one that is not known is likely to mean.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    const NEAR: f64 = 0.75;
    if name.chars().count() > 64 {
        return None;
    }
    let lower = name.to_lowercase();
    let rated = known.map(|one| (strsim::damerau_levenshtein(&lower, &one.to_lowercase()), one));
    let (distance, best) = rated.min_by_key(|(distance, _)| *distance)?;
    let longest = name.chars().count().max(best.chars().count());
    let near = 1.0 - distance as f64 / longest as f64;
    (near >= NEAR || distance == 1).then(|| best.to_owned())
}

/// Declares a type of Kubernetes. See the module's text.
macro_rules! table {
    (
        $(#[doc = $about:literal])+
        $name:ident {
            $( $(#[doc = $doc:literal])+ $json:literal $field:ident: $type:ty $(= $default:expr)?; )*
        }
        $( refused { $( $no:literal => $why_not:expr $(, unless $harmless:expr)?; )* } )?
        $( warned { $( $odd:literal: $odd_type:ty => $why:expr $(, unless $fine:expr)?; )* } )?
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $( $(#[doc = $doc])+ pub $field: $type, )*
        }

        impl $name {
            /// What is known of this type.
            pub const TABLE: &'static $crate::table::Table = &$crate::table::Table {
                name: stringify!($name),
                about: concat!($($about),+),
                rows: &[
                    $( $crate::table::Row {
                        name: $json,
                        about: concat!($($doc),+),
                        shape: Some(<$type as $crate::table::Read>::shape),
                        required: $crate::table::table!(@required $type $(= $default)?),
                        default: $crate::table::table!(@default $type $(= $default)?),
                        standing: $crate::table::Standing::Supported,
                    }, )*
                    $( $( $crate::table::Row {
                        name: $no,
                        about: "",
                        shape: None,
                        required: false,
                        default: None,
                        standing: $crate::table::Standing::Refused(
                            $why_not, $crate::table::table!(@option $($harmless)?)),
                    }, )* )?
                    $( $( $crate::table::Row {
                        name: $odd,
                        about: "",
                        shape: Some(<$odd_type as $crate::table::Read>::shape),
                        required: false,
                        default: None,
                        standing: $crate::table::Standing::Warned(
                            $why, $crate::table::table!(@option $($fine)?)),
                    }, )* )?
                ],
            };
        }

        impl $crate::table::Read for $name {
            fn shape() -> $crate::table::Shape {
                $crate::table::Shape::Table(Self::TABLE)
            }

            #[allow(unused_variables, reason = "a type may have no supported field")]
            fn read(
                node: &$crate::yaml::Node,
                at: &$crate::place::At,
                report: &mut $crate::fault::Report,
            ) -> Option<Self> {
                $crate::table::check_keys(node, Self::TABLE, at, report)?;
                $( let $field = $crate::table::read_field::<$type>(
                    node, $json, $crate::table::table!(@option $($default)?), at, report); )*
                $( $( $crate::table::read_field::<Option<$odd_type>>(node, $odd, None, at, report)?; )* )?
                Some(Self { $( $field: $field?, )* })
            }

            fn write(&self) -> Option<serde_json::Value> {
                #[allow(unused_mut, reason = "a type may have no supported field")]
                let mut fields = serde_json::Map::new();
                $( if let Some(value) = self.$field.write() {
                    fields.insert($json.to_owned(), value);
                } )*
                Some(serde_json::Value::Object(fields))
            }
        }
    };
    (@option) => { None };
    (@option $value:expr) => { Some($value) };
    (@required $type:ty) => { <$type as $crate::table::Read>::NEEDED };
    (@required $type:ty = $default:expr) => { false };
    (@default $type:ty) => { None };
    (@default $type:ty = $default:expr) => { Some(|| { let value: $type = $default; value.to_string() }) };
}
pub(crate) use table;
