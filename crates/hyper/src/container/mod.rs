//! `run`'s and `create`'s flags, and what they become in the API.

mod body;
mod files;
mod flags;
mod hardware;
mod health;
mod mount;
mod ports;
mod restart;
mod values;

pub use body::{Request, kernel_path, request};
pub use files::{environment, labels};
pub use flags::ContainerFlags;
pub use hardware::HardwareFlags;
pub use health::HealthFlags;
#[cfg(test)]
use mount::parse_mount;
pub use restart::parse_restart;
pub use values::{FlagError, parse_add_host, parse_bytes, parse_cpus, parse_pair};
