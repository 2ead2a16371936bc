//! `cargo xtask test`: every test.

use anyhow::Result;

use crate::{build, clock, e2e, fuzz, project};

/// Units first: they are quick, and what they find would confuse the rest. The guest before them, because some boot
/// it, and another than this one would tell nothing.
pub fn run() -> Result<()> {
    build::run()?;
    units()?;
    fuzz::run(fuzz::USUAL)?;
    e2e::run(&[])
}

/// The tests of the single packages.
pub fn units() -> Result<()> {
    clock::step("unit tests", || {
        project::run(project::cargo().args(["test", "--workspace", "--exclude", e2e::PACKAGE]))
    })
}
