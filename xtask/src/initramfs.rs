//! `cargo xtask initramfs`: the agent as `/init` in a cpio archive, and nothing else but the directories it
//! mounts on.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cpio::Archive;
use crate::{clock, project, static_program};

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
    let agent = clock::step("agent", || static_program::build("hyper-agent", "hyper-agent"))?;
    project::replace(path, &pack(&agent)?)
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
