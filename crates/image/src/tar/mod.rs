//! Tar streams from strangers.

/// What is wrong with a tar stream.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The bytes cannot be read.
    #[error("tar stream cannot be read")]
    Read(#[source] std::io::Error),
}
