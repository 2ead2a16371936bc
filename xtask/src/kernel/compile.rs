//! Compiles the kernel in a directory of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result};

use super::recipe::{Fragment, Recipe};
use super::source::{Source, TOP_DIRECTORY};
use crate::{clock, project};

/// What of the source is not unpacked: it is a third of the bytes, and this kernel compiles nothing of it.
/// (Files named `Kconfig` must all be there: the menus name each other.)
const LEFT_OUT: [&str; 5] =
    ["drivers/gpu/*.h", "drivers/gpu/*.c", "sound/*.c", "tools/testing/*", "arch/*/boot/dts/*"];

/// Flags for the compiler beyond the kernel's own. Copying and clearing memory is left to the kernel's functions: in
/// line the compiler writes `rep stos` and `rep movs`, which run byte by byte where processors are emulated, and where
/// they are not the functions use the best that the processor has.
const FLAGS: &str = "-mstringop-strategy=libcall";

/// Builds the kernel below `directory`; returns a directory with `vmlinux` and the `config` it was built from.
///
/// # Errors
/// When the source is damaged, a patch does not fit, an option is lost ([`super::config::Requests::verify`]), or make fails.
pub fn compile(source: &Source, recipe: &Recipe, directory: &Path) -> Result<PathBuf> {
    let tree = directory.join(TOP_DIRECTORY);
    let objects = directory.join("objects");
    let result = directory.join("result");
    for path in [&objects, &result] {
        fs::create_dir(path).with_context(|| format!("creating {}", path.display()))?;
    }
    clock::step("  unpack", || unpack(&source.tarball(directory)?, directory))?;
    apply(&recipe.patches, directory, &tree)?;
    clock::step("  configure", || configure(recipe, &tree, &objects))?;
    clock::step("  compile", || project::run(make(&tree, &objects).arg("vmlinux")))?;
    let vmlinux = result.join("vmlinux");
    let mut strip = Command::new("strip");
    project::run(strip.arg("--strip-all").arg("-o").arg(&vmlinux).arg(objects.join("vmlinux")))?;
    fs::copy(objects.join(".config"), result.join("config")).context("keeping the configuration")?;
    Ok(result)
}

fn unpack(tarball: &Path, directory: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.arg("--extract").arg("--file").arg(tarball).arg("--directory").arg(directory);
    tar.args(LEFT_OUT.iter().map(|pattern| format!("--exclude={TOP_DIRECTORY}/{pattern}")));
    project::run(&mut tar)
}

/// Applies the patches. One around which the source has changed is refused: it has to be looked at.
fn apply(patches: &[Fragment], directory: &Path, tree: &Path) -> Result<()> {
    for Fragment { name, text } in patches {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        let mut patch = Command::new("patch");
        patch.args(["--strip=1", "--fuzz=0", "--forward", "--batch", "--silent", "--no-backup-if-mismatch"]);
        patch.arg("--directory").arg(tree).arg("--input").arg(&path);
        project::run(&mut patch).with_context(|| format!("{name} does not fit the kernel's source"))?;
    }
    Ok(())
}

fn configure(recipe: &Recipe, tree: &Path, objects: &Path) -> Result<()> {
    let all = objects.join("requests.config");
    fs::write(&all, recipe.requests.render()).context("writing the requested configuration")?;
    project::run(make(tree, objects).env("KCONFIG_ALLCONFIG", &all).arg("allnoconfig"))?;
    let config = fs::read_to_string(objects.join(".config")).context("reading the kernel's configuration")?;
    recipe.requests.verify(&config)
}

/// `make` for the kernel. Who builds it, where and when does not get into it: the same recipe gives the same bytes.
fn make(tree: &Path, objects: &Path) -> Command {
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    let mut make = Command::new("make");
    make.arg("--directory").arg(tree).arg(format!("O={}", objects.display()));
    make.args(["--silent", "ARCH=x86_64"]).arg(format!("KCFLAGS={FLAGS}")).arg(format!("--jobs={jobs}"));
    make.envs([
        ("KBUILD_BUILD_USER", "hyper"),
        ("KBUILD_BUILD_HOST", "hyper"),
        ("KBUILD_BUILD_VERSION", "1"),
        ("KBUILD_BUILD_TIMESTAMP", "1970-01-01"),
        ("LC_ALL", "C"),
    ]);
    // Settings of an outer make are not meant for this one.
    for variable in
        ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "ARCH", "CROSS_COMPILE", "KCONFIG_CONFIG"]
    {
        make.env_remove(variable);
    }
    make
}
