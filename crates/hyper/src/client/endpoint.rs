//! Where the daemon listens: `unix://PATH` or `tcp://HOST:PORT`.

use std::fmt;
use std::path::{Path, PathBuf};

/// Directory of sockets and pids when `HYPER_RUN` is not set.
const DEFAULT_RUN: &str = "/run/hyper";

/// A daemon's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A unix socket at an absolute path.
    Unix(PathBuf),
    /// A host and port without encryption.
    Tcp(String),
}

/// An address that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EndpointError {
    /// Another scheme than ours.
    #[error("unsupported daemon address {0:?}: use unix:///path or tcp://host:port")]
    Unsupported(String),
    /// A unix socket's path has to be absolute.
    #[error("the daemon's socket path must be absolute: {0:?}")]
    Relative(String),
}

impl Endpoint {
    /// The address from `-H`, else `HYPER_HOST`, else the socket in [`run_dir`].
    pub fn choose(flag: Option<&str>, env: Option<&str>, run: &Path) -> Result<Self, EndpointError> {
        match flag.or(env.filter(|value| !value.is_empty())) {
            Some(text) => Self::parse(text),
            None => Ok(Self::Unix(run.join("hyper.sock"))),
        }
    }

    fn parse(text: &str) -> Result<Self, EndpointError> {
        if let Some(path) = text.strip_prefix("unix://") {
            if !path.starts_with('/') {
                return Err(EndpointError::Relative(path.to_owned()));
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        match text.strip_prefix("tcp://") {
            Some(address) if has_port(address) => Ok(Self::Tcp(address.trim_end_matches('/').to_owned())),
            _ => Err(EndpointError::Unsupported(text.to_owned())),
        }
    }
}

fn has_port(address: &str) -> bool {
    address.trim_end_matches('/').rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok())
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// `HYPER_RUN`, or its default.
pub fn run_dir() -> PathBuf {
    std::env::var_os("HYPER_RUN")
        .filter(|value| !value.is_empty())
        .map_or_else(|| DEFAULT_RUN.into(), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_wins_over_the_environment_and_the_default() {
        let run = Path::new("/run/x");
        let unix = |path: &str| Ok(Endpoint::Unix(path.into()));
        assert_eq!(Endpoint::choose(Some("unix:///a"), Some("unix:///b"), run), unix("/a"));
        assert_eq!(Endpoint::choose(None, Some("unix:///b"), run), unix("/b"));
        assert_eq!(Endpoint::choose(None, Some(""), run), unix("/run/x/hyper.sock"));
        assert_eq!(Endpoint::choose(None, None, run), unix("/run/x/hyper.sock"));
    }

    #[test]
    fn only_unix_and_tcp_addresses_are_taken() {
        let run = Path::new("/run");
        assert_eq!(Endpoint::choose(Some("tcp://h:1/"), None, run), Ok(Endpoint::Tcp("h:1".into())));
        for wrong in ["ssh://x", "tcp://h", "npipe:////./x", "/run/x.sock", ""] {
            assert!(Endpoint::choose(Some(wrong), None, run).is_err(), "{wrong:?}");
        }
        assert_eq!(
            Endpoint::choose(Some("unix://rel"), None, run),
            Err(EndpointError::Relative("rel".into()))
        );
    }
}
