//! PID 1 of the guest: mounts, network, containers, processes and their stdio.
//!
//! `boot` makes a machine of a bare kernel and `port` is the byte stream to the host. A [`session`] answers
//! the calls that come over it; [`Agent`] is what they act on. A call to create a container goes through `spec`,
//! `disks`, `rootfs`, `cgroup` and `devicefilter` to `container`, whose `launch` runs in the forked child; `process` and
//! `stdio` are the agent's side of that child, `reaper` its end. `pod`, `network` and `memory` are what containers
//! of the pod share, `usage` what they use, `files` what is copied in and out of them; `steps` keeps
//! account of the time it all takes, `volumes` of what containers have beside their root filesystems. `init` is what runs
//! a container's program where the container wants an init. `uevent` and `deadline` wait for what the kernel does in its
//! own time.

mod agent;
mod boot;
mod cgroup;
mod console;
mod container;
mod deadline;
mod devicefilter;
mod disks;
mod failure;
mod files;
pub mod init;
mod memory;
mod netlink;
mod network;
mod pids;
mod pod;
mod port;
mod process;
mod reaper;
mod rootfs;
pub mod session;
mod spec;
mod stdio;
mod steps;
mod uevent;
mod usage;
mod volumes;

pub use agent::{Agent, Places};
pub use boot::{power_off, run};
pub use disks::{Disks, Sysfs};
pub use failure::Failed;
