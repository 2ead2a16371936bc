//! Registries: the OCI distribution protocol's pulling half.

mod settings;

pub use settings::RegistryConfig;

/// TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("no usable trust anchors")]
pub struct TlsError;

/// A registry cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot be reached")]
pub struct RegistryError;
