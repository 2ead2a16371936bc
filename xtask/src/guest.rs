//! `cargo xtask guest`: kernel and initramfs, beside the release binaries.

use std::path::PathBuf;

use anyhow::Result;

use crate::{initramfs, kernel, project};

/// Puts both artefacts into `guest/` below the directory of the release binaries.
pub fn run() -> Result<()> {
    install_kernel()?;
    install_initramfs()?;
    println!("{}", directory().display());
    Ok(())
}

/// Puts the kernel there.
pub fn install_kernel() -> Result<()> {
    kernel::install(&directory().join("vmlinux"))
}

/// Puts the initramfs there.
pub fn install_initramfs() -> Result<()> {
    initramfs::build(&directory().join("initramfs.cpio"))
}

fn directory() -> PathBuf {
    project::release().join("guest")
}
