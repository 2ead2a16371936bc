//! Why the shim refuses or fails.

use hyper_link::CallError;
use hyper_protocol::agent::{Failure, FailureKind};
use hyper_vm::{LaunchError, VmError};

/// A request was refused or failed. The text is meant for the one who asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShimError {
    /// No such container, process or pod.
    #[error("{0}")]
    NotFound(String),
    /// The name is taken.
    #[error("{0}")]
    AlreadyExists(String),
    /// Not in this state.
    #[error("{0}")]
    WrongState(String),
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// It cannot be done here.
    #[error("{0}")]
    Unsupported(String),
    /// The program could not be started, in runc's words.
    #[error("{0}")]
    Program(String),
    /// The pod's VM is gone.
    #[error("{0}")]
    Gone(String),
    /// The guest did not answer; whether it did what it was asked is not known.
    #[error("{0}")]
    Unanswered(String),
    /// Something failed.
    #[error("{0}")]
    Failed(String),
}

impl ShimError {
    /// A failure with the whole chain of its causes.
    pub fn failed(attempt: &str, error: &dyn std::error::Error) -> Self {
        Self::Failed(format!("{attempt}: {}", chain(error)))
    }
}

impl From<Failure> for ShimError {
    fn from(failure: Failure) -> Self {
        let message = failure.message;
        match failure.kind {
            FailureKind::Invalid => Self::Invalid(message),
            FailureKind::NotFound => Self::NotFound(message),
            FailureKind::AlreadyExists => Self::AlreadyExists(message),
            FailureKind::WrongState => Self::WrongState(message),
            FailureKind::Unsupported => Self::Unsupported(message),
            // The docker CLI tells exit codes 126 and 127 by the end of these texts.
            FailureKind::ProgramNotFound | FailureKind::ProgramNotExecutable | FailureKind::NoSuchUser => {
                Self::Program(if message.ends_with(": unknown") { message } else { message + ": unknown" })
            }
            FailureKind::System => Self::Failed(message),
        }
    }
}

impl From<CallError> for ShimError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Failed(failure) => failure.into(),
            other => Self::Unanswered(format!("the guest did not answer: {}", chain(&other))),
        }
    }
}

impl From<LaunchError> for ShimError {
    fn from(error: LaunchError) -> Self {
        match &error {
            LaunchError::Config(_) | LaunchError::Kernel { .. } => Self::Invalid(chain(&error)),
            _ => Self::Failed(chain(&error)),
        }
    }
}

impl From<VmError> for ShimError {
    fn from(error: VmError) -> Self {
        match error {
            VmError::Gone(reason) => Self::Gone(format!("the pod's VM is gone: {reason}")),
            VmError::Unable(_) => Self::Unsupported(error.to_string()),
            other => Self::Failed(chain(&other)),
        }
    }
}

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_program_ends_as_the_docker_cli_expects() {
        let message = "exec: \"nosuch\": executable file not found in $PATH".to_owned();
        let error: ShimError = Failure { kind: FailureKind::ProgramNotFound, message }.into();
        assert_eq!(error.to_string(), "exec: \"nosuch\": executable file not found in $PATH: unknown");
    }
}
