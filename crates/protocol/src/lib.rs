//! Messages between host and guest and between engine and shim. No I/O.
//!
//! Three conversations are defined here, each in its own module:
//! [`hello`] opens a link between a shim and the agent in its guest, [`agent`] is what they then say to
//! each other, and [`shim`] is what an engine tells a shim beyond containerd's own API. [`frame`] is the
//! encoding shared by the last two, [`channel`] the one of resumable byte channels and [`files`] that of copied files,
//! and [`port`] is what both sides of a published port say of it.

pub mod agent;
pub mod capability;
pub mod channel;
pub mod files;
pub mod frame;
pub mod hello;
pub mod port;
pub mod shim;
