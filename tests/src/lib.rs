//! End-to-end tests against the built binaries: the harness.
//!
//! [`Instance`] is a private engine: own root, runtime directory and API
//! socket under a temporary directory, in an [`Engine`](lab::Lab) namespace of
//! its own that a veth pair joins to a second one, the world, with a name
//! server and a web server. Images are made from Debian packages once and
//! served by a registry at `localhost:5000` inside the engine's namespace.
//! [`Instance::finish`] stops everything and lists what was left behind.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a harness fails by panicking")]

pub mod binaries;
pub mod command;
pub mod docker;
pub mod guardian;
pub mod images;
pub mod instance;
pub mod lab;
pub mod layout;
pub mod leftovers;
pub mod namespace;
pub mod oracle;
pub mod pty;
pub mod registry;
pub mod world;

pub use binaries::Binaries;
pub use command::{Cmd, Output, Running};
pub use instance::{Cli, Dockerd, Instance, Options};
pub use lab::Lab;
pub use oracle::Oracle;
pub use pty::Terminal;
