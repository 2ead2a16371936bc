//! Resumable byte channels: stdio of processes, sent so that nothing is lost when the link is reopened.
//!
//! The sender keeps every byte until it is acknowledged, and at most [`WINDOW`] bytes; the receiver
//! acknowledges what it has passed on. A channel is opened by a call that names the offset at which the
//! receiver wants to go on ([`crate::agent::Request::ReadOutput`]) or answers with the one at which the
//! sender shall ([`crate::agent::Request::WriteInput`]). Then the sender writes *data frames*: `u32` length
//! in big endian (1 to [`MAX_DATA`]) and as many bytes, or a length of 0 for the end of the stream; the receiver
//! writes *acknowledgements*: the `u64` offset, in big endian, up to which it has taken everything. The end
//! of the stream is acknowledged by the final offset plus one.

/// Most bytes that a sender keeps unacknowledged.
pub const WINDOW: usize = 256 << 10;

/// Most bytes in one data frame.
pub const MAX_DATA: usize = 64 << 10;

/// A receiver acknowledges at the latest after this many bytes.
pub const ACK_EVERY: usize = 32 << 10;

const _: () = assert!(
    ACK_EVERY + MAX_DATA <= WINDOW,
    "a sender must never wait for an acknowledgement that is not due"
);
