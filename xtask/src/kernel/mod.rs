//! `cargo xtask kernel`: the guest's kernel.
//!
//! Debian's source package, the fragments in `guest/kernel/` and the compiler make one `vmlinux`. It is kept
//! in the user's cache under the hash of those inputs, so that it is compiled once, and again only when
//! one of them changes.

mod cache;
mod compile;
mod config;
mod recipe;
mod source;

pub use cache::{Options, install, run};
