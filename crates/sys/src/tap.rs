//! Tap devices: Ethernet interfaces whose other end is a file descriptor.
#![allow(unsafe_code, reason = "tun/tap devices are configured by ioctl alone")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

/// The control device (`Documentation/networking/tuntap.rst`).
const CONTROL: &str = "/dev/net/tun";
/// Longest link name in bytes: `IFNAMSIZ` of `linux/if.h` less the final NUL.
const NAME_MAX: usize = libc::IFNAMSIZ - 1;

/// A tap operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TapError {
    /// The name is empty, too long, or has a byte the kernel refuses.
    #[error("{0:?} is no valid link name (1 to 15 bytes, no '/', ':' or white space)")]
    Name(String),
    /// `/dev/net/tun` does not exist: the `tun` module is not loaded.
    #[error("/dev/net/tun does not exist")]
    NoDevice(#[source] io::Error),
    /// `/dev/net/tun` cannot be opened.
    #[error("cannot open /dev/net/tun")]
    Open(#[source] io::Error),
    /// No link of this name exists.
    #[error("link {0} does not exist")]
    Missing(String),
    /// Another process holds the tap open.
    #[error("tap {0} is in use by another process")]
    Busy(String),
    /// The name belongs to a link that is no tap.
    #[error("link {0} is no tap")]
    NotTap(String),
    /// The caller lacks `CAP_NET_ADMIN` and does not own the tap.
    #[error("not permitted to use tap {name}")]
    Permission {
        /// Name of the tap.
        name: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a setting.
    #[error("cannot {attempt} of tap {name}")]
    Ioctl {
        /// What was attempted.
        attempt: &'static str,
        /// Name of the tap.
        name: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// Makes sure that a persistent tap called `name` exists; it outlives this
/// process until [`remove`] or `ip link delete`. Without `CAP_NET_ADMIN` only
/// the uid `owner` may open it. (A tap whose owner is never set may be opened
/// by whoever can open `/dev/net/tun`, which is everybody on most hosts.)
///
/// # Errors
/// See [`TapError`]; [`TapError::Busy`] when the tap exists and is open.
pub fn create(name: &str, owner: u32) -> Result<(), TapError> {
    check_name(name)?;
    let tap = attach(name, 0)?;
    control(&tap, name, "set the owner", libc::TUNSETOWNER, u64::from(owner))?;
    control(&tap, name, "set the persistence", libc::TUNSETPERSIST, 1)
}

/// Opens the existing tap `name` for frames without any header: one read or
/// write is one Ethernet frame. The descriptor is non-blocking and
/// close-on-exec.
///
/// # Errors
/// See [`TapError`].
pub fn open(name: &str) -> Result<OwnedFd, TapError> {
    open_existing(name, 0)
}

/// As [`open`], but each frame is preceded by a `struct virtio_net_hdr`
/// (`IFF_VNET_HDR`), which lets checksums and segmentation be offloaded.
///
/// # Errors
/// See [`TapError`].
pub fn open_with_vnet_header(name: &str) -> Result<OwnedFd, TapError> {
    open_existing(name, libc::IFF_VNET_HDR)
}

/// A tap that leads nowhere: joined to nothing, down, and gone with its descriptor, which is as that of
/// [`open_with_vnet_header`].
///
/// # Errors
/// See [`TapError`]; it takes `CAP_NET_ADMIN`.
pub fn loose() -> Result<OwnedFd, TapError> {
    // The kernel puts the first free number there.
    attach("hyloose%d", libc::IFF_VNET_HDR).map(OwnedFd::from)
}

/// Removes the persistent tap `name`; one that does not exist is no error.
/// The link vanishes at once when no process holds it open.
///
/// # Errors
/// See [`TapError`]; [`TapError::Busy`] while a process holds it open.
pub fn remove(name: &str) -> Result<(), TapError> {
    match open(name) {
        Ok(tap) => control(&File::from(tap), name, "end the persistence", libc::TUNSETPERSIST, 0),
        Err(TapError::Missing(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Opens `name` after checking that it exists, because `TUNSETIFF` on an
/// unknown name would make a new, unbridged tap.
fn open_existing(name: &str, flags: libc::c_int) -> Result<OwnedFd, TapError> {
    check_name(name)?;
    if !exists(name) {
        return Err(TapError::Missing(name.to_owned()));
    }
    attach(name, flags).map(OwnedFd::from)
}

/// Whether a link called `name` exists in this thread's network namespace.
fn exists(name: &str) -> bool {
    let Ok(name) = std::ffi::CString::new(name) else { return false };
    // SAFETY: `name` is a NUL-terminated string that outlives the call.
    unsafe { libc::if_nametoindex(name.as_ptr()) != 0 }
}

fn check_name(name: &str) -> Result<(), TapError> {
    let valid = !name.is_empty()
        && name.len() <= NAME_MAX
        && name != "."
        && name != ".."
        && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':' && b != b'%');
    if valid { Ok(()) } else { Err(TapError::Name(name.chars().take(32).collect())) }
}

fn attach(name: &str, extra: libc::c_int) -> Result<File, TapError> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(CONTROL)
        .map_err(|source| match source.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TapError::NoDevice(source),
            _ => TapError::Open(source),
        })?;
    // SAFETY: `ifreq` is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | extra;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which `request` is.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &mut request) };
    if result == 0 {
        return Ok(device);
    }
    let source = io::Error::last_os_error();
    let name = name.to_owned();
    Err(match source.raw_os_error() {
        Some(libc::EBUSY) => TapError::Busy(name),
        Some(libc::EINVAL) => TapError::NotTap(name),
        Some(libc::EPERM | libc::EACCES) => TapError::Permission { name, source },
        _ => TapError::Ioctl { attempt: "take the descriptor", name, source },
    })
}

/// One ioctl on a tap whose argument is a plain number.
fn control(
    tap: &File,
    name: &str,
    attempt: &'static str,
    request: libc::Ioctl,
    value: u64,
) -> Result<(), TapError> {
    // SAFETY: TUNSETOWNER and TUNSETPERSIST take their argument by value and
    // touch no memory of ours.
    match unsafe { libc::ioctl(tap.as_raw_fd(), request, value as libc::c_ulong) } {
        0 => Ok(()),
        _ => Err(TapError::Ioctl { attempt, name: name.to_owned(), source: io::Error::last_os_error() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_kernel_would_refuse_are_refused_before() {
        for name in ["", ".", "..", "a/b", "a b", "a:b", "tap%d", "0123456789abcdef", "ä"] {
            assert!(matches!(create(name, 0), Err(TapError::Name(_))), "{name:?}");
        }
    }

    #[test]
    fn opening_an_unknown_tap_makes_none() {
        assert!(matches!(open("hyper-nosuch"), Err(TapError::Missing(_))));
        assert!(!exists("hyper-nosuch"));
    }
}
