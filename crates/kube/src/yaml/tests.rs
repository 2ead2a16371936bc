use super::*;

fn one(text: &str) -> Node {
    let mut documents = documents(text.as_bytes()).unwrap();
    assert_eq!(documents.len(), 1, "{text}");
    documents.remove(0)
}

fn fault(text: &str) -> String {
    let fault = documents(text.as_bytes()).unwrap_err();
    format!("{}: {}", fault.place, fault.message)
}

#[test]
fn values_know_their_places() {
    let node = one("kind: Pod\nspec:\n  containers:\n  - name: a\n    args: [x, 5]\n");
    let at = crate::place::At::top().field("spec").field("containers").index(0);
    assert_eq!(node.nearest(&at).to_string(), "4:5");
    assert_eq!(node.nearest(&at.field("args").index(1)).to_string(), "5:15");
    assert_eq!(node.nearest(&at.field("image")).to_string(), "4:5");
    let spec = crate::place::At::top().field("spec");
    assert_eq!(node.nearest(&spec).to_string(), "2:1");
}

#[test]
fn empty_documents_are_none() {
    assert_eq!(documents(b"---\n# nothing\n---\n---\na: 1\n...\n").unwrap().len(), 1);
    assert!(documents(b"").unwrap().is_empty());
    assert!(documents(b"\xef\xbb\xbf# only a comment").unwrap().is_empty());
}

#[test]
fn a_key_that_is_there_twice_is_an_error() {
    assert_eq!(fault("a: 1\nb: 2\na: 3\n"), "3:1: key \"a\" is already set in line 1");
    assert_eq!(fault("{\"a\": {\"b\": 1, \"b\": 1}}"), "1:16: key \"b\" is already set in line 1");
}

#[test]
fn keys_become_texts() {
    let node = one("1: a\non: b\nx: c\n");
    let Value::Map(entries) = &node.value else { panic!("{node:?}") };
    let names: Vec<_> = entries.iter().map(|(key, _)| (key.name.as_str(), key.was_bool)).collect();
    assert_eq!(names, [("1", false), ("true", true), ("x", false)]);
    assert_eq!(fault("[a]: 1"), "1:1: a key must be a string, not a list");
}

#[test]
fn tags_are_those_of_yaml() {
    let node = one("a: !!str 5\nb: !!int '5'\nc: !!binary aGk=\nd: ! 5\n");
    assert_eq!((node.text("a"), node.text("c"), node.text("d")), (Some("5"), Some("hi"), Some("5")));
    assert_eq!(node.get("b").unwrap().value, Value::Integer(5));
    assert_eq!(fault("a: !!int x"), "1:10: \"x\" is no !!int");
    assert_eq!(one("a: !mine 5").text("a"), Some("5"));
    assert!(fault("a: !!set {a}").contains("unknown tag \"tag:yaml.org,2002:set\""));
    assert_eq!(fault("a: .nan"), "1:4: .nan is a number that JSON does not have");
}

#[test]
fn aliases_and_merges_are_followed() {
    let node = one("base: &base {a: 1, b: 2}\nuse:\n  <<: *base\n  b: 3\nsame: *base\n");
    let used = node.get("use").unwrap();
    assert_eq!(used.get("a").unwrap().value, Value::Integer(1));
    assert_eq!(used.get("b").unwrap().value, Value::Integer(3));
    assert_eq!(node.get("same").unwrap().value, node.get("base").unwrap().value);
    assert!(fault("a: *nowhere").contains("anchor"));
    assert!(fault("<<: 5").contains("requires a map"));
}

#[test]
fn an_anchor_without_end_is_an_error() {
    assert_eq!(fault("a: &a [1, *a]"), "1:11: an alias to the value that it is in");
    assert_eq!(fault("&a b: &c {d: *c}"), "1:14: an alias to the value that it is in");
    assert!(fault("a: &a\n  <<: *a\n").contains("the value that it is in"));
}

#[test]
fn bombs_do_not_go_off() {
    let mut laughs = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for level in 1..20 {
        let below = format!("*a{}", level - 1);
        laughs.push_str(&format!("a{level}: &a{level} [{}]\n", [below.as_str(); 10].join(", ")));
    }
    assert!(fault(&laughs).contains("more than 400000 values"));
    let long = format!("a: &a {}\nb: [{}]", "x".repeat(1 << 20), ["*a"; 64].join(", "));
    assert!(fault(&long).contains("bytes, with what aliases stand for"));
    let merges = format!("{}x: {{<<: [{}]}}", laughs.lines().next().unwrap(), ["*a0"; 3].join(","));
    assert!(documents(merges.as_bytes()).is_err());
}

