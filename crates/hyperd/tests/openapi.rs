//! `docs/api.json` and the endpoints of our own say the same.
#![allow(clippy::unwrap_used, reason = "tests say what they expect by unwrapping")]

use std::collections::BTreeSet;

use serde_json::Value;

const ROUTES: &str = include_str!("../src/route.rs");
const PODS: &str = include_str!("../src/api/pod.rs");
const TEMPLATES: &str = include_str!("../src/api/template.rs");

fn document() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/api.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// What lies between two texts.
fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    let (_, rest) = text.split_once(begin).unwrap_or_else(|| panic!("there is no {begin:?}"));
    rest.split_once(end).map_or(rest, |(found, _)| found)
}

/// The quoted words of a text.
fn quoted(text: &str) -> Vec<&str> {
    text.split('"').skip(1).step_by(2).collect()
}

/// `METHOD /hyper/path` of every arm of the table of our own endpoints.
fn routes() -> BTreeSet<String> {
    let table = between(ROUTES, "async fn own(", "\n}\n");
    let arms = table.lines().filter_map(|line| line.trim().strip_prefix('(')?.split_once("]) =>"));
    arms.flat_map(|(arm, _)| {
        let (methods, path) = arm.split_once(", [").unwrap();
        let parts: Vec<String> = path
            .split(", ")
            .map(|part| match quoted(part).first() {
                Some(word) => (*word).to_owned(),
                None => format!("{{{part}}}"),
            })
            .collect();
        let path = parts.join("/");
        quoted(methods).into_iter().map(move |method| format!("{method} /hyper/{path}")).collect::<Vec<_>>()
    })
    .collect()
}

/// Every operation of the document.
fn operations(document: &Value) -> Vec<(String, String, &Value)> {
    let paths = document["paths"].as_object().unwrap().iter();
    paths
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap().iter();
            methods.map(move |(method, operation)| (method.to_uppercase(), path.clone(), operation))
        })
        .collect()
}

#[test]
fn every_endpoint_of_our_own_is_documented_and_the_other_way() {
    let document = document();
    let documented: BTreeSet<String> =
        operations(&document).iter().map(|(method, path, _)| format!("{method} {path}")).collect();
    let routes = routes();
    assert!(routes.len() > 20, "the table is understood: {routes:?}");
    let missing: Vec<_> = routes.difference(&documented).collect();
    let gone: Vec<_> = documented.difference(&routes).collect();
    assert!(
        missing.is_empty() && gone.is_empty(),
        "to add to docs/api.json: {missing:?}; to remove: {gone:?}"
    );
}

#[test]
fn what_a_document_needs_is_there() {
    let document = document();
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.")));
    for (method, path, operation) in operations(&document) {
        let context = format!("{method} {path}");
        assert!(operation["summary"].is_string(), "{context}");
        let responses = operation["responses"].as_object().unwrap();
        assert!(responses.keys().any(|status| status.starts_with('2')), "{context}");
        assert!(responses.values().all(|response| response["description"].is_string()), "{context}");
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let declared: BTreeSet<&str> = parameters
            .iter()
            .filter(|parameter| parameter["in"] == "path" && parameter["required"] == true)
            .map(|parameter| parameter["name"].as_str().unwrap())
            .collect();
        let used: BTreeSet<&str> =
            path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
        assert_eq!(declared, used, "{context}");
    }
}

#[test]
fn every_reference_leads_somewhere() {
    fn look(value: &Value, document: &Value) {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        match value {
            Value::Object(fields) => fields.values().for_each(|field| look(field, document)),
            Value::Array(items) => items.iter().for_each(|item| look(item, document)),
            _ => {}
        }
    }
    let document = document();
    look(&document, &document);
}

#[test]
fn bodies_have_the_fields_that_are_read() {
    let document = document();
    for (source, handler, schema) in [
        (PODS, "async fn create(", "PodCreate"),
        (PODS, "async fn update(", "PodUpdate"),
        (TEMPLATES, "async fn create(", "TemplateCreate"),
    ] {
        let create = between(source, handler, "fields.finish()");
        let read: BTreeSet<&str> = create
            .split("fields.")
            .skip(1)
            .filter_map(|call| {
                quoted(call.split_once("\")").map_or(call, |(call, _)| call)).into_iter().next()
            })
            .collect();
        let known = document["components"]["schemas"][schema]["properties"].as_object().unwrap();
        assert_eq!(read, known.keys().map(String::as_str).collect(), "{schema}");
    }
}
