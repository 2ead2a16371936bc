//! `cargo xtask bench`: the numbers of the README.

use anyhow::Result;

use crate::{build, project};

/// The package with the benches.
const PACKAGE: &str = "hyper-benches";

/// Builds what is measured, then measures; `arguments` name the parts.
pub fn run(arguments: &[String]) -> Result<()> {
    build::run()?;
    let mut cargo = project::cargo();
    cargo.args(["run", "--quiet", "--release", "--package", PACKAGE, "--"]).args(arguments);
    project::run(cargo.env("HYPER_BIN", project::release()))
}
