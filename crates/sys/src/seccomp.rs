//! System call filters: classic BPF programs that the kernel runs before each system call.
#![allow(unsafe_code, reason = "a filter is installed by the seccomp system call alone")]

use std::io;

/// Most instructions of a filter (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;

/// One instruction (`struct sock_filter`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when a comparison holds.
    pub jump_true: u8,
    /// Instructions to skip when it does not.
    pub jump_false: u8,
    /// Operand.
    pub operand: u32,
}

/// Installs a filter on the calling thread; it can never be removed. `flags` are `SECCOMP_FILTER_FLAG_*`
/// other than `NEW_LISTENER`.
///
/// # Errors
/// `EACCES` when the thread has neither `CAP_SYS_ADMIN` nor no-new-privileges; `EINVAL` when the program is not
/// valid, is longer than [`MAX_INSTRUCTIONS`] or a flag is unknown.
pub fn install(program: &[Instruction], flags: u64) -> io::Result<()> {
    if program.len() > MAX_INSTRUCTIONS || flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER != 0 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut instructions: Vec<libc::sock_filter> = program
        .iter()
        .map(|i| libc::sock_filter { code: i.code, jt: i.jump_true, jf: i.jump_false, k: i.operand })
        .collect();
    let filter = libc::sock_fprog { len: program.len() as u16, filter: instructions.as_mut_ptr() };
    // SAFETY: `filter` points at `len` instructions, which the kernel copies and verifies.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &filter) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
