//! From files to checked objects.

use std::collections::HashMap;
use std::fmt;

use crate::fault::{Fault, Problem, Report, quoted};
use crate::place::{At, Place};
use crate::table::{Read, Table, nearest};
use crate::yaml::{self, Node, Value};
use crate::{check, defaults, model};

/// A kind of object that is played.
#[derive(Debug)]
pub struct Kind {
    /// Its name.
    pub name: &'static str,
    /// The version of its format.
    pub version: &'static str,
    /// Its fields.
    pub table: &'static Table,
}

macro_rules! kinds {
    ($($kind:ident in $version:literal;)*) => {
        /// The kinds that are played.
        pub const KINDS: &[Kind] = &[
            $( Kind { name: stringify!($kind), version: $version, table: model::$kind::TABLE }, )*
        ];

        /// An object of one of the kinds that are played.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs, reason = "each is told of at its type")]
        pub enum Object {
            $( $kind(Box<model::$kind>), )*
        }

        impl Object {
            /// The name of its kind.
            #[must_use]
            pub fn kind(&self) -> &'static str {
                match self {
                    $( Self::$kind(_) => stringify!($kind), )*
                }
            }

            /// Its name and labels.
            #[must_use]
            pub fn metadata(&self) -> &model::ObjectMeta {
                match self {
                    $( Self::$kind(object) => &object.metadata, )*
                }
            }

            fn write(&self) -> Option<serde_json::Value> {
                match self {
                    $( Self::$kind(object) => object.write(), )*
                }
            }

            fn read(kind: &str, node: &Node, report: &mut Report) -> Option<Self> {
                match kind {
                    $( stringify!($kind) => {
                        model::$kind::read(node, &At::top(), report).map(Box::new).map(Self::$kind)
                    } )*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    Pod in "v1";
    Deployment in "apps/v1";
    ReplicaSet in "apps/v1";
    StatefulSet in "apps/v1";
    DaemonSet in "apps/v1";
    Job in "batch/v1";
    CronJob in "batch/v1";
    ConfigMap in "v1";
    Secret in "v1";
    PersistentVolumeClaim in "v1";
    Service in "v1";
}

impl Object {
    /// Its name. One that was loaded has one.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or_default()
    }

    /// As JSON that loads to the same object: what Hyper knows of it, with its defaults.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let mut json = self.write().unwrap_or_default();
        if let Some(kind) = KINDS.iter().find(|kind| kind.name == self.kind()) {
            json["apiVersion"] = kind.version.into();
            json["kind"] = kind.name.into();
        }
        json
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), quoted(self.name()))
    }
}

/// An object of a file, and where everything of it stands.
#[derive(Clone, Debug)]
pub struct Document {
    /// The file, as the caller named it.
    pub file: String,
    /// The object: sound, and with all defaults.
    pub object: Object,
    root: Node,
}

impl Document {
    /// Where the object begins.
    #[must_use]
    pub fn place(&self) -> Place {
        self.root.place
    }

    /// Where a field stands, given its path (`spec.containers[0].image`), or the nearest that is there of what it would
    /// be in.
    #[must_use]
    pub fn place_of(&self, path: &str) -> Place {
        self.root.nearest(&At::parse(path))
    }

    /// Something that turned out to be wrong with a field only when the object was played.
    #[must_use]
    pub fn fault(&self, path: &str, problem: Problem) -> Fault {
        Fault {
            file: self.file.clone(),
            place: self.place_of(path),
            object: self.object.to_string(),
            path: path.to_owned(),
            problem,
        }
    }
}

/// What files hold.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The objects, in the order of the files.
    pub documents: Vec<Document>,
    /// What is odd about them.
    pub warnings: Vec<Fault>,
}

