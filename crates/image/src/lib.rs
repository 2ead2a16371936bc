//! References, registries, the content store and layers as EROFS disks.

mod auth;
mod config;
mod digest;
mod erofs;
mod error;
#[cfg(test)]
mod fuzz;
mod layer;
mod platform;
mod progress;
mod reference;
mod registry;
mod store;

pub use auth::{Auth, AuthFormatError};
pub use config::{ConfigError, ContainerConfig, Empty, Healthcheck, History, ImageConfig, RootFs};
pub use digest::{Digest, ImageId, ParseDigestError};
pub use error::ErrorKind;
pub use hyper_archive::tar::TarError;
pub use layer::{LayerError, Limits, decompressed, disk_of_file};
pub use platform::{ParsePlatformError, Platform};
pub use progress::{LayerStep, Progress};
pub use reference::{DEFAULT_DOMAIN, DEFAULT_TAG, ParseReferenceError, Reference};
pub use registry::{RegistryConfig, RegistryError, TlsError};
pub use store::{
    CommitError, CommitRequest, HistoryEntry, Image, ImageUse, ImportError, ImportRequest, Layer, LoadError,
    LoadedImage, LoginError, LookupError, MergeError, MergedLayers, OpenError, PullError, PullOutcome,
    PushError, RemoteImage, RemoveError, Removed, RootAttributes, SaveError, Store, StoreError, TagError,
};

use hyper_archive::tar;
