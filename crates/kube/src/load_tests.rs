#[path = "../tests/fields/mod.rs"]
mod fields;

use serde_json::Value as Json;

use super::*;
use crate::{Row, Shape, Standing};

/// The sound objects of a text.
fn sound(text: &str) -> Loaded {
    load([("file.yaml", text.as_bytes())]).unwrap_or_else(|faults| panic!("{faults}\n{text}"))
}

/// What is wrong with a text, without the file's name.
fn faults(text: &str) -> Vec<String> {
    let faults = load([("file.yaml", text.as_bytes())]).expect_err(text);
    faults.faults.iter().map(|fault| fault.to_string().trim_start_matches("file.yaml:").to_owned()).collect()
}

const POD: &str = "\
apiVersion: v1
kind: Pod
metadata:
  name: web
spec:
  containers:
  - name: nginx
    image: nginx
";

#[test]
fn a_small_pod_is_sound_and_has_its_defaults() {
    let loaded = sound(POD);
    assert!(loaded.warnings.is_empty());
    let Object::Pod(pod) = &loaded.documents[0].object else { panic!("{loaded:?}") };
    assert_eq!(pod.metadata.namespace, "default");
    assert_eq!(pod.spec.termination_grace_period_seconds, 30);
    assert_eq!(pod.spec.restart_policy, model::RestartPolicy::Always);
    assert_eq!(pod.spec.containers[0].image_pull_policy, Some(model::PullPolicy::Always));
    assert_eq!(loaded.documents[0].object.to_string(), "Pod \"web\"");
    assert_eq!(loaded.documents[0].place_of("spec.containers[0].image").to_string(), "8:12");
}

#[test]
fn faults_name_file_line_object_and_field() {
    let text = POD.replace("    image: nginx", "    imagge: nginx\n    tty: 5");
    assert_eq!(
        faults(&text),
        [
            "8:13: Pod \"web\": spec.containers[0].imagge: unknown field, did you mean \"image\"?",
            "9:10: Pod \"web\": spec.containers[0].tty: expected a boolean, got an integer",
        ]
    );
}

#[test]
fn kinds_that_are_not_played_are_told_with_the_nearest() {
    assert_eq!(
        faults("apiVersion: apps/v1\nkind: Deploymnet\n"),
        ["2:7: kind: not supported: kind \"Deploymnet\": did you mean \"Deployment\"?"]
    );
    assert!(faults("apiVersion: v1\nkind: Namespace\n")[0].contains("played are Pod, Deployment,"));
    assert_eq!(
        faults("apiVersion: extensions/v1beta1\nkind: Deployment\n"),
        ["1:13: apiVersion: Unsupported value: \"extensions/v1beta1\": supported values: \"apps/v1\""]
    );
    assert_eq!(faults("a: 1"), ["1:1: kind: Required value", "1:1: apiVersion: Required value"]);
    assert_eq!(faults("- a"), ["1:1: expected a map, got a list"]);
    assert_eq!(faults("a: [1"), ["1:4: unclosed bracket '['"]);
}

#[test]
fn the_example_files_are_sound() {
    let trio = sound(include_str!("../tests/files/trio.yaml"));
    let kinds: Vec<_> = trio.documents.iter().map(|document| document.object.to_string()).collect();
    assert_eq!(
        kinds,
        [
            "ConfigMap \"nginx\"",
            "Secret \"database\"",
            "PersistentVolumeClaim \"data\"",
            "Service \"app\"",
            "Service \"database\"",
            "StatefulSet \"database\"",
            "Deployment \"web\"",
        ]
    );
    assert_eq!(trio.warnings, []);
    let odds = sound(include_str!("../tests/files/odds.yaml"));
    assert_eq!(odds.documents.len(), 5);
    let warned: Vec<_> = odds.warnings.iter().map(|fault| fault.path.as_str()).collect();
    assert_eq!(warned, ["spec.template.spec.tolerations"]);
    let json = sound(include_str!("../tests/files/pod.json"));
    let Object::Pod(pod) = &json.documents[0].object else { panic!("{json:?}") };
    assert_eq!(pod.metadata.annotations["smile"], "😀");
    assert_eq!(json.warnings, []);
}

/// The value at the place of a field.
fn at<'a>(document: &'a Json, place: &fields::Place<'_>) -> Option<&'a Json> {
    let mut value = document;
    for (number, (_, row)) in place.steps.iter().enumerate() {
        value = value.get(row.name)?;
        let mut shape = row.shape.map(|shape| shape()).filter(|_| number + 1 < place.steps.len());
        while let Some(Shape::List(of) | Shape::Map(of)) = shape {
            value = value.get(0).or_else(|| value.get("k"))?;
            shape = Some(of());
        }
    }
    Some(value)
}

#[test]
fn what_is_supported_is_carried() {
    fields::everywhere(|place, row: &Row| {
        let carried = place.steps.iter().all(|(_, row)| row.standing == Standing::Supported);
        let (Some(shape), true) = (row.shape, carried) else { return };
        let value = fields::right(shape());
        let document = place.with(row.name, value.clone());
        let root = yaml::documents(document.to_string().as_bytes()).unwrap().remove(0);
        let mut report = Report::new("file", &root);
        let object = Object::read(place.kind, &root, &mut report);
        let (faults, _) = report.into_parts();
        let object = object.unwrap_or_else(|| panic!("{}: {faults:?}", place.path()));
        let written = object.write().unwrap();
        match &value {
            // With defaults of fields that it did not have.
            Json::Object(_) | Json::Array(_) => {
                assert!(at(&written, place).is_some(), "{}: {written}", place.path())
            }
            _ => assert_eq!(at(&written, place), Some(&value), "{}", place.path()),
        }
    });
}

#[test]
fn what_is_written_loads_to_the_same() {
    for text in [
        include_str!("../tests/files/trio.yaml"),
        include_str!("../tests/files/odds.yaml"),
        include_str!("../tests/files/pod.json"),
    ] {
        for document in sound(text).documents {
            let written = document.object.to_json().to_string();
            let again = sound(&written);
            assert_eq!(again.warnings, [], "{written}");
            let mut object = again.documents.into_iter().next().unwrap().object.to_json();
            // What the file itself said of its kind may have been missing.
            object["kind"] = document.object.kind().into();
            assert_eq!(object, document.object.to_json());
        }
    }
}
