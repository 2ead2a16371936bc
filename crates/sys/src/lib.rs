//! Safe wrappers over system calls, one module per kernel facility.

pub mod bpf;
pub mod child;
pub mod entropy;
pub mod holes;
pub mod keyring;
pub mod kvm;
pub mod mount;
pub mod namespace;
pub mod seccomp;
pub mod spawn;
pub mod tap;
pub mod tsc;
#[cfg(feature = "watch")]
pub mod watch;
