//! `cargo xtask build`: everything a user runs, in the release directory.

use anyhow::Result;

use crate::{clock, guest, project};

/// The packages whose binaries a user runs on the host.
const PACKAGES: [&str; 3] = ["hyper-cli", "hyperd", "hyper-shim"];

/// Builds the release binaries and the guest.
pub fn run() -> Result<()> {
    clock::step("host binaries", || {
        let mut cargo = project::cargo();
        cargo.args(["build", "--release"]).args(PACKAGES.iter().flat_map(|package| ["--package", package]));
        project::run(&mut cargo)
    })?;
    guest::run()
}
