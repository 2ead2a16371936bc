//! `cargo xtask guest`: kernel and initramfs, beside the release binaries.

use std::fs;

use anyhow::{Context, Result};

use crate::{initramfs, kernel, project};

/// Puts both artefacts into `guest/` below the directory of the release binaries.
pub fn run() -> Result<()> {
    let directory = project::release().join("guest");
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    kernel::install(&directory.join("vmlinux"))?;
    initramfs::build(&directory.join("initramfs.cpio"))?;
    println!("{}", directory.display());
    Ok(())
}