#[test]
fn depth_has_a_limit_whatever_it_is_made_of() {
    for text in ["[".repeat(100_000), "{a: ".repeat(100_000), "- ".repeat(100_000), "? ".repeat(100_000)] {
        assert!(documents(text.as_bytes()).is_err());
    }
    let mut chain = "a0: &a0 x\n".to_owned();
    for level in 1..200 {
        chain.push_str(&format!("a{level}: &a{level} [*a{}]\n", level - 1));
    }
    assert!(fault(&chain).contains("more than 100 levels"));
    let json = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
    assert!(documents(json.as_bytes()).is_err());
}

#[test]
fn size_and_number_have_limits() {
    assert!(fault(&" ".repeat((4 << 20) + 1)).contains("larger than 4194304 bytes"));
    assert!(fault(&"---\na\n".repeat(1001)).contains("more than 1000 documents"));
    assert!(fault(&format!("[{}]", "1,".repeat(500_000))).contains("more than 400000 values"));
}

#[test]
fn what_is_not_text_is_told_by_its_place() {
    let fault = documents(b"a: 1\nb: \xff\n").unwrap_err();
    assert_eq!(
        (fault.place.to_string(), fault.message.as_str()),
        ("2:4".to_owned(), "the file is not UTF-8 text")
    );
}

#[test]
fn json_is_read_as_json() {
    let node = one("{\n\t\"a\": \"\\ud83d\\ude00 \\\\ud83d \\/\",\n\t\"b\":{\"c\":yes}}"
        .replace("yes", "true")
        .as_str());
    assert_eq!(node.text("a"), Some("😀 \\ud83d /"));
    assert_eq!(node.get("b").unwrap().get("c").unwrap().value, Value::Bool(true));
    let many = documents(b"{\"a\":1}\n{\"a\":2} {\"a\":3}\n").unwrap();
    let places: Vec<_> = many.iter().map(|node| node.get("a").unwrap().place.to_string()).collect();
    assert_eq!(places, ["1:6", "2:6", "2:14"]);
    assert_eq!(one("{a: yes, b: x}").text("b"), Some("x"));
}

#[test]
fn errors_of_syntax_have_a_place() {
    assert!(fault("a: [1, 2\nb: 3").starts_with("2:"), "{}", fault("a: [1, 2\nb: 3"));
    assert!(fault("a: 'x\n").starts_with(['1', '2']));
    assert!(fault("a:\n\tb: 1").starts_with("2:"));
}

/// As JSON, numbers as they compare.
fn json(node: &Node) -> serde_json::Value {
    match &node.value {
        Value::Integer(number) => (*number as f64).into(),
        Value::Float(number) => (*number).into(),
        Value::Bool(truth) => (*truth).into(),
        Value::Text(text) => text.as_str().into(),
        _ => serde_json::Value::Null,
    }
}

/// `kubectl.txt` has what kubectl makes of a scalar: `kubectl label --local -f - a=b -o json` of a ConfigMap with it.
#[test]
fn scalars_are_what_kubectl_makes_of_them() {
    for line in include_str!("kubectl.txt").lines() {
        let (scalar, wanted) = line.split_once('\t').unwrap();
        let text = format!("a: {scalar}\n");
        let got = documents(text.as_bytes()).map(|documents| json(documents[0].get("a").unwrap()));
        match (got, wanted) {
            // YAML 1.2 has this escape, for the sake of JSON.
            (got, "error") if scalar == r#""\/""# => assert_eq!(got, Ok("/".into())),
            (got, "error") => assert!(got.is_err(), "{scalar}: {got:?}"),
            (Ok(got), wanted) => {
                let wanted: serde_json::Value = serde_json::from_str(wanted).unwrap();
                let wanted = wanted.as_f64().map_or(wanted.clone(), Into::into);
                assert_eq!(got, wanted, "{scalar}");
            }
            (Err(error), wanted) => panic!("{scalar}: {error:?} instead of {wanted}"),
        }
    }
}

/// Reads a JSON text with a string in it.
fn through_json(text: &str) -> Result<Option<String>, Fault> {
    let json = serde_json::json!({ "a": text }).to_string();
    documents(json.as_bytes()).map(|documents| documents[0].text("a").map(str::to_owned))
}

#[test]
fn every_character_can_be_in_a_string_of_json() {
    let every = (0..=u32::from(char::MAX)).filter_map(char::from_u32);
    for chunk in every.collect::<Vec<_>>().chunks(1 << 12) {
        let text: String = chunk.iter().collect();
        assert_eq!(through_json(&text), Ok(Some(text)));
    }
}

proptest::proptest! {
    #[test]
    fn every_string_of_json_is_what_it_is(text in proptest::arbitrary::any::<String>()) {
        proptest::prop_assert_eq!(through_json(&text), Ok(Some(text)));
    }
}
