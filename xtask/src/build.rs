//! `cargo xtask build`: everything a user runs, in the release directory.

use std::thread;

use anyhow::{Result, anyhow};

use crate::{clock, guest, project};

/// The packages whose binaries a user runs on the host.
const PACKAGES: [&str; 3] = ["hyper-cli", "hyperd", "hyper-shim"];

/// Builds the release binaries and the guest.
///
/// The kernel is built beside the rest: each has stretches that keep one processor busy only (unpacking, linking), and
/// the other fills them.
pub fn run() -> Result<()> {
    thread::scope(|scope| {
        let kernel = scope.spawn(guest::install_kernel);
        let binaries = host_binaries().and_then(|()| guest::install_initramfs());
        let kernel = kernel.join().map_err(|_| anyhow!("building the kernel panicked"))?;
        binaries.and(kernel)
    })
}

fn host_binaries() -> Result<()> {
    clock::step("host binaries", || {
        let mut cargo = project::cargo();
        cargo.args(["build", "--release"]).args(PACKAGES.iter().flat_map(|package| ["--package", package]));
        project::run(&mut cargo)
    })
}