/// What is wrong with files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    /// What is wrong, in the order of the files; at least one.
    pub faults: Vec<Fault>,
    /// What is odd.
    pub warnings: Vec<Fault>,
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, fault) in self.faults.iter().enumerate() {
            write!(f, "{}{fault}", if number > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Loads files, YAML or JSON, each with the name that faults call it by.
///
/// # Errors
/// All that is wrong with any of them, also with what they hold together: an object that is there twice.
pub fn load<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<Loaded, Faults> {
    let (mut loaded, mut faults) = (Loaded::default(), Vec::new());
    for (file, bytes) in files {
        match yaml::documents(bytes) {
            Ok(roots) => roots.into_iter().for_each(|root| object(file, root, &mut loaded, &mut faults)),
            Err(yaml::Fault { place, message }) => faults.push(Fault {
                file: file.to_owned(),
                place,
                object: String::new(),
                path: String::new(),
                problem: Problem::Syntax(message),
            }),
        }
    }
    faults.extend(twins(&loaded.documents));
    let warnings = std::mem::take(&mut loaded.warnings);
    if faults.is_empty() { Ok(Loaded { warnings, ..loaded }) } else { Err(Faults { faults, warnings }) }
}

/// Loads the object of one document, or the objects of a list.
fn object(file: &str, root: Node, loaded: &mut Loaded, faults: &mut Vec<Fault>) {
    let mut report = Report::new(file, &root);
    let read = kind(&root, &mut report).and_then(|kind| match kind {
        Some(kind) => {
            let name = root.get("metadata").and_then(|metadata| metadata.text("name")).unwrap_or_default();
            report.object = format!("{kind} {}", quoted(name));
            let mut object = Object::read(kind, &root, &mut report).filter(|_| report.is_sound())?;
            defaults::complete(&mut object);
            check::object(&object, &mut report);
            Some(Some(object))
        }
        None => list(&root, &mut report).then_some(None),
    });
    let sound = report.is_sound();
    let (wrong, odd) = report.into_parts();
    faults.extend(wrong);
    loaded.warnings.extend(odd);
    match read {
        Some(Some(object)) if sound => {
            loaded.documents.push(Document { file: file.to_owned(), object, root });
        }
        Some(None) => {
            let Value::Map(entries) = root.value else { return };
            for (_, items) in entries.into_iter().filter(|(key, _)| key.name == "items") {
                let Value::List(items) = items.value else { return };
                items.into_iter().for_each(|item| object(file, item, loaded, faults));
            }
        }
        _ => {}
    }
}

/// The kind of an object, inner `None` for a list.
fn kind(root: &Node, report: &mut Report) -> Option<Option<&'static str>> {
    if !matches!(root.value, Value::Map(_)) {
        crate::table::wrong_type(root, "a map", &At::top(), report);
        return None;
    }
    let (kind_at, version_at) = (At::top().field("kind"), At::top().field("apiVersion"));
    let kind = crate::table::read_field::<String>(root, "kind", None, &At::top(), report);
    let version = crate::table::read_field::<String>(root, "apiVersion", None, &At::top(), report);
    let (kind, version) = (kind?, version?);
    let known = KINDS.iter().find(|known| known.name == kind);
    match known {
        Some(known) if known.version == version => Some(Some(known.name)),
        Some(known) => {
            report.unsupported(&version_at, &version, &[known.version]);
            None
        }
        None if version == "v1" && kind == "List" => Some(None),
        None if KINDS
            .iter()
            .any(|known| known.version == version && kind == format!("{}List", known.name)) =>
        {
            Some(None)
        }
        None => {
            let names: Vec<&str> = KINDS.iter().map(|known| known.name).collect();
            let hint = match nearest(&kind, names.iter().copied()) {
                Some(name) => format!("did you mean {name:?}?"),
                None => format!("played are {}", names.join(", ")),
            };
            report.refused(&kind_at, &format!("kind {}: {hint}", quoted(&kind)));
            None
        }
    }
}

/// Whether a list is sound but for what it holds, which is looked at one by one.
fn list(root: &Node, report: &mut Report) -> bool {
    let Value::Map(entries) = &root.value else { return false };
    for (key, value) in entries {
        match (key.name.as_str(), &value.value) {
            ("items", Value::List(items)) => {
                let nested = |item: &Node| item.text("kind").is_some_and(|kind| kind.ends_with("List"));
                for index in (0..items.len()).filter(|index| nested(&items[*index])) {
                    let at = At::top().field("items").index(index).field("kind");
                    report.forbidden(&at, "a list within a list");
                }
            }
            ("items", Value::Null) | ("apiVersion" | "kind" | "metadata", _) => {}
            ("items", _) => crate::table::wrong_type(value, "a list", &At::top().field("items"), report),
            (name, _) => {
                let known = ["apiVersion", "kind", "metadata", "items"].into_iter();
                report.tell(&At::top().unknown(name), Problem::Unknown(nearest(name, known)));
            }
        }
    }
    report.is_sound()
}

/// Objects with the name of another one of their kind.
fn twins(documents: &[Document]) -> Vec<Fault> {
    let mut first: HashMap<_, &Document> = HashMap::new();
    let mut faults = Vec::new();
    for document in documents {
        let object = &document.object;
        let key = (object.kind(), object.metadata().namespace.as_str(), object.name());
        if let Some(other) = first.get(&key) {
            let name = quoted(object.name());
            let value =
                format!("{name} is the name of the {} in {}:{}", object.kind(), other.file, other.place());
            faults.push(document.fault("metadata.name", Problem::Duplicate(value)));
        } else {
            first.insert(key, document);
        }
    }
    faults
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
