//! Why a request to the engine failed.

use std::error::Error as StdError;
use std::fmt::Write as _;

/// Kinds of failure that callers tell apart; the API has a status for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The request makes no sense.
    Invalid,
    /// What it is about does not exist.
    NotFound,
    /// What it is about is in another state, or a name is taken.
    Conflict,
    /// It may not be done.
    Forbidden,
    /// Nothing to do: it is so already.
    NotModified,
    /// Hyper does not do this (yet).
    Unsupported,
    /// A registry refused.
    Unauthorized,
    /// Something else than Hyper is not there.
    Unavailable,
    /// Anything else.
    System,
}

/// A request failed: its kind, what to tell the user, and why.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct EngineError {
    /// Its kind.
    pub kind: Kind,
    /// What was attempted and what is wrong with it.
    pub message: String,
    /// The cause, where there is one; its text is not in `message`.
    #[source]
    pub source: Option<Box<dyn StdError + Send + Sync>>,
    /// What the user can do about it.
    pub hint: Option<String>,
}

impl EngineError {
    /// A failure without a deeper cause.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None, hint: None }
    }

    /// [`Kind::Invalid`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    /// [`Kind::Conflict`].
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(Kind::Conflict, message)
    }

    /// [`Kind::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    /// [`Kind::Unsupported`].
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(Kind::Unsupported, message)
    }

    /// [`Kind::System`] with a cause.
    pub fn system(message: impl Into<String>, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { kind: Kind::System, message: message.into(), source: Some(source.into()), hint: None }
    }

    /// The same with a next step for the user.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The whole chain in one line, and the hint after it.
    pub fn report(&self) -> String {
        let mut text = self.message.clone();
        let mut cause = self.source();
        while let Some(error) = cause {
            let _ = write!(text, ": {error}");
            cause = error.source();
        }
        if let Some(hint) = &self.hint {
            let _ = write!(text, " (hint: {hint})");
        }
        text
    }
}

/// What the engine's functions return.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;

fn of_image(kind: hyper_image::ErrorKind) -> Kind {
    use hyper_image::ErrorKind;
    match kind {
        ErrorKind::InvalidInput => Kind::Invalid,
        ErrorKind::Unauthorized | ErrorKind::Forbidden => Kind::Unauthorized,
        ErrorKind::NotFound => Kind::NotFound,
        ErrorKind::Conflict => Kind::Conflict,
        // A registry that cannot be used: dockerd's status is 500, and clients know it.
        ErrorKind::Unavailable | ErrorKind::TooManyRequests | ErrorKind::NoSpace | ErrorKind::Internal => {
            Kind::System
        }
    }
}

macro_rules! from_image_error {
    ($($error:ident),*) => {$(
        impl From<hyper_image::$error> for EngineError {
            fn from(error: hyper_image::$error) -> Self {
                let kind = of_image(error.kind());
                Self { kind, message: error.to_string(), source: cause(error), hint: None }
            }
        }
    )*};
}

from_image_error!(
    CommitError,
    ImportError,
    LoadError,
    LoginError,
    LookupError,
    PullError,
    PushError,
    RemoveError,
    SaveError,
    TagError
);

/// The causes below `error`, as one error of their own.
fn cause(error: impl StdError) -> Option<Box<dyn StdError + Send + Sync>> {
    let mut text = String::new();
    let mut below = error.source();
    while let Some(error) = below {
        if !text.is_empty() {
            text.push_str(": ");
        }
        let _ = write!(text, "{error}");
        below = error.source();
    }
    (!text.is_empty()).then(|| text.into())
}

impl From<hyper_image::ParseReferenceError> for EngineError {
    fn from(error: hyper_image::ParseReferenceError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<hyper_network::NetworkError> for EngineError {
    fn from(error: hyper_network::NetworkError) -> Self {
        let hint = error.hint();
        Self { kind: Kind::System, message: error.to_string(), source: cause(error), hint }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_names_every_cause_once_and_the_hint() {
        let error = EngineError::system("cannot open database", std::io::Error::other("disk on fire"))
            .with_hint("buy a bucket");
        assert_eq!(error.report(), "cannot open database: disk on fire (hint: buy a bucket)");
    }
}
