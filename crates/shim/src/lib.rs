//! One host process per pod, serving containerd's shim v2 API.
//!
//! [`run()`] is the program: `start` puts a process into the background that is the shim (`serve`), `delete` cleans up
//! behind one that died. `service` turns containerd's messages into calls on `tasks` and `pod`; `phase` says
//! what is allowed when. `guest` is the agent over a link that may break, `stdio` the streams of processes, and
//! `service_socket` what containerd's API has no word for.

mod args;
mod boot;
mod clock;
mod container;
mod delete;
mod devices;
mod disks;
mod doctor;
mod error;
mod events;
mod exits;
mod guest;
mod home;
mod idle;
mod implicit;
mod phase;
mod pod;
mod ports;
mod process;
mod run;
mod seccomp;
mod serve;
mod service;
mod service_socket;
mod share;
mod start;
mod stdio;
mod tasks;
mod templates;
#[cfg(test)]
#[allow(clippy::unwrap_used, missing_docs, reason = "a failed step fails the test")]
mod testing;
mod timeline;
mod volumes;

pub use run::run;
