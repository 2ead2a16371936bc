//! Mount attributes that can be changed on a tree of mounts at once (`mount_setattr(2)`).
#![allow(unsafe_code, reason = "mount_setattr has no safe interface yet")]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Attributes to set and to clear, as `MOUNT_ATTR_*` bits, and the propagation (`MS_SHARED` and its kin,
/// 0 to leave it).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change {
    /// Bits to set.
    pub set: u64,
    /// Bits to clear; [`ATIME`] must be cleared whenever one of its values is set.
    pub clear: u64,
    /// New propagation, 0 for none.
    pub propagation: u64,
}

/// `MOUNT_ATTR_RDONLY`: no writes through this mount.
pub const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY;
/// `MOUNT_ATTR_NOSUID`: set-user-id and file capabilities are ignored.
pub const NO_SUID: u64 = libc::MOUNT_ATTR_NOSUID;
/// `MOUNT_ATTR_NODEV`: device nodes cannot be opened.
pub const NO_DEVICES: u64 = libc::MOUNT_ATTR_NODEV;
/// `MOUNT_ATTR_NOEXEC`: no programs are run from it.
pub const NO_EXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
/// `MOUNT_ATTR__ATIME`: the field of access time values.
pub const ATIME: u64 = libc::MOUNT_ATTR__ATIME;
/// `MOUNT_ATTR_NOATIME`: access times are not kept.
pub const NO_ATIME: u64 = libc::MOUNT_ATTR_NOATIME;
/// `MOUNT_ATTR_STRICTATIME`: access times are always kept.
pub const STRICT_ATIME: u64 = libc::MOUNT_ATTR_STRICTATIME;
/// `MOUNT_ATTR_NODIRATIME`: access times of directories are not kept.
pub const NO_DIRECTORY_ATIME: u64 = libc::MOUNT_ATTR_NODIRATIME;
/// `MOUNT_ATTR_NOSYMFOLLOW`: symbolic links are not followed.
pub const NO_SYMLINKS: u64 = libc::MOUNT_ATTR_NOSYMFOLLOW;

/// Changes the mount at `path` (looked up from `directory`; empty for the mount that `directory` is), with
/// all mounts below it when `recursive`.
///
/// # Errors
/// `EINVAL` when the path is no mount or bits contradict each other; `EPERM`; `ENOSYS` before Linux 5.12.
pub fn change(directory: BorrowedFd<'_>, path: &CStr, recursive: bool, change: Change) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: change.set,
        attr_clr: change.clear,
        propagation: change.propagation,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is NUL-terminated and `attributes` has the size told.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            directory.as_raw_fd(),
            path.as_ptr(),
            flags,
            &attributes,
            size_of_val(&attributes),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
