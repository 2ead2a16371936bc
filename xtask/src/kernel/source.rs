//! Where the kernel's source comes from: Debian's package `linux-source-6.12`.
//!
//! Installed, its tarball lies in `/usr/src`. Otherwise apt fetches the package, without installing it, into
//! the cache: from the system's own sources if they carry it (Debian 12 and 13), else (Ubuntu) from Debian's
//! archive with a list of sources and a state of its own, checked against Debian's archive keys.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::{clock, project};

/// The package. 6.12 is a long-term kernel, kept by Debian 13 until 2030.
const PACKAGE: &str = "linux-source-6.12";

/// Its tarball, once the package is installed or unpacked.
const TARBALL: &str = "usr/src/linux-source-6.12.tar.xz";

/// The first directory of every path in the tarball.
pub const TOP_DIRECTORY: &str = "linux-source-6.12";

/// The archive asked when the system's own sources have no such package.
const DEBIAN_MIRROR: &str = "http://deb.debian.org/debian";

/// The Debian release that carries the package in its main section.
const DEBIAN_RELEASE: &str = "trixie";

/// Debian's archive keys, from the package `debian-archive-keyring`.
const DEBIAN_KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The source package, found but not opened.
pub struct Source {
    version: String,
    place: Place,
}

enum Place {
    /// Installed on this system.
    Installed,
    /// A `.deb` in the cache.
    Package(PathBuf),
}

impl Source {
    /// Finds the package, or fetches it.
    ///
    /// # Errors
    /// When it is neither installed nor to be had through apt.
    pub fn locate() -> Result<Self> {
        if let Some(version) = installed_version() {
            return Ok(Self { version, place: Place::Installed });
        }
        let directory = project::cache()?.join("source");
        fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
        let package = match find_package(&directory)? {
            Some(package) => package,
            None => clock::step("fetching the kernel's source", || fetch(&directory))?,
        };
        let version = project::output(Command::new("dpkg-deb").arg("--field").arg(&package).arg("Version"))?;
        Ok(Self { version, place: Place::Package(package) })
    }

    /// Debian's version of the package; the archive never changes what a version stands for.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The tarball's path, after unpacking the package into `directory` if need be.
    ///
    /// # Errors
    /// When an installed tarball is not what the package brought, or the package cannot be unpacked.
    pub fn tarball(&self, directory: &Path) -> Result<PathBuf> {
        match &self.place {
            Place::Installed => {
                let changed = project::output(Command::new("dpkg").args(["--verify", PACKAGE]))?;
                ensure!(changed.is_empty(), "the files of {PACKAGE} were changed; reinstall it:\n{changed}");
                Ok(Path::new("/").join(TARBALL))
            }
            Place::Package(package) => {
                project::run(Command::new("dpkg-deb").arg("--extract").arg(package).arg(directory))?;
                Ok(directory.join(TARBALL))
            }
        }
    }
}

/// The version of the installed package, if its tarball is there as well.
fn installed_version() -> Option<String> {
    let query = ["--show", "--showformat=${db:Status-Status} ${Version}", PACKAGE];
    let answer = project::output(Command::new("dpkg-query").args(query)).ok()?;
    let version = answer.strip_prefix("installed ")?.to_owned();
    Path::new("/").join(TARBALL).exists().then_some(version)
}

/// A package fetched earlier. There is one at most: fetching empties the directory first.
fn find_package(directory: &Path) -> Result<Option<PathBuf>> {
    let listing = || format!("listing {}", directory.display());
    for entry in fs::read_dir(directory).with_context(listing)? {
        let path = entry.with_context(listing)?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Downloads the package with apt, which checks it, and moves it to `directory` when complete.
fn fetch(directory: &Path) -> Result<PathBuf> {
    let work =
        tempfile::Builder::new().prefix("fetch-").tempdir_in(directory).context("creating a directory")?;
    if system_has_package() {
        download(work.path(), &[])?;
    } else {
        let options = debian_sources(work.path())?;
        apt(work.path(), &options, "update")?;
        download(work.path(), &options)?;
    }
    let package = find_package(work.path())?.context("apt reported success, yet there is no package")?;
    let target = directory.join(package.file_name().context("a path from a listing has a name")?);
    fs::rename(&package, &target).with_context(|| format!("moving the package to {}", target.display()))?;
    Ok(target)
}

/// Whether the system's own package sources carry the package.
fn system_has_package() -> bool {
    let answer = project::output(Command::new("apt-cache").args(["show", "--no-all-versions", PACKAGE]));
    answer.is_ok_and(|text| text.contains("Package:"))
}

/// `apt-get download` into `directory`.
fn download(directory: &Path, options: &[String]) -> Result<()> {
    apt(directory, options, "download").with_context(|| {
        format!("{PACKAGE} is needed to build the guest kernel: install it, or let apt reach a Debian mirror")
    })
}

fn apt(directory: &Path, options: &[String], action: &str) -> Result<()> {
    let mut apt = Command::new("apt-get");
    // The sandboxed user of apt cannot write into a private directory; we may be root and own it.
    apt.current_dir(directory).args(options).args(["-q", "-o", "APT::Sandbox::User="]).arg(action);
    if action == "download" {
        apt.arg(PACKAGE);
    }
    project::run(&mut apt)
}

/// Options that make apt use Debian's archive and nothing of the system's own state.
fn debian_sources(work: &Path) -> Result<Vec<String>> {
    if !Path::new(DEBIAN_KEYS).exists() {
        bail!(
            "this system's package sources have no {PACKAGE}, and Debian's cannot be checked: \
             {DEBIAN_KEYS} is missing (install debian-archive-keyring)"
        );
    }
    let path = |name: &str| work.join(name).display().to_string();
    for name in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(work.join(name)).context("creating apt's directories")?;
    }
    let line = format!("deb [signed-by={DEBIAN_KEYS} arch=amd64] {DEBIAN_MIRROR} {DEBIAN_RELEASE} main\n");
    fs::write(work.join("sources.list"), line).context("writing a sources.list")?;
    fs::write(work.join("status"), "").context("writing an empty dpkg status")?;
    Ok([
        ("Dir::Etc::SourceList", path("sources.list")),
        ("Dir::Etc::SourceParts", "-".to_owned()),
        ("Dir::State::Lists", path("lists")),
        ("Dir::State::status", path("status")),
        ("Dir::Cache", path("cache")),
        ("Acquire::Languages", "none".to_owned()),
    ]
    .iter()
    .flat_map(|(key, value)| ["-o".to_owned(), format!("{key}={value}")])
    .collect())
}
