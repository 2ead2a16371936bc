//! `docs/kube.md` is what the table says. `HYPER_WRITE_DOCS=1 cargo test -p hyper-kube --test document` writes it anew.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

use hyper_kube::model::PodSpec;
use hyper_kube::{Harmless, KINDS, Row, Shape, Standing, Table};

const HEAD: &str = include_str!("document_head.md");

/// How a field reads in the page.
fn line(row: &Row, dropped: bool) -> String {
    let value = row.shape.map(|shape| value(shape())).unwrap_or_default();
    let (standing, what) = match row.standing {
        Standing::Supported if dropped => ("warned", row.about.trim().to_owned()),
        Standing::Supported => ("supported", row.about.trim().to_owned()),
        Standing::Refused(why, harmless) => ("refused", reason(why, harmless)),
        Standing::Warned(why, harmless) => ("warned", reason(why, harmless)),
    };
    let default = row.default.map(|default| default()).filter(|default| !default.is_empty());
    let notes = [
        row.required.then(|| "required".to_owned()),
        default.map(|default| match row.name.ends_with("Mode") && row.name.starts_with("default") {
            true => format!("default 0{:o}", default.parse::<u32>().expect("a mode")),
            false => format!("default `{default}`"),
        }),
    ];
    let notes: Vec<String> = notes.into_iter().flatten().collect();
    let notes = if notes.is_empty() { String::new() } else { format!(" ({})", notes.join(", ")) };
    format!("| `{}` | {standing} | {value} | {what}{notes} |\n", row.name)
}

fn reason(why: &str, harmless: Option<Harmless>) -> String {
    let but = match harmless {
        None => return why.to_owned(),
        Some(Harmless::Is(truth)) => format!("`{truth}`"),
        Some(Harmless::Text(text)) => format!("`{text}`"),
        Some(Harmless::Number(number)) => format!("`{number}`"),
        Some(Harmless::Empty) => "an empty one".to_owned(),
    };
    format!("{why}; {but} is taken")
}

fn value(shape: Shape) -> String {
    match shape {
        Shape::Text => "string".to_owned(),
        Shape::Bool => "boolean".to_owned(),
        Shape::Integer(bits) => format!("integer of {bits} bits"),
        Shape::Quantity => "quantity".to_owned(),
        Shape::IntOrString => "integer or string".to_owned(),
        Shape::Base64 => "base64".to_owned(),
        Shape::Schedule => "schedule of cron".to_owned(),
        Shape::Choice(of) => of.iter().map(|one| format!("`{one}`")).collect::<Vec<_>>().join(", "),
        Shape::List(of) => format!("list of {}", value(of())),
        Shape::Map(of) => format!("map to {}", value(of())),
        Shape::Table(table) => format!("[{0}](#{1})", table.name, table.name.to_lowercase()),
        Shape::Any => "not looked into".to_owned(),
    }
}

fn below(shape: Shape) -> Option<&'static Table> {
    match shape {
        Shape::Table(table) => Some(table),
        Shape::List(of) | Shape::Map(of) => below(of()),
        _ => None,
    }
}

/// The section of a type and of all that hangs below it, in the order in which they are met.
fn sections(start: &'static Table, dropped: bool, told: &mut BTreeSet<&'static str>, page: &mut String) {
    if !told.insert(start.name) {
        return;
    }
    let about = start.about.trim();
    write!(page, "\n### {}\n{about}\n\n| field | | value | |\n|---|---|---|---|\n", start.name)
        .expect("text");
    let mut rows: Vec<&Row> = start.rows.iter().collect();
    rows.sort_by_key(|row| row.name);
    rows.iter().for_each(|row| page.push_str(&line(row, dropped)));
    // What is carried first: a type that is also met where values are dropped is told of as carried.
    for pass in [false, true] {
        for row in &rows {
            let drops = dropped || row.standing != Standing::Supported;
            if let (true, Some(table)) = (drops == pass, row.shape.and_then(|shape| below(shape()))) {
                sections(table, drops, told, page);
            }
        }
    }
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    page.push_str("\n## Pods\n");
    let mut told = BTreeSet::new();
    sections(PodSpec::TABLE, false, &mut told, &mut page);
    page.push_str("\n## Kinds\n\n| kind | `apiVersion` | |\n|---|---|---|\n");
    for kind in KINDS {
        let (name, about) = (kind.name, kind.table.about.trim());
        writeln!(page, "| [{name}](#{}) | `{}` | {about} |", name.to_lowercase(), kind.version)
            .expect("text");
    }
    for kind in KINDS {
        sections(kind.table, false, &mut told, &mut page);
    }
    page
}

#[test]
fn the_page_is_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/kube.md");
    let page = page();
    if env::var_os("HYPER_WRITE_DOCS").is_some() {
        fs::write(&path, &page).expect("docs/kube.md");
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        there == page,
        "docs/kube.md is old: HYPER_WRITE_DOCS=1 cargo test -p hyper-kube --test document"
    );
}

#[test]
fn every_row_says_what_it_is_about() {
    let mut told = BTreeSet::new();
    let mut todo: Vec<&Table> = KINDS.iter().map(|kind| kind.table).collect();
    while let Some(table) = todo.pop() {
        if !told.insert(table.name) {
            continue;
        }
        assert!(table.about.trim().ends_with('.'), "{}", table.name);
        for row in table.rows {
            match row.standing {
                Standing::Supported => {
                    assert!(row.about.trim().ends_with('.'), "{}.{}", table.name, row.name)
                }
                Standing::Refused(why, _) | Standing::Warned(why, _) => {
                    assert!(!why.is_empty() && !why.contains('|'), "{}.{}", table.name, row.name);
                }
            }
            todo.extend(row.shape.and_then(|shape| below(shape())));
        }
    }
}
