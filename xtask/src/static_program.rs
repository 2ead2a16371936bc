//! Programs that run in a guest: static, and small before fast.

use std::path::PathBuf;

use anyhow::Result;

use crate::project;

/// Code generation: static, at fixed addresses (nothing to relocate at start).
const RUSTFLAGS: &str = "-C target-feature=+crt-static -C relocation-model=static -C panic=abort";

/// The profile: the agent is loaded at every boot and stays in the guest's memory, so size comes first.
const PROFILE: [&str; 7] = [
    "profile.release.opt-level=\"s\"",
    // What the workspace says of single packages is not for the guest.
    "profile.release.package.hyper-link.opt-level=\"s\"",
    "profile.release.package.tokio.opt-level=\"s\"",
    "profile.release.package.yamux.opt-level=\"s\"",
    "profile.release.lto=\"fat\"",
    "profile.release.codegen-units=1",
    "profile.release.strip=\"symbols\"",
];

/// Compiles `program` of `package` and returns its path.
pub fn build(package: &str, program: &str) -> Result<PathBuf> {
    let mut cargo = project::cargo();
    cargo
        .args(["build", "--release", "--package", package, "--bin", program])
        .args(["--target", project::GUEST_TARGET])
        .args(PROFILE.iter().flat_map(|setting| ["--config", setting]))
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", RUSTFLAGS);
    project::run(&mut cargo)?;
    Ok(project::target().join(project::GUEST_TARGET).join("release").join(program))
}
