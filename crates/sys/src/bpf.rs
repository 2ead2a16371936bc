//! eBPF programs that rule which devices the processes of a cgroup may use.
#![allow(unsafe_code, reason = "bpf(2) has no safe interface")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `BPF_PROG_LOAD` of `enum bpf_cmd`.
const PROG_LOAD: libc::c_int = 5;
/// `BPF_PROG_ATTACH` of `enum bpf_cmd`.
const PROG_ATTACH: libc::c_int = 8;
/// `BPF_PROG_TYPE_CGROUP_DEVICE` of `enum bpf_prog_type`.
const TYPE_CGROUP_DEVICE: u32 = 15;
/// `BPF_CGROUP_DEVICE` of `enum bpf_attach_type`.
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// `BPF_F_REPLACE`: the attached program takes the place of another.
const REPLACE: u32 = 4;
/// `BPF_F_ALLOW_MULTI`: cgroups below may attach programs of their own.
const ALLOW_MULTI: u32 = 2;

/// Loads a device program: instructions encoded as the kernel's `struct bpf_insn`, 8 bytes each.
///
/// # Errors
/// `EINVAL` or `EACCES` when the kernel's verifier refuses the program; `EPERM` without `CAP_BPF`; `ENOSYS`.
pub fn load_device_program(instructions: &[u64]) -> io::Result<OwnedFd> {
    /// The leading fields of `union bpf_attr` for `BPF_PROG_LOAD`.
    #[repr(C)]
    #[derive(Default)]
    struct Load {
        prog_type: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
    }
    let load = Load {
        prog_type: TYPE_CGROUP_DEVICE,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..Load::default()
    };
    // SAFETY: `load` is a prefix of `union bpf_attr` of the size told, and its pointers outlive the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &load, size_of::<Load>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Attaches a device program to a cgroup, in the place of `replaced` if there is one.
///
/// # Errors
/// `EPERM`; `ENOENT` when `replaced` is not attached there.
pub fn attach_device_program(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    replaced: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    /// The leading fields of `union bpf_attr` for `BPF_PROG_ATTACH`.
    #[repr(C)]
    struct Attach {
        target: i32,
        program: i32,
        attach_type: u32,
        flags: u32,
        replaced: i32,
    }
    let attach = Attach {
        target: cgroup.as_raw_fd(),
        program: program.as_raw_fd(),
        attach_type: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI | if replaced.is_some() { REPLACE } else { 0 },
        replaced: replaced.map_or(0, |fd| fd.as_raw_fd()),
    };
    // SAFETY: `attach` is a prefix of `union bpf_attr` of the size told.
    let result = unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &attach, size_of::<Attach>()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
