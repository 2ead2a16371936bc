//! Where the programs under test are.

use std::path::{Path, PathBuf};

/// The directory with `hyper`, `hyperd`, the shim and `guest/`.
#[derive(Clone, Debug)]
pub struct Binaries {
    directory: PathBuf,
}

/// What must be there, relative to the directory.
const NEEDED: [&str; 5] =
    ["hyper", "hyperd", "containerd-shim-hyper-v2", "guest/vmlinux", "guest/initramfs.cpio"];

impl Binaries {
    /// `HYPER_BIN`, else `release/` beside the profile directory that the
    /// running test program was built into.
    ///
    /// # Errors
    /// A sentence on what is missing and how to get it.
    pub fn find() -> Result<Self, String> {
        let directory = match std::env::var_os("HYPER_BIN").filter(|value| !value.is_empty()) {
            Some(directory) => PathBuf::from(directory),
            None => beside_this_program(),
        };
        let directory = directory.canonicalize().unwrap_or(directory);
        for name in NEEDED {
            if !directory.join(name).exists() {
                return Err(format!("{} does not exist: run `make build`", directory.join(name).display()));
            }
        }
        Ok(Self { directory })
    }

    /// Stands for programs that are not used, when a real dockerd is.
    pub(crate) fn none() -> Self {
        Self { directory: PathBuf::from("/nonexistent") }
    }

    /// The directory itself.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The command-line program.
    pub fn hyper(&self) -> PathBuf {
        self.directory.join("hyper")
    }

    /// The static program that prints a file tree (`src/bin/hyper-tree.rs`): `HYPER_TREE`, else where
    /// `cargo xtask e2e` builds it.
    ///
    /// # Errors
    /// A sentence on how to get it.
    pub fn tree(&self) -> Result<PathBuf, String> {
        let built = self.directory.with_file_name("x86_64-unknown-linux-gnu").join("release/hyper-tree");
        let variable = std::env::var_os("HYPER_TREE").filter(|value| !value.is_empty());
        let path = variable.map_or(built, PathBuf::from);
        if !path.exists() {
            return Err(format!("{} does not exist: `cargo xtask e2e` builds it", path.display()));
        }
        Ok(path)
    }

    /// The guest kernel.
    pub fn kernel(&self) -> PathBuf {
        self.directory.join("guest/vmlinux")
    }
}

/// `target/debug/deps/e2e-…` gives `target/release`.
fn beside_this_program() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let profile = program.ancestors().nth(2).map(Path::to_path_buf).unwrap_or_default();
    profile.with_file_name("release")
}
