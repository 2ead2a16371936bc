//! `cargo xtask run`: the shortest way to see it work. Makes a real image out of Debian packages and runs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};

use crate::{build, clock, project};

/// The Debian release the image is made from.
const RELEASE: &str = "bookworm";

/// What the image is called once imported.
const IMAGE: &str = "debian:12";

/// Builds everything, imports the image and runs a program in it; prints what it wrote and the time.
pub fn run() -> Result<()> {
    let tarball = thread::scope(|scope| {
        // It waits for the network while the build keeps the processors busy.
        let tarball = scope.spawn(|| clock::step("Debian root filesystem", tarball));
        build::run()?;
        tarball.join().map_err(|_| anyhow!("making the root filesystem panicked"))?
    })?;
    let hyper = project::release().join("hyper");
    clock::step("hyper import", || {
        project::run(Command::new(&hyper).arg("import").arg(&tarball).arg(IMAGE))
    })?;
    clock::step(&format!("hyper run --rm {IMAGE} cat /etc/os-release"), || {
        let mut hyper = Command::new(&hyper);
        let status = hyper.args(["run", "--rm", IMAGE, "cat", "/etc/os-release"]).status();
        let status = status.context("starting hyper")?;
        ensure!(status.success(), "hyper run: {status}");
        Ok(())
    })
}

/// A minimal Debian as a tar file, made once and kept in the cache.
fn tarball() -> Result<PathBuf> {
    let directory = project::cache()?.join("images");
    let path = directory.join(format!("debian-{RELEASE}.tar"));
    if path.exists() {
        return Ok(path);
    }
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    let work = tempfile::tempdir_in(&directory).context("creating a directory")?;
    let made = work.path().join("root.tar");
    make_tarball(&made)?;
    fs::rename(&made, &path).with_context(|| format!("moving the tar file to {}", path.display()))?;
    Ok(path)
}

fn make_tarball(path: &Path) -> Result<()> {
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap.args(["--quiet", "--variant=minbase"]);
    mmdebstrap.arg("--include=ca-certificates,iproute2").arg(RELEASE).arg(path);
    project::run(&mut mmdebstrap)
}
