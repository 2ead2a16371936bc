//! Standard input and output of processes: the log, attached clients, and the guest's channels.
//!
//! Output goes from the guest's channel through [`Fanout`] to the log and to every client, and is acknowledged to
//! the guest only then: a client that stops reading stops the process, and nothing here grows. Input goes from
//! any client through [`Input`] to the guest. A client with a `Session` may lose its connection: recent output is kept
//! for it, its input counted, and it goes on at the very byte.

mod client;
mod fanout;
mod fifo;
mod history;
mod input;
mod log;
mod pump;
mod remote;
mod session;

pub use client::{Attachment, Membership, serve};
pub use fanout::{Fanout, Interest};
pub use fifo::{check as check_fifo, open_input, open_output};
pub use history::ResumeError;
pub use input::Input;
pub use log::JsonLog;
pub use pump::{drain, pump_input, pump_output};
pub use session::is_key;
