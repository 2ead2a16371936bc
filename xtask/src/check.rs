//! `cargo xtask check`: what must hold before a commit, without booting anything.

use anyhow::Result;

use crate::{clock, project, test};

/// Format, lints, unit tests, documentation.
pub fn run() -> Result<()> {
    clock::step("format", || project::run(project::cargo().args(["fmt", "--all", "--check"])))?;
    clock::step("lints", || {
        project::run(project::cargo().args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]))
    })?;
    test::units()?;
    clock::step("documentation", || {
        let mut cargo = project::cargo();
        cargo.args(["doc", "--workspace", "--no-deps", "--document-private-items"]);
        project::run(cargo.env("RUSTDOCFLAGS", "-D warnings"))
    })
}
