//! The kernel's random generator.
#![allow(unsafe_code, reason = "entropy is credited by an ioctl with a pointer")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// `RNDADDENTROPY` of `linux/random.h`: `_IOW('R', 0x03, int[2])`.
const ADD_ENTROPY: libc::Ioctl = 0x4008_5203;

/// Most bytes that [`add`] takes.
pub const MAX_SEED: usize = 512;

/// `RNDRESEEDCRNG` of `linux/random.h`: `_IO('R', 0x07)`.
const RESEED: libc::Ioctl = 0x5207;

/// Mixes secret random bytes into the generator, credits it with all their bits, and makes it depend on them at once:
/// by itself it goes on for a minute with what it had, which a clone shares with its template.
///
/// # Errors
/// `EINVAL` for more than [`MAX_SEED`] bytes; `/dev/random` cannot be opened; `EPERM` without `CAP_SYS_ADMIN`.
pub fn add(seed: &[u8]) -> io::Result<()> {
    /// `struct rand_pool_info`.
    #[repr(C)]
    struct Pool {
        bits: libc::c_int,
        size: libc::c_int,
        bytes: [u8; MAX_SEED],
    }
    if seed.len() > MAX_SEED {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut pool = Pool { bits: seed.len() as i32 * 8, size: seed.len() as i32, bytes: [0; MAX_SEED] };
    pool.bytes[..seed.len()].copy_from_slice(seed);
    let device = File::options().write(true).open("/dev/random")?;
    // SAFETY: the kernel reads the two numbers and then `size` bytes, which are within `pool`.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), ADD_ENTROPY, &pool) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has no argument.
    match unsafe { libc::ioctl(device.as_raw_fd(), RESEED) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
