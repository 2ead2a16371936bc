//! The OCI runtime specification of a container, from what it was asked to be.

mod build;
mod capabilities;
mod process;
mod resources;
mod seccomp;
mod tmpfs;

pub(crate) use build::build;
pub use build::{DEFAULT_MASKED_PATHS, DEFAULT_READONLY_PATHS};
pub use process::ExecOptions;
pub(crate) use process::exec_process;
pub(crate) use resources::{limits, ulimit_is_known};
pub(crate) use tmpfs::check as check_tmpfs;
