//! The cache of built kernels: `kernel/<key>/vmlinux` in the cache directory.
//!
//! An entry appears by one rename, when it is complete. One build runs at a time, behind a file lock which
//! the system drops when its holder dies; whoever holds it removes what a killed build left behind.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use super::compile;
use super::recipe::Recipe;
use super::source::Source;
use crate::{clock, project};

/// Prefix of the directories builds happen in.
const BUILD_PREFIX: &str = "build-";

/// How to get the kernel.
#[derive(Args)]
pub struct Options {
    /// Also copy the kernel to this path
    #[arg(long)]
    output: Option<PathBuf>,
    /// Build even if the cache has it, and replace the cached one
    #[arg(long)]
    rebuild: bool,
    /// Only print the key that the inputs give
    #[arg(long, conflicts_with_all = ["output", "rebuild"])]
    key: bool,
}

/// Gets the kernel and prints where it is.
pub fn run(options: &Options) -> Result<()> {
    let source = Source::locate()?;
    let recipe = Recipe::gather(&source)?;
    if options.key {
        println!("{}", recipe.key());
        return Ok(());
    }
    let vmlinux = provide(&source, &recipe, options.rebuild)?;
    if let Some(output) = &options.output {
        copy(&vmlinux, output)?;
    }
    println!("{}", options.output.as_ref().unwrap_or(&vmlinux).display());
    Ok(())
}

/// Puts the kernel at `path`.
pub fn install(path: &Path) -> Result<()> {
    let source = Source::locate()?;
    let recipe = Recipe::gather(&source)?;
    copy(&provide(&source, &recipe, false)?, path)
}

/// The kernel's path in the cache, after building it there if need be.
fn provide(source: &Source, recipe: &Recipe, rebuild: bool) -> Result<PathBuf> {
    let cache = project::cache()?.join("kernel");
    fs::create_dir_all(&cache).with_context(|| format!("creating {}", cache.display()))?;
    let entry = cache.join(recipe.key());
    let vmlinux = entry.join("vmlinux");
    if vmlinux.exists() && !rebuild {
        return Ok(vmlinux);
    }
    let _lock = lock(&cache)?;
    if vmlinux.exists() && !rebuild {
        return Ok(vmlinux);
    }
    clear_leftovers(&cache)?;
    clock::step("guest kernel", || {
        let build = tempfile::Builder::new()
            .prefix(BUILD_PREFIX)
            .tempdir_in(&cache)
            .with_context(|| format!("creating a build directory in {}", cache.display()))?;
        let result = compile::compile(source, recipe, build.path())?;
        if entry.exists() {
            fs::remove_dir_all(&entry).with_context(|| format!("removing {}", entry.display()))?;
        }
        fs::rename(&result, &entry).with_context(|| format!("moving the kernel to {}", entry.display()))?;
        build.close().context("removing the build directory")
    })?;
    Ok(vmlinux)
}

/// Waits for the builder's place.
fn lock(cache: &Path) -> Result<File> {
    let path = cache.join("lock");
    let lock = || -> Result<File> {
        let file = File::options().create(true).append(true).open(&path)?;
        if file.try_lock().is_err() {
            eprintln!("xtask: waiting for another build of the kernel …");
            file.lock()?;
        }
        Ok(file)
    };
    lock().with_context(|| format!("locking {}", path.display()))
}

/// Removes the build directories of builders that were killed; the caller holds the lock.
fn clear_leftovers(cache: &Path) -> Result<()> {
    for entry in fs::read_dir(cache).with_context(|| format!("listing {}", cache.display()))? {
        let entry = entry.with_context(|| format!("listing {}", cache.display()))?;
        if entry.file_name().to_string_lossy().starts_with(BUILD_PREFIX) {
            let path = entry.path();
            fs::remove_dir_all(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    Ok(())
}

/// Copies the kernel to `path` in one step, unless it is there already.
fn copy(vmlinux: &Path, path: &Path) -> Result<()> {
    let bytes = fs::read(vmlinux).with_context(|| format!("reading {}", vmlinux.display()))?;
    project::replace(path, &bytes)
}
