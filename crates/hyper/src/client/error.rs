//! Why a call to the daemon failed.

use std::io;

use bollard::errors::Error as Bollard;

use crate::error::{EXIT_DAEMON, start_failure_code};

/// A failed call.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The daemon refused; its text says why.
    #[error("{message}")]
    Daemon {
        /// HTTP status code.
        status: u16,
        /// The daemon's own words.
        message: String,
    },
    /// Nobody answers at the address.
    #[error("cannot connect to the daemon at {endpoint}")]
    Connect {
        /// The address.
        endpoint: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The daemon was not there and could not be started.
    #[error(transparent)]
    Start(#[from] crate::daemon::StartError),
    /// The connection broke.
    #[error("the connection to the daemon broke")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer is not what the API says.
    #[error("cannot understand the daemon's answer to {request}")]
    Answer {
        /// Method and path.
        request: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The daemon sent a line longer than we keep in memory.
    #[error("the daemon sent a line of more than {limit} bytes")]
    LineTooLong {
        /// The bound in bytes.
        limit: usize,
    },
    /// The daemon did not switch to a raw stream.
    #[error("the daemon did not open a stream for {request}")]
    NotHijacked {
        /// Method and path.
        request: String,
    },
    /// A name that cannot be part of a request.
    #[error("invalid {what} name or ID: value is empty")]
    EmptyName {
        /// Kind of object.
        what: &'static str,
    },
    /// Anything else the API client says.
    #[error("the call to the daemon failed")]
    Client(#[source] Box<Bollard>),
}

impl ApiError {
    /// The HTTP status the daemon answered with.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Daemon { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// The daemon went away, or is not there: the next one can be asked again.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Broken(_))
    }

    /// The daemon says the object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }

    /// What the user can do next, where we know.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Start(error) => error.hint(),
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("run as root, or as a user who may write to the socket".into())
            }
            Self::Connect { .. } => Some("`hyper doctor` says what is wrong".into()),
            Self::Daemon { status: 404, message } => not_found_hint(message),
            Self::Daemon { status: 409, message } if message.contains("is already in use by container") => {
                Some("remove or rename that container, or choose another name".into())
            }
            // Neither what is not supported (501) nor what the image or its command lacks is the machine's fault.
            Self::Daemon { status: 500, message } if start_failure_code(message) == EXIT_DAEMON => {
                Some("`hyper doctor` checks this machine".into())
            }
            _ => None,
        }
    }
}

fn not_found_hint(message: &str) -> Option<String> {
    let lower = message.to_lowercase();
    if lower.contains("no such container") {
        Some("`hyper ps -a` lists all containers".into())
    } else if lower.contains("no such image") {
        Some("`hyper images` lists the local images, `hyper pull` gets one".into())
    } else if lower.contains("page not found") {
        Some("the daemon does not know this call; compare `hyper version`'s two halves".into())
    } else {
        None
    }
}

impl From<Bollard> for ApiError {
    fn from(error: Bollard) -> Self {
        match error {
            Bollard::DockerResponseServerError { status_code, message } => {
                Self::Daemon { status: status_code, message }
            }
            Bollard::DockerStreamError { error } => Self::Daemon { status: 500, message: error },
            Bollard::IOError { err } => match err.downcast::<Self>() {
                Ok(ours) => ours,
                Err(other) => Self::Broken(Box::new(other)),
            },
            Bollard::HyperResponseError { err } => Self::Broken(Box::new(err)),
            other => Self::Client(Box::new(other)),
        }
    }
}
