//! What a call was attempting when it failed.

use std::error::Error;
use std::fmt::Write;

use hyper_protocol::agent::{Failure, FailureKind};
use thiserror::Error;

/// An attempt that failed. Nobody inside the agent tells failures apart by more than their
/// [`FailureKind`]: all of them end as a [`Failure`] on the link, so one type carries them.
#[derive(Debug, Error)]
#[error("{attempt}")]
pub struct Failed {
    kind: FailureKind,
    attempt: String,
    #[source]
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Failed {
    /// A failure without a cause below it.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Failed { kind, attempt: message.into(), source: None }
    }

    /// The request makes no sense.
    pub fn invalid(message: impl Into<String>) -> Self {
        Failed::new(FailureKind::Invalid, message)
    }

    /// The guest cannot do what is asked.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Failed::new(FailureKind::Unsupported, message)
    }

    /// No such container or process.
    pub fn not_found(message: impl Into<String>) -> Self {
        Failed::new(FailureKind::NotFound, message)
    }

    /// Not possible in the present state.
    pub fn wrong_state(message: impl Into<String>) -> Self {
        Failed::new(FailureKind::WrongState, message)
    }

    /// What goes over the link: the whole chain of causes in one line.
    pub fn to_failure(&self) -> Failure {
        let mut message = self.attempt.clone();
        let mut cause = self.source();
        while let Some(error) = cause {
            // Writing to a string cannot fail.
            let _ = write!(message, ": {error}");
            cause = error.source();
        }
        Failure { kind: self.kind, message }
    }
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Failed { kind: failure.kind, attempt: failure.message, source: None }
    }
}

/// Says what was attempted when a system call or a parser fails.
pub trait Attempt<T> {
    /// Turns an error into a [`Failed`] of kind [`FailureKind::System`].
    ///
    /// # Errors
    /// As `self`.
    fn attempt(self, attempt: impl FnOnce() -> String) -> Result<T, Failed>;

    /// Turns an error into a [`Failed`] of kind [`FailureKind::Invalid`].
    ///
    /// # Errors
    /// As `self`.
    fn invalid(self, attempt: impl FnOnce() -> String) -> Result<T, Failed>;
}

impl<T, E: Error + Send + Sync + 'static> Attempt<T> for Result<T, E> {
    fn attempt(self, attempt: impl FnOnce() -> String) -> Result<T, Failed> {
        self.map_err(|e| Failed { kind: FailureKind::System, attempt: attempt(), source: Some(Box::new(e)) })
    }

    fn invalid(self, attempt: impl FnOnce() -> String) -> Result<T, Failed> {
        self.map_err(|e| Failed { kind: FailureKind::Invalid, attempt: attempt(), source: Some(Box::new(e)) })
    }
}
