//! One container, from its specification to the program that runs in it. Files in reading order: `mounts` reads
//! mount options, `identity` finds users, `capability` and `rlimit` know the kernel's names, `filter`
//! reads compiled seccomp filters, `devices` makes device nodes; `launch` is the child's way from the agent to the program,
//! with `root` building the container's file tree on it, `populate` filling new volumes, and `program` finding what to execute.

pub(crate) mod capability;
pub(crate) mod devices;
pub(crate) mod filter;
pub(crate) mod identity;
pub(crate) mod launch;
pub(crate) mod mounts;
pub(crate) mod populate;
pub(crate) mod program;
pub(crate) mod rlimit;
pub(crate) mod root;
