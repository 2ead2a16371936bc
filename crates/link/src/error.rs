//! Why a session or a call fails.

use hyper_protocol::agent::{Failure, Reply};
use hyper_protocol::frame::FrameError;
use hyper_protocol::hello::VERSION;
use thiserror::Error;

/// A session could not be opened, or has ended.
#[derive(Debug, Error)]
pub enum LinkError {
    /// Reading or writing the byte stream failed.
    #[error("link to the other end failed")]
    Io(#[from] std::io::Error),
    /// The other end closed the byte stream.
    #[error("link was closed by the other end")]
    Closed,
    /// The other end speaks another version.
    #[error("other end of the link speaks version {theirs}, this end version {VERSION}")]
    Version {
        /// The version of the other end.
        theirs: u32,
    },
    /// The multiplexer gave up.
    #[error("link is out of step")]
    Multiplex(#[source] yamux::ConnectionError),
    /// A message was too long or not what was expected.
    #[error("message on the link is not valid")]
    Frame(#[from] FrameError),
}

/// A call was not answered as expected.
#[derive(Debug, Error)]
pub enum CallError {
    /// The session failed before the answer; whether the call took effect is unknown.
    #[error("agent was not reached")]
    Link(#[from] LinkError),
    /// The agent refused or failed.
    #[error(transparent)]
    Failed(Failure),
    /// The agent answered something that does not belong to the request.
    #[error("agent gave an answer of the wrong kind: {0:?}")]
    Unexpected(Box<Reply>),
}
