//! What can be wrong with a layer.

use std::io;

use crate::digest::Digest;
use crate::erofs::{MetadataBudget, ReadError};
use crate::error::ErrorKind;
use crate::tar::TarError;

/// Why a layer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// Its tar cannot be read.
    #[error("layer tar is damaged")]
    Tar(#[source] TarError),
    /// Its compressed stream cannot be read.
    #[error("layer cannot be decompressed")]
    Decompress(#[source] io::Error),
    /// It is compressed in a way that images do not use.
    #[error("layer is compressed with {0}, only gzip and zstd are supported")]
    Compression(&'static str),
    /// A file's path cannot be used.
    #[error("invalid path {path:?} in layer: {problem}")]
    Path {
        /// The path, readable.
        path: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// A hard link leads nowhere.
    #[error("hard link {path:?} in layer: its target {target:?} does not exist")]
    HardLink {
        /// The link.
        path: String,
        /// Where it leads.
        target: String,
    },
    /// It has too many files or names.
    #[error("layer is too large")]
    Budget(#[from] MetadataBudget),
    /// It decompresses to more than allowed.
    #[error("layer is too large: more than {limit} bytes from {compressed} compressed ones")]
    Bomb {
        /// Bytes allowed.
        limit: u64,
        /// Bytes read.
        compressed: u64,
    },
    /// Its uncompressed content has another digest.
    #[error("layer has the wrong content: expected diff ID {expected}, got {found}")]
    DiffId {
        /// In the configuration.
        expected: Digest,
        /// Computed.
        found: Digest,
    },
    /// A layer below cannot be read.
    #[error("layer below cannot be read")]
    Lower(#[from] ReadError),
    /// The disk cannot be written.
    #[error("layer disk cannot be written")]
    Write(#[source] io::Error),
    /// The disk is full.
    #[error("no space left on the disk that holds the images")]
    NoSpace,
    /// The stream it came from broke; the cause is known there.
    #[error("layer stream ended early")]
    Source(#[source] io::Error),
}

impl LayerError {
    /// A failed write, with a full disk as its own kind.
    pub(crate) fn write(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            _ => Self::Write(error),
        }
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSpace => ErrorKind::NoSpace,
            Self::Lower(_) | Self::Write(_) => ErrorKind::Internal,
            Self::Source(_) => ErrorKind::Unavailable,
            _ => ErrorKind::InvalidInput,
        }
    }
}

/// A broken stream tells in its I/O error which stage broke.
impl From<TarError> for LayerError {
    fn from(error: TarError) -> Self {
        match error {
            TarError::Read(error) => match error.downcast::<LayerError>() {
                Ok(error) => error,
                Err(error) => Self::Tar(TarError::Read(error)),
            },
            TarError::Keep(error) => Self::write(error),
            other => Self::Tar(other),
        }
    }
}
