//! A hypervisor without VMs, and what the suite needs to launch real ones.

mod fake;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use hyper_vm::{Start, VmConfig};

pub use fake::Fake;

/// A VM in `dir`, with a kernel that exists.
pub fn config(dir: &Path, kernel: PathBuf) -> VmConfig {
    let initramfs = dir.join("initramfs.cpio");
    fs::write(&initramfs, empty_archive()).unwrap();
    VmConfig {
        name: "contract".into(),
        dir: dir.into(),
        kernel,
        initramfs,
        kernel_args: vec![],
        vcpus: 1,
        memory_mib: 128,
        nic_slots: 1,
        wire: None,
        console_kept: 64 << 10,
        start: Start::Boot,
        share: None,
    }
}

/// The guest kernel that `xtask` built, if it has.
pub fn guest_kernel() -> Option<PathBuf> {
    let named = std::env::var_os("HYPER_GUEST").map(|dir| PathBuf::from(dir).join("vmlinux"));
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target"), PathBuf::from);
    let built = ["release/guest/vmlinux", "debug/guest/vmlinux"].map(|path| target.join(path));
    named.into_iter().chain(built).find(|path| path.is_file())
}

/// A raw image of `megabytes` MiB, open for reading and writing.
pub fn image(dir: &Path, name: &str, megabytes: u64) -> OwnedFd {
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(dir.join(name)).unwrap();
    file.set_len(megabytes << 20).unwrap();
    file.into()
}

/// An empty file.
pub fn empty(dir: &Path) -> OwnedFd {
    let path = dir.join("empty");
    File::create(&path).unwrap().flush().unwrap();
    File::open(path).unwrap().into()
}

/// A `cpio` archive (`newc`) with its trailer alone.
fn empty_archive() -> Vec<u8> {
    let mut archive = b"070701".to_vec();
    for field in [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 11, 0] {
        archive.extend(format!("{field:08x}").bytes());
    }
    archive.extend(b"TRAILER!!!\0\0\0\0");
    archive
}
