//! Namespaces of the calling thread.
#![allow(unsafe_code, reason = "unshare has no safe interface")]

use std::io;
use std::os::fd::BorrowedFd;

/// A set of namespaces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// Mounts. Leaving the shared one also makes root and working directory the thread's own.
    pub mount: bool,
    /// Host and domain name.
    pub uts: bool,
    /// System V and POSIX message IPC.
    pub ipc: bool,
    /// Network.
    pub network: bool,
    /// View of the cgroup tree.
    pub cgroup: bool,
}

impl Namespaces {
    fn flags(self) -> libc::c_int {
        [
            (self.mount, libc::CLONE_NEWNS),
            (self.uts, libc::CLONE_NEWUTS),
            (self.ipc, libc::CLONE_NEWIPC),
            (self.network, libc::CLONE_NEWNET),
            (self.cgroup, libc::CLONE_NEWCGROUP),
        ]
        .iter()
        .filter(|(chosen, _)| *chosen)
        .fold(0, |flags, (_, flag)| flags | flag)
    }
}

/// Moves the calling thread into new namespaces.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`; `EINVAL` when the kernel lacks one of them.
pub fn leave(namespaces: Namespaces) -> io::Result<()> {
    // SAFETY: none of these flags unshares the descriptor table, on which I/O safety rests.
    if unsafe { libc::unshare(namespaces.flags()) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Moves the calling thread into namespaces of the process behind a PID descriptor.
///
/// # Errors
/// `ESRCH` when that process has ended; `EPERM`; `EINVAL` for mounts when the thread shares its working
/// directory with others.
pub fn join(process: BorrowedFd<'_>, namespaces: Namespaces) -> io::Result<()> {
    crate::child::join(process, namespaces.flags())
}
