//! Driver for QEMU (`qemu-system-x86_64`), with KVM or without.
//!
//! `argv` is the command line, `qmp` the control socket, `launch` starts the process and `vm` holds it; `templates`
//! saves a VM and brings up others from what was saved.

mod argv;
mod disks;
mod launch;
mod qmp;
mod templates;
mod vm;

pub use launch::Qemu;
