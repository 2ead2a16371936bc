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

impl Instruction {
    /// As `struct sock_filter` lies in memory on x86-64.
    pub fn to_bytes(self) -> [u8; 8] {
        let [code_low, code_high] = self.code.to_le_bytes();
        let [a, b, c, d] = self.operand.to_le_bytes();
        [code_low, code_high, self.jump_true, self.jump_false, a, b, c, d]
    }

    /// The instruction of [`Instruction::to_bytes`].
    pub fn from_bytes(bytes: [u8; 8]) -> Self {
        let [code_low, code_high, jump_true, jump_false, a, b, c, d] = bytes;
        Self {
            code: u16::from_le_bytes([code_low, code_high]),
            jump_true,
            jump_false,
            operand: u32::from_le_bytes([a, b, c, d]),
        }
    }

    pub(crate) fn to_kernel(self) -> libc::sock_filter {
        libc::sock_filter { code: self.code, jt: self.jump_true, jf: self.jump_false, k: self.operand }
    }
}

/// A filter that refuses (`EOPNOTSUPP`) to punch holes into files and allows everything else.
pub(crate) fn without_holes() -> Vec<Instruction> {
    for_holes(libc::SECCOMP_RET_ERRNO | libc::EOPNOTSUPP as u32)
}

/// A filter with this verdict on punching holes into files that allows everything else.
pub(crate) fn for_holes(verdict: u32) -> Vec<Instruction> {
    /// `AUDIT_ARCH_X86_64` of `linux/audit.h`.
    const ARCH: u32 = 0xc000_003e;
    // Offsets in `struct seccomp_data`; of the second argument the lower half.
    const NUMBER_AT: u32 = 0;
    const ARCH_AT: u32 = 4;
    const MODE_AT: u32 = 24;
    let word = |at| Instruction {
        code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16,
        jump_true: 0,
        jump_false: 0,
        operand: at,
    };
    let jump = |how: u32, operand, jump_true, jump_false| Instruction {
        code: (libc::BPF_JMP | how | libc::BPF_K) as u16,
        jump_true,
        jump_false,
        operand,
    };
    let end = |operand| Instruction {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jump_true: 0,
        jump_false: 0,
        operand,
    };
    vec![
        word(ARCH_AT),
        jump(libc::BPF_JEQ, ARCH, 0, 4),
        word(NUMBER_AT),
        jump(libc::BPF_JEQ, libc::SYS_fallocate as u32, 0, 2),
        word(MODE_AT),
        jump(libc::BPF_JSET, libc::FALLOC_FL_PUNCH_HOLE as u32, 1, 0),
        end(libc::SECCOMP_RET_ALLOW),
        end(verdict),
    ]
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
    let mut instructions: Vec<libc::sock_filter> =
        program.iter().copied().map(Instruction::to_kernel).collect();
    let filter = libc::sock_fprog { len: program.len() as u16, filter: instructions.as_mut_ptr() };
    // SAFETY: `filter` points at `len` instructions, which the kernel copies and verifies.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &filter) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
