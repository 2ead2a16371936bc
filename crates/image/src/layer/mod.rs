//! Layers: from a tar stream to a disk and back.

/// What is wrong with a layer.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// Its tar cannot be read.
    #[error("tar stream is damaged")]
    Tar(#[source] crate::tar::TarError),
}

impl LayerError {
    /// The kind of failure.
    pub fn kind(&self) -> crate::error::ErrorKind {
        crate::error::ErrorKind::InvalidInput
    }
}
