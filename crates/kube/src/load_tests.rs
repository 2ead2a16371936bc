use super::*;

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
