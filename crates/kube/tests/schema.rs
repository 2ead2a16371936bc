//! The table knows every field that Kubernetes' own API has, and no other: `k8s-openapi` is generated from its OpenAPI.

use std::collections::{BTreeMap, BTreeSet};

use hyper_kube::{KINDS, Shape, Standing, Table};
use k8s_openapi::api::{apps, batch, core};
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

/// The types of Kubernetes' API by their name without the package.
fn api() -> BTreeMap<String, Value> {
    let mut generator = SchemaSettings::openapi3().into_generator();
    macro_rules! with {
        ($($type:ty),*) => { $( generator.subschema_for::<$type>(); )* };
    }
    with!(
        core::v1::Pod,
        core::v1::ConfigMap,
        core::v1::Secret,
        core::v1::PersistentVolumeClaim,
        core::v1::Service
    );
    with!(apps::v1::Deployment, apps::v1::ReplicaSet, apps::v1::StatefulSet, apps::v1::DaemonSet);
    with!(batch::v1::Job, batch::v1::CronJob);
    let definitions = generator.definitions().clone();
    let short = |name: String| name.rsplit('.').next().expect("a name").to_owned();
    definitions.into_iter().map(|(name, schema)| (short(name), schema)).collect()
}

/// The types of the table by their name.
fn tables() -> BTreeMap<&'static str, &'static Table> {
    let mut all = BTreeMap::new();
    let mut todo: Vec<&Table> = KINDS.iter().map(|kind| kind.table).collect();
    while let Some(table) = todo.pop() {
        if all.insert(table.name, table).is_none() {
            todo.extend(table.rows.iter().filter_map(|row| below(row.shape?())));
        }
    }
    all
}

fn below(shape: Shape) -> Option<&'static Table> {
    match shape {
        Shape::Table(table) => Some(table),
        Shape::List(of) | Shape::Map(of) => below(of()),
        _ => None,
    }
}

fn fields(schema: &Value) -> Map<String, Value> {
    schema["properties"].as_object().cloned().unwrap_or_default()
}

/// What Kubernetes says a value is: the name of its type, or a word for a simple one.
fn theirs(schema: &Value) -> String {
    let reference = schema.get("$ref").or_else(|| schema["allOf"].get(0)?.get("$ref"));
    if let Some(name) = reference.and_then(Value::as_str) {
        return name.rsplit(['.', '/']).next().expect("a name").to_owned();
    }
    match schema["type"].as_str().expect("a type") {
        "array" => format!("list of {}", theirs(&schema["items"])),
        "object" => format!("map to {}", theirs(&schema["additionalProperties"])),
        "integer" => schema["format"].as_str().expect("bits").to_owned(),
        "string" if schema["format"] == "byte" => "bytes".to_owned(),
        simple => simple.to_owned(),
    }
}

/// The same of the table's.
fn ours(shape: Shape) -> String {
    match shape {
        Shape::Text | Shape::Choice(_) | Shape::Schedule => "string".to_owned(),
        Shape::Bool => "boolean".to_owned(),
        Shape::Integer(bits) => format!("int{bits}"),
        Shape::Quantity => "Quantity".to_owned(),
        Shape::IntOrString => "IntOrString".to_owned(),
        Shape::Base64 => "bytes".to_owned(),
        Shape::List(of) => format!("list of {}", ours(of())),
        Shape::Map(of) => format!("map to {}", ours(of())),
        Shape::Table(table) => table.name.to_owned(),
        Shape::Any => "anything".to_owned(),
    }
}

#[test]
fn every_field_of_kubernetes_is_known_and_no_other() {
    let api = api();
    let mut wrong = Vec::new();
    for (name, table) in tables() {
        let Some(schema) = api.get(name) else {
            wrong.push(format!("{name} is no type of Kubernetes"));
            continue;
        };
        let known: BTreeSet<String> = table.rows.iter().map(|row| row.name.to_owned()).collect();
        assert_eq!(known.len(), table.rows.len(), "{name} has a field twice");
        let there: BTreeSet<String> = fields(schema).into_iter().map(|(field, _)| field).collect();
        wrong.extend(there.difference(&known).map(|field| format!("{name}.{field} is not known")));
        wrong.extend(known.difference(&there).map(|field| format!("{name}.{field} is not Kubernetes'")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_value_is_of_the_type_that_kubernetes_has() {
    let api = api();
    let mut wrong = Vec::new();
    for (name, table) in tables() {
        let fields = fields(&api[name]);
        for row in table.rows {
            let (Some(shape), Some(schema)) = (row.shape, fields.get(row.name)) else { continue };
            let (ours, theirs) = (ours(shape()), theirs(schema));
            // Not looked into: what is a server's, and dropped.
            let fits = ours == theirs || ours.ends_with("anything");
            if !fits {
                wrong.push(format!("{name}.{}: {ours} is {theirs}", row.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_kubernetes_requires_is_required() {
    let api = api();
    // Empty values are values to Kubernetes, or its tools leave them out.
    let lenient = ["HTTPHeader.value", "CronJob.spec", "ConfigMap.metadata"];
    let mut wrong = Vec::new();
    for (name, table) in tables() {
        for field in api[name]["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let Some(row) = table.rows.iter().find(|row| row.name == field) else { continue };
            let list = row.shape.is_some_and(|shape| matches!(shape(), Shape::List(_) | Shape::Map(_)));
            let checked = row.required || list || row.standing != Standing::Supported;
            if !checked && !lenient.contains(&format!("{name}.{field}").as_str()) {
                wrong.push(format!("{name}.{field} is required"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
