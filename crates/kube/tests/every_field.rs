//! What holds for every field of every type, derived from the table.

mod fields;

use fields::{Place, everywhere, right};
use hyper_kube::{Fault, Harmless, Problem, Row, Shape, Standing, load};
use serde_json::{Value, json};

/// All that is told of a document: faults and warnings.
fn told(document: &Value) -> (Vec<Fault>, Vec<Fault>) {
    match load([("file", document.to_string().as_bytes())]) {
        Ok(loaded) => (Vec::new(), loaded.warnings),
        Err(faults) => (faults.faults, faults.warnings),
    }
}

/// Values of wrong types, and where below the field they are.
fn wrong(shape: Shape) -> Vec<(Value, String)> {
    let here = |values: Value| {
        let values = values.as_array().expect("a list").clone();
        values.into_iter().map(|value| (value, String::new())).collect::<Vec<_>>()
    };
    let below = |of: fn() -> Shape, step: &str, within: &dyn Fn(Value) -> Value| {
        let mut inner = wrong(of());
        inner.push((Value::Null, String::new()));
        let nested = inner.into_iter().map(|(value, path)| (within(value), format!("{step}{path}")));
        nested.collect::<Vec<_>>()
    };
    match shape {
        Shape::Text => here(json!([true, 5, 1.5, ["a"], { "a": "b" }])),
        Shape::Bool => here(json!(["true", 1, [true], {}])),
        Shape::Integer(32) => here(json!(["5", true, 1.5, [1], {}, 1i64 << 40, -(1i64 << 40)])),
        Shape::Integer(_) => here(json!(["5", true, 1.5, [1], {}, 1e30])),
        Shape::Quantity => here(json!(["x", "1 Gi", true, ["1"], {}])),
        Shape::IntOrString => here(json!([true, 1.5, [1], {}, 1i64 << 40])),
        Shape::Base64 => here(json!([5, "%", true, ["YQ=="]])),
        Shape::Schedule => here(json!(["a b", "* * * *", 5, true, ["@daily"]])),
        Shape::Choice(_) => here(json!(["no-such-word", 5, true, ["a"], {}])),
        Shape::List(of) => {
            let mut all = here(json!(["a", 5, true, { "a": "b" }]));
            // Of an element anything may be.
            if !matches!(of(), Shape::Any) {
                all.extend(below(of, "[0]", &|value| json!([value])));
            }
            all
        }
        Shape::Map(of) => {
            let mut all = here(json!(["a", 5, true, ["a"]]));
            all.extend(below(of, "[k]", &|value| json!({ "k": value })));
            all
        }
        Shape::Table(_) => here(json!(["a", 5, true, ["a"]])),
        Shape::Any => Vec::new(),
    }
}

/// The fields that say which type a document is of are looked at before anything else.
fn says_the_kind(place: &Place<'_>, row: &Row) -> bool {
    place.steps.len() == 1 && ["kind", "apiVersion"].contains(&row.name)
}

#[test]
fn a_wrong_type_is_told_with_path_and_place() {
    everywhere(|place, row| {
        let (Some(shape), false) = (row.shape, says_the_kind(place, row)) else { return };
        for (value, below) in wrong(shape()) {
            let document = place.with(row.name, value);
            let path = format!("{}{below}", place.path());
            let (faults, _) = told(&document);
            let fault = faults.iter().find(|fault| fault.path == path);
            let fault = fault.unwrap_or_else(|| panic!("{path}: {document}\n{faults:#?}"));
            assert!(fault.place.line == 1 && fault.place.column > 1, "{fault}");
        }
    });
}

#[test]
fn null_is_the_same_as_nothing() {
    everywhere(|place, row| {
        if says_the_kind(place, row) {
            return;
        }
        let path = place.path();
        let (faults, warnings) = told(&place.with(row.name, Value::Null));
        let here: Vec<_> = faults.iter().filter(|fault| fault.path == path).collect();
        assert!(here.iter().all(|fault| matches!(fault.problem, Problem::Required(_))), "{here:?}");
        assert!(!row.required || !here.is_empty(), "{path}");
        assert!(warnings.iter().all(|fault| fault.path != path), "{path}");
    });
}

#[test]
fn what_is_not_known_is_told_with_the_nearest_name() {
    everywhere(|place, row| {
        let typo = format!("{}x", row.name);
        let (faults, _) = told(&place.with(&typo, json!("a")));
        let path = format!("{}x", place.path());
        let fault = faults.iter().find(|fault| fault.path == path);
        let fault = fault.unwrap_or_else(|| panic!("{path}: {faults:#?}"));
        assert_eq!(fault.problem, Problem::Unknown(Some(row.name.to_owned())), "{path}");
    });
}

#[test]
fn what_is_not_supported_is_refused_or_warned_of_unless_it_asks_for_nothing() {
    everywhere(|place, row| {
        let (reason, harmless, value) = match (row.standing, row.shape) {
            (Standing::Refused(reason, harmless), _) => (reason, harmless, json!("something")),
            (Standing::Warned(reason, harmless), Some(shape)) => {
                let value = match shape() {
                    Shape::Bool => json!(harmless != Some(Harmless::Is(true))),
                    Shape::Table(_) => json!({ "a": 1 }),
                    Shape::Choice(of) => json!(of[of.len() - 1]),
                    shape => right(shape),
                };
                (reason, harmless, value)
            }
            _ => return,
        };
        let path = place.path();
        let refused = matches!(row.standing, Standing::Refused(..));
        let (faults, warnings) = told(&place.with(row.name, value));
        let (told_of, problem) = match refused {
            true => (&faults, Problem::Refused(reason.to_owned())),
            false => (&warnings, Problem::Ignored(reason.to_owned())),
        };
        assert!(
            told_of.iter().any(|fault| fault.path == path && fault.problem == problem),
            "{path}: {told_of:#?}"
        );
        let nothing = match harmless {
            None => return,
            Some(Harmless::Is(truth)) => json!(truth),
            Some(Harmless::Text(text)) => json!(text),
            Some(Harmless::Number(number)) => json!(number),
            Some(Harmless::Empty) => json!({}),
        };
        let (faults, warnings) = told(&place.with(row.name, nothing));
        let told_of = if refused { faults } else { warnings };
        assert!(
            !told_of.iter().any(|fault| fault.path == path && fault.problem == problem),
            "{path}: {told_of:#?}"
        );
    });
}
