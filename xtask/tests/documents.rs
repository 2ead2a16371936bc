//! What the documents name exists, and packages depend on each other only as `ARCHITECTURE.md` allows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the root").to_path_buf()
}

/// The texts between backquotes of a document, code blocks left out.
fn quoted(text: &str) -> Vec<String> {
    let prose: String = text.split("```").step_by(2).collect();
    prose.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn paths_named_in_documents_exist() {
    let root = root();
    let mut missing = Vec::new();
    for document in ["ARCHITECTURE.md", "README.md"] {
        let text = fs::read_to_string(root.join(document)).expect(document);
        for name in quoted(&text) {
            let first = name.split('/').next().unwrap_or_default();
            let ours = ["crates", "xtask", "tests", "guest", "docs", "benches", "fuzz"].contains(&first);
            let path = name.contains('/') && !name.contains([' ', '<', '*', '…', '$']);
            if ours && path && !root.join(&name).exists() {
                missing.push(format!("{document}: {name}"));
            }
        }
    }
    assert!(missing.is_empty(), "named but not there: {missing:#?}");
}

/// Rows of the table of rooms: package to the packages it may use.
fn allowed() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let table = text.split("| package | in |").nth(1).expect("table of rooms");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let mut allowed = BTreeMap::new();
    for row in rows {
        let cells: Vec<&str> = row.split('|').collect();
        let uses: BTreeSet<String> = quoted(cells[3]).into_iter().collect();
        for package in quoted(cells[1]) {
            allowed.insert(package, uses.clone());
        }
    }
    allowed
}

#[test]
fn packages_use_only_the_rooms_below_them() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo metadata");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("metadata");
    let packages = metadata["packages"].as_array().expect("packages");
    let names: BTreeSet<&str> = packages.iter().filter_map(|p| p["name"].as_str()).collect();
    let allowed = allowed();
    for package in packages {
        let name = package["name"].as_str().expect("name");
        let rooms = allowed.get(name).unwrap_or_else(|| panic!("{name} is not in the table of rooms"));
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let used = dependency["name"].as_str().expect("name");
            let ours = names.contains(used) && dependency["path"].is_string();
            let tests_only = dependency["kind"] == "dev";
            assert!(!ours || tests_only || rooms.contains(used), "{name} may not use {used}");
        }
    }
}
