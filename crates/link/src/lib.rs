//! One byte stream between host and guest: multiplexed, versioned and resumable.
//!
//! Every hypervisor can offer one byte stream between a shim and the agent in its guest. Over it this crate
//! opens a session ([`HostLink::open`], [`GuestLink::accept`]) in which the host opens streams with flow control
//! of their own (yamux), makes calls on them ([`HostLink::call`]) and carries stdio ([`channel`]) so that
//! a session that ends loses nothing. Files in reading order: `hello` opens a session, `session` multiplexes
//! it, `message` reads and writes frames, `channel` resumes.

pub mod channel;
mod error;
mod hello;
mod message;
mod session;

pub use error::{CallError, LinkError};
pub use message::{read_frame, write_frame};
pub use session::{GuestLink, HostLink, Stream};
