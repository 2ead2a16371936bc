//! Registries: the OCI distribution protocol, pulling and pushing.
//!
//! What a registry sends is bounded in size and time, and checked against the digest it was asked
//! for. A broken connection goes on where it broke. Credentials go to the registry they are for, over TLS or loopback,
//! and to nobody it redirects to.

mod blob;
mod challenge;
mod client;
mod endpoint;
mod error;
mod manifest;
mod settings;
mod tls;
mod upload;

pub use blob::{BlobStream, DownloadEvent};
pub use client::{Client, Session};
pub use endpoint::endpoints;
pub use error::RegistryError;
pub use manifest::{
    DOCKER_MANIFEST, Descriptor, Fetched, MAX_MANIFEST, Manifest, OCI_INDEX, OCI_MANIFEST, choose, is_index,
    media_type_of, parse_index, parse_manifest,
};
pub use settings::RegistryConfig;
pub use tls::TlsError;
pub use upload::{Mounted, Upload, blob_pipe};
