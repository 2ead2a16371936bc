//! Docker's command line: the installed one, else Debian's, unpacked into the cache and not installed, since its
//! package brings a daemon.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rustix::fs::{FlockOperation, flock};

use crate::images;

/// Debian's package with the command line.
const PACKAGE: &str = "docker.io";
/// Where the program is in it.
const PROGRAM: &str = "usr/bin/docker";

/// The program: `HYPER_E2E_DOCKER`, else `docker` in `PATH`, else one of the cache, which is downloaded first if it is
/// not there.
///
/// # Errors
/// A sentence on what is missing.
pub fn program() -> Result<&'static Path, String> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found =
        FOUND.get_or_init(|| match std::env::var_os("HYPER_E2E_DOCKER").filter(|path| !path.is_empty()) {
            Some(path) => Ok(PathBuf::from(path)),
            None => installed().map_or_else(unpacked, Ok),
        });
    found.as_deref().map_err(Clone::clone)
}

/// First number of its version, 0 when it tells none.
pub fn major() -> u32 {
    let version = program().ok().and_then(|program| Command::new(program).arg("--version").output().ok());
    let text = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let number = text.split_whitespace().nth(2).and_then(|version| version.split('.').next()?.parse().ok());
    number.unwrap_or(0)
}

fn installed() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let program =
        std::env::split_paths(&path).map(|directory| directory.join("docker")).find(|path| path.is_file())?;
    works(&program).then_some(program)
}

fn works(program: &Path) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

fn unpacked() -> Result<PathBuf, String> {
    let cache = images::cache();
    fs::create_dir_all(&cache).unwrap();
    let lock = File::create(cache.join("lock-docker")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let done = cache.join("docker-cli");
    let program = done.join(PROGRAM);
    if program.exists() {
        return Ok(program);
    }
    eprintln!("downloading docker's command line");
    let work = tempfile::tempdir_in(&cache).unwrap();
    // The lists may be missing, or older than the mirror.
    download(work.path()).or_else(|_| {
        run(Command::new("apt-get").args(["update", "--quiet"]))?;
        download(work.path())
    })?;
    let package = fs::read_dir(work.path()).unwrap().flatten().map(|entry| entry.path()).next();
    let package = package.ok_or_else(|| format!("apt-get downloaded no {PACKAGE}"))?;
    let tree = work.path().join("tree");
    run(Command::new("dpkg-deb").arg("--extract").args([&package, &tree]))?;
    if !works(&tree.join(PROGRAM)) {
        return Err(format!("the package {PACKAGE} has no {PROGRAM} that works"));
    }
    fs::rename(&tree, &done).unwrap();
    Ok(program)
}

fn download(directory: &Path) -> Result<(), String> {
    let mut apt = Command::new("apt-get");
    run(apt.args(["download", "--quiet", PACKAGE]).current_dir(directory))
}

fn run(command: &mut Command) -> Result<(), String> {
    let line = format!("{command:?}");
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{line}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("{line}: {error}")),
    }
}
