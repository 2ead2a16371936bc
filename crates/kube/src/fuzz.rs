//! Any file is objects or faults, soon.

use crate::{Object, load};

/// Files that are sound, with most of what there is.
const GOOD: [&str; 3] = [
    include_str!("../tests/files/trio.yaml"),
    include_str!("../tests/files/odds.yaml"),
    include_str!("../tests/files/pod.json"),
];

/// What means something to the parser or to a check.
const TOKENS: [&str; 44] = [
    "&a ",
    "*a",
    "<<: ",
    "!!str ",
    "!!int ",
    "!!binary ",
    "? ",
    "---\n",
    "...\n",
    "%YAML 1.1\n",
    "|\n",
    ">-\n",
    "- ",
    ": ",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "'",
    "\\ud83d",
    "\\u0000",
    "\t",
    "\u{feff}",
    "null",
    "~",
    "yes",
    "0x7f",
    "0777",
    ".5",
    "1e999",
    "-1",
    "9223372036854775808",
    "1Ki",
    "100Ei",
    "1e-400",
    "$(A)",
    "$$",
    "../..",
    "/",
    "*/5",
    "@every 1h",
    "kind: List\n",
    "metadata.labels['a']",
];

fn any(text: &[u8]) {
    match load([("file", text)]) {
        Ok(loaded) => {
            for document in &loaded.documents {
                assert!(!document.object.name().is_empty());
                let place = document.place_of("spec.template.spec.containers[0].image");
                assert!(place.line > 0 && place.column > 0);
                let json = document.object.to_json();
                let again = load([("again", json.to_string().as_bytes())]);
                let again = again.unwrap_or_else(|faults| panic!("{faults}\n{json}"));
                assert_eq!(again.documents[0].object.to_json(), json);
                if let Object::Pod(pod) = &document.object {
                    assert!(!pod.spec.containers.is_empty());
                    assert!(pod.spec.volumes.iter().all(|volume| volume.sources().len() == 1));
                }
            }
        }
        Err(faults) => {
            assert!(!faults.faults.is_empty());
            for fault in &faults.faults {
                assert!(fault.place.line > 0 && fault.place.column > 0, "{fault}");
                assert!(fault.to_string().len() < 4096, "{fault}");
            }
        }
    }
}

#[test]
fn fuzz_files() {
    let good: Vec<Vec<u8>> = GOOD.iter().map(|text| text.as_bytes().to_vec()).collect();
    let tokens: Vec<&[u8]> = TOKENS.iter().map(|token| token.as_bytes()).collect();
    hyper_fuzz::bytes(&good, &tokens, any);
}

#[test]
fn fuzz_objects() {
    let pod: serde_json::Value = serde_json::from_str(GOOD[2]).expect("JSON");
    let more = serde_json::json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "labels": {"a": "b"}},
        "spec": {"clusterIP": "None", "ports": [{"port": 80, "targetPort": "http", "name": "a"}], "selector": {"a": "b"}}
    });
    hyper_fuzz::json(&[pod, more], |value| any(value.to_string().as_bytes()));
}
