//! The kernel's keyrings.
#![allow(unsafe_code, reason = "keyctl has no safe interface")]

use std::io;

/// `KEYCTL_JOIN_SESSION_KEYRING` of `linux/keyctl.h`.
const JOIN_SESSION: libc::c_int = 1;

/// Gives the calling process a new session keyring, so that it shares no keys with the caller's. A kernel
/// without keyrings has nothing to share.
///
/// # Errors
/// `EDQUOT`: the user has too many keys; `ENOMEM`; `EACCES`.
pub fn join_new_session() -> io::Result<()> {
    let anonymous: *const libc::c_char = std::ptr::null();
    // SAFETY: a null name asks for an anonymous keyring; no memory is touched.
    if unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION, anonymous) } >= 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        error => Err(error),
    }
}
