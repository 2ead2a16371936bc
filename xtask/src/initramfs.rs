//! `cargo xtask initramfs`: the agent as `/init` in a cpio archive, and nothing else but the directories it
//! mounts on.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cpio::Archive;
use crate::{clock, project};

/// The agent's code generation: static, at fixed addresses (nothing to relocate at start).
const RUSTFLAGS: &str = "-C target-feature=+crt-static -C relocation-model=static -C panic=abort";

/// The agent's profile: it is loaded at every boot and stays in the guest's memory, so size comes first.
const PROFILE: [&str; 4] = [
    "profile.release.opt-level=\"s\"",
    "profile.release.lto=\"fat\"",
    "profile.release.codegen-units=1",
    "profile.release.strip=\"symbols\"",
];

/// The directories of the first root. The kernel opens `/dev/console` for `/init` before anything is mounted.
const DIRECTORIES: [&str; 5] = ["dev", "proc", "sys", "run", "tmp"];

/// Builds the archive and prints its path.
pub fn run(output: Option<PathBuf>) -> Result<()> {
    let path = output.unwrap_or_else(|| project::release().join("guest/initramfs.cpio"));
    build(&path)?;
    println!("{}", path.display());
    Ok(())
}

/// Builds the agent and packs it into an archive at `path`.
pub fn build(path: &Path) -> Result<()> {
    let agent = clock::step("agent", build_agent)?;
    project::replace(path, &pack(&agent)?)
}

/// Compiles the agent statically and returns its path.
fn build_agent() -> Result<PathBuf> {
    let mut cargo = project::cargo();
    cargo
        .args(["build", "--release", "--package", "hyper-agent", "--target", project::GUEST_TARGET])
        .args(PROFILE.iter().flat_map(|setting| ["--config", setting]))
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", RUSTFLAGS);
    project::run(&mut cargo)?;
    Ok(project::target().join(project::GUEST_TARGET).join("release/hyper-agent"))
}

/// The archive's bytes.
fn pack(agent: &Path) -> Result<Vec<u8>> {
    let program = fs::read(agent).with_context(|| format!("reading {}", agent.display()))?;
    let mut archive = Archive::new(Vec::with_capacity(program.len() + 4096));
    for directory in DIRECTORIES {
        archive.directory(directory, 0o755)?;
    }
    archive.character_device("dev/console", 0o600, (5, 1))?;
    archive.character_device("dev/null", 0o666, (1, 3))?;
    archive.file("init", 0o755, &program)?;
    Ok(archive.finish()?)
}
