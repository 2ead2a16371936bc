//! `cargo xtask test`: every test.

use anyhow::Result;

use crate::{clock, e2e, project};

/// Units first: they are quick, and what they find would confuse the rest.
pub fn run() -> Result<()> {
    units()?;
    e2e::run(&[])
}

/// The tests that boot no guest.
pub fn units() -> Result<()> {
    clock::step("unit tests", || {
        project::run(project::cargo().args(["test", "--workspace", "--exclude", e2e::PACKAGE]))
    })
}
