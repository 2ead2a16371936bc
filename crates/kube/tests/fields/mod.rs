//! Every field of the table, in a document around it.

use std::collections::BTreeSet;

use hyper_kube::{KINDS, Row, Shape, Table};
use serde_json::{Map, Value, json};

/// A field, and what the document around it is.
pub struct Place<'a> {
    pub kind: &'static str,
    pub version: &'static str,
    /// From the top: the type, its field, and how its value holds the next type.
    pub steps: &'a [(&'static Table, &'static Row)],
}

/// A value of the right type.
pub fn right(shape: Shape) -> Value {
    match shape {
        Shape::Text => json!("a"),
        Shape::Bool => json!(true),
        Shape::Integer(_) => json!(1),
        Shape::Quantity => json!("1"),
        Shape::IntOrString => json!(80),
        Shape::Base64 => json!("YQ=="),
        Shape::Schedule => json!("@daily"),
        Shape::Choice(of) => json!(of[0]),
        Shape::List(of) => json!([right(of())]),
        Shape::Map(of) => json!({ "a": right(of()) }),
        Shape::Table(table) => Value::Object(filled(table)),
        Shape::Any => json!("a"),
    }
}

/// All that a type requires.
fn filled(table: &Table) -> Map<String, Value> {
    let rows = table.rows.iter().filter(|row| row.required);
    rows.filter_map(|row| Some((row.name.to_owned(), right(row.shape?())))).collect()
}

/// A value in the innermost place of something that holds a type.
fn holding(shape: Shape, inner: Value) -> Value {
    match shape {
        Shape::List(of) => json!([holding(of(), inner)]),
        Shape::Map(of) => json!({ "k": holding(of(), inner) }),
        _ => inner,
    }
}

impl Place<'_> {
    /// The path of the field.
    pub fn path(&self) -> String {
        let mut path = String::new();
        for (number, (_, row)) in self.steps.iter().enumerate() {
            path.push_str(if number > 0 { "." } else { "" });
            path.push_str(row.name);
            let last = number + 1 == self.steps.len();
            let mut shape = row.shape.map(|shape| shape()).filter(|_| !last);
            while let Some(Shape::List(of) | Shape::Map(of)) = shape {
                path.push_str(if matches!(shape, Some(Shape::List(_))) { "[0]" } else { "[k]" });
                shape = Some(of());
            }
        }
        path
    }

    /// The document in which the field has a value; `name` is what the field is called in it.
    pub fn with(&self, name: &str, value: Value) -> Value {
        let mut value = Some(value);
        for (number, (table, row)) in self.steps.iter().enumerate().rev() {
            let mut map = filled(table);
            let last = number + 1 == self.steps.len();
            let (name, inner) = match last {
                true => (name, value.take().expect("set")),
                false => (row.name, holding(row.shape.expect("a type")(), value.take().expect("set"))),
            };
            map.insert(name.to_owned(), inner);
            if number == 0 {
                map.entry("kind").or_insert(json!(self.kind));
                map.entry("apiVersion").or_insert(json!(self.version));
            }
            value = Some(Value::Object(map));
        }
        value.expect("a document")
    }
}

/// Calls `check` for every field of every type, once a type.
pub fn everywhere(check: impl Fn(&Place<'_>, &Row)) {
    fn walk(
        kind: &'static hyper_kube::Kind,
        table: &'static Table,
        steps: &mut Vec<(&'static Table, &'static Row)>,
        seen: &mut BTreeSet<&'static str>,
        check: &dyn Fn(&Place<'_>, &Row),
    ) {
        if !seen.insert(table.name) {
            return;
        }
        for row in table.rows {
            steps.push((table, row));
            check(&Place { kind: kind.name, version: kind.version, steps }, row);
            let mut shape = row.shape.map(|shape| shape());
            while let Some(Shape::List(of) | Shape::Map(of)) = shape {
                shape = Some(of());
            }
            if let Some(Shape::Table(below)) = shape {
                walk(kind, below, steps, seen, check);
            }
            steps.pop();
        }
    }
    let mut seen = BTreeSet::new();
    for kind in KINDS {
        walk(kind, kind.table, &mut Vec::new(), &mut seen, &check);
    }
    assert!(seen.len() > 90, "{} types", seen.len());
}
