//! The kinds that are played, and all that hangs below them: one declaration a type (see `table.rs`).

mod affinity;
mod config;
mod container;
mod env;
mod job;
mod meta;
mod pod;
mod probe;
mod security;
mod service;
mod volume;
mod workload;

pub use affinity::*;
pub use config::*;
pub use container::*;
pub use env::*;
pub use job::*;
pub use meta::*;
pub use pod::*;
pub use probe::*;
pub use security::*;
pub use service::*;
pub use volume::*;
pub use workload::*;

/// Why something that is decided by a cluster's scheduler is not supported.
const ONE_NODE: &str = "there is no cluster and no scheduler: everything runs on this host";

/// Why something that crosses the VM's wall is refused.
const WALL: &str = "a pod is a virtual machine: what is the host's stays outside of it";

/// Why something that Kubernetes has is refused for now.
const LATER: &str = "not built yet";

/// Why something that Kubernetes has had for a short time, or behind a feature gate, is refused.
const ALPHA: &str = "new in Kubernetes, not built yet";

/// Why something is no concern of a file's.
const SERVER: &str = "kept by an API server, not by a file";
