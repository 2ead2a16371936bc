//! Where things lie, and how programs are run.

use std::env;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// The target triple of everything that runs in the guest: glibc, linked statically.
pub const GUEST_TARGET: &str = "x86_64-unknown-linux-gnu";

/// The root of the repository: the directory above this crate's.
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().expect("the crate lies in the repository").to_path_buf()
}

/// Cargo's target directory, as `CARGO_TARGET_DIR` or cargo's default has it.
pub fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR").filter(|value| !value.is_empty()) {
        Some(directory) => root().join(directory),
        None => root().join("target"),
    }
}

/// Where the release binaries are; the guest's artefacts go into `guest/` below.
pub fn release() -> PathBuf {
    target().join("release")
}

/// What outlives a `cargo clean`: `HYPER_CACHE`, else `hyper/` in the user's cache directory.
///
/// # Errors
/// When neither `HYPER_CACHE`, `XDG_CACHE_HOME` nor `HOME` is set to an absolute path.
pub fn cache() -> Result<PathBuf> {
    let variable = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    variable("HYPER_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|path| path.join("hyper")))
        .or_else(|| variable("HOME").map(|path| path.join(".cache/hyper")))
        .context("no place for the cache: set HYPER_CACHE to an absolute path")
}

/// The cargo that runs this program, in the repository's root.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs a program with its output on this one's standard error, and wants success.
///
/// # Errors
/// When the program cannot be started or fails.
pub fn run(command: &mut Command) -> Result<()> {
    let name = describe(command);
    let status = command.stdout(std::io::stderr()).status().with_context(|| format!("starting {name}"))?;
    ensure!(status.success(), "{name}: {status}");
    Ok(())
}

/// Runs a program and returns what it wrote to its standard output, without the last line's end.
///
/// # Errors
/// When the program cannot be started, fails (its standard error is in the message), or does not write UTF-8.
pub fn output(command: &mut Command) -> Result<String> {
    let name = describe(command);
    let output = command.output().with_context(|| format!("starting {name}"))?;
    if !output.status.success() {
        bail!("{name}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    let text = String::from_utf8(output.stdout).with_context(|| format!("reading the output of {name}"))?;
    Ok(text.trim_end().to_owned())
}

/// Replaces the file at `path` in one step, unless it has these bytes already; readable by everybody.
///
/// # Errors
/// When the directory or the file cannot be written.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    let write = || -> Result<()> {
        let file = tempfile::NamedTempFile::new_in(directory)?;
        fs::write(file.path(), bytes)?;
        fs::set_permissions(file.path(), Permissions::from_mode(0o644))?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("writing {}", path.display()))
}

/// A program and its first two arguments, for messages.
fn describe(command: &Command) -> String {
    let arguments = command.get_args().take(2).map(|argument| argument.to_string_lossy());
    let words: Vec<_> = std::iter::once(command.get_program().to_string_lossy()).chain(arguments).collect();
    format!("`{}`", words.join(" "))
}
