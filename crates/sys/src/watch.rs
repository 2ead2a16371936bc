//! Descriptors in the care of a tokio runtime.
#![allow(unsafe_code, reason = "tokio cannot know that a descriptor stays the same; its owner does")]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches a descriptor, which should be non-blocking, on the current runtime.
///
/// # Errors
/// `EPERM` for files that cannot be watched, such as regular ones; the runtime is at its bounds.
///
/// # Panics
/// Outside of a runtime with I/O.
pub fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open and the same until it is dropped, and `AsyncFd` gives out only shared
    // references to it.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)
}
