//! What can go wrong with a registry.

use std::time::Duration;

/// A registry's refusal in its own words, as the distribution specification codes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// `UNAUTHORIZED`, `MANIFEST_UNKNOWN`, …; empty when it gave none.
    pub code: String,
    /// Its message; empty when it gave none.
    pub message: String,
    /// How long it asked to be left alone.
    pub retry_after: Option<Duration>,
}

/// Why a registry cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Name, connection, TLS or protocol.
    #[error("request to {url} fails")]
    Http {
        /// What was asked.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// Nothing came for too long.
    #[error("{url} does not answer: nothing came for {} s", after.as_secs())]
    Stalled {
        /// What was asked.
        url: String,
        /// How long.
        after: Duration,
    },
    /// It answered with an error.
    #[error("{url} answers {}{}", refusal.status, refusal.tail())]
    Refused {
        /// What was asked.
        url: String,
        /// The answer.
        refusal: Refusal,
    },
    /// It answered something that has no sense.
    #[error("{url} answers nonsense: {problem}")]
    Protocol {
        /// What was asked.
        url: String,
        /// What is wrong.
        problem: String,
    },
    /// Content that is not what was asked for.
    #[error("{url} sends the wrong content: {problem}")]
    Content {
        /// What was asked.
        url: String,
        /// What differs.
        problem: String,
    },
    /// The connection ended too early.
    #[error("{url} breaks off: {problem}")]
    Broken {
        /// What was asked.
        url: String,
        /// How far it came.
        problem: String,
    },
    /// The trust anchors for this registry cannot be used.
    #[error("TLS for this registry cannot be set up")]
    Tls(#[from] super::tls::TlsError),
    /// It wants a user and a password, and there is none to show.
    #[error("no basic auth credentials")]
    NoLogin {
        /// What was asked.
        url: String,
    },
    /// The receiver of a layer has gone; its own error tells why.
    #[error("download was given up")]
    Abandoned,
}

impl Refusal {
    /// Code and message, for a text.
    fn tail(&self) -> String {
        match (self.code.as_str(), self.message.as_str()) {
            ("", "") => String::new(),
            ("", message) => format!(": {message}"),
            (code, "") => format!(": {}", spoken(code)),
            (code, message) => format!(": {}: {message}", spoken(code)),
        }
    }

    /// The message, or what docker says where a registry is silent.
    pub fn words(&self, default: &str) -> String {
        if self.message.is_empty() { default.to_owned() } else { self.message.clone() }
    }
}

/// `MANIFEST_UNKNOWN` as docker says it.
fn spoken(code: &str) -> String {
    code.to_lowercase().replace('_', " ")
}

impl RegistryError {
    /// Trying again may help.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Http { .. } | Self::Stalled { .. } | Self::Broken { .. } => true,
            Self::Refused { refusal, .. } => matches!(refusal.status, 408 | 429 | 500 | 502..=504),
            _ => false,
        }
    }

    /// The registry's refusal, if that is what it is.
    pub(crate) fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal),
            _ => None,
        }
    }
}
