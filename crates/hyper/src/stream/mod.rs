//! A container's terminal or pipes on ours: raw mode, signals, detach keys, and the bytes themselves.

mod detach;
mod hijack;
mod signals;
mod terminal;

pub use detach::DetachKeys;
pub use hijack::{End, Frames, Output, Plan, StreamError, Traffic, pump};
pub use signals::{Signals, resize_on_change};
pub use terminal::{
    INTERRUPT, RawMode, Silence, restore_terminal, stderr_is_terminal, stdin_is_terminal, stdout_is_terminal,
    window_size,
};
