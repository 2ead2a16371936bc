//! What can go wrong with the store, one enum per operation.

use std::io;
use std::path::PathBuf;

use crate::config::ConfigError;
use crate::digest::Digest;
use crate::error::ErrorKind;
use crate::reference::ParseReferenceError;

/// The database or the store's files fail.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A statement failed.
    #[error("image database fails")]
    Database(#[from] rusqlite::Error),
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried: `create`, `read`, `rename`, …
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The disk that holds the images is full.
    #[error("no space left on the disk that holds the images ({})", path.display())]
    NoSpace {
        /// What was being written.
        path: PathBuf,
    },
    /// What the store wrote earlier is no longer what it was.
    #[error("image store is damaged: {0}")]
    Damaged(String),
    /// A background task died.
    #[error("background work ended early")]
    Task(#[source] tokio::task::JoinError),
}

/// Opening the store failed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("image store {} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// The database is from a newer version.
    #[error("image database has version {found}, this program knows {known}: use a newer one")]
    Version {
        /// In the file.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// Files or database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A name or id does not lead to an image.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// Nothing has this name.
    #[error("No such image: {0}")]
    NotFound(String),
    /// Several images' ids begin so.
    #[error("multiple IDs found with provided prefix: {0}")]
    Ambiguous(String),
    /// It is no reference.
    #[error(transparent)]
    Reference(#[from] ParseReferenceError),
    /// Files or database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The layers of an image cannot be made one disk. They can be used one by one.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// A layer is damaged, or they have too many files together.
    #[error("cannot unite the layers of image {image}")]
    Layers {
        /// The image's short id.
        image: String,
        /// Why.
        #[source]
        source: crate::layer::LayerError,
    },
    /// An earlier attempt has shown that they cannot be.
    #[error("the layers of image {0} are too large to be united")]
    TooLarge(String),
    /// Files or database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Naming an image failed.
#[derive(Debug, thiserror::Error)]
pub enum TagError {
    /// There is no such image.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// The new name has a digest.
    #[error("refusing to create a tag with a digest reference")]
    Digest,
    /// The new name is a digest's.
    #[error("refusing to create an ambiguous tag using digest algorithm as name")]
    AlgorithmName,
    /// Files or database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Removing an image failed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// There is no such image.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// A container was made from the name.
    #[error(
        "conflict: unable to remove repository reference \"{name}\" (must force) - container {container} is using its referenced image {image}"
    )]
    NameInUse {
        /// The name.
        name: String,
        /// The container's short id.
        container: String,
        /// The image's short id.
        image: String,
    },
    /// A stopped container was made from the image.
    #[error(
        "conflict: unable to delete {image} (must be forced) - image is being used by stopped container {container}"
    )]
    UsedByStopped {
        /// The image's short id.
        image: String,
        /// The container's short id.
        container: String,
    },
    /// A running container was made from the image.
    #[error(
        "conflict: unable to delete {image} (cannot be forced) - image is being used by running container {container}"
    )]
    UsedByRunning {
        /// The image's short id.
        image: String,
        /// The container's short id.
        container: String,
    },
    /// It has names in several repositories.
    #[error(
        "conflict: unable to delete {image} (must be forced) - image is referenced in multiple repositories"
    )]
    SeveralNames {
        /// The image's short id.
        image: String,
    },
    /// Files or database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Pulling an image failed.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry hides the repository.
    #[error(
        "pull access denied for {repository}, repository does not exist or may require 'docker login': {message}"
    )]
    Denied {
        /// Familiar name.
        repository: String,
        /// The registry's words.
        message: String,
    },
    /// The registry refused the credentials.
    #[error("unauthorized: {0}")]
    Unauthorized(String),
    /// No such repository.
    #[error("repository {repository} not found: name unknown: {message}")]
    NameUnknown {
        /// Familiar name.
        repository: String,
        /// The registry's words.
        message: String,
    },
    /// No such tag or digest.
    #[error("manifest for {reference} not found: manifest unknown: {message}")]
    ManifestUnknown {
        /// Familiar reference.
        reference: String,
        /// The registry's words.
        message: String,
    },
    /// The index has nothing for the platform.
    #[error("no matching manifest for {platform} in the manifest list entries")]
    NoPlatform {
        /// What was wanted.
        platform: String,
    },
    /// The image is for another platform than the one asked for.
    #[error(
        "image with reference {reference} was found but does not match the specified platform: wanted {wanted}, actual: {found}"
    )]
    WrongPlatform {
        /// Familiar reference.
        reference: String,
        /// What was wanted.
        wanted: String,
        /// What it is for.
        found: String,
    },
    /// The registry's rate limit.
    #[error("toomanyrequests: {0}")]
    TooManyRequests(String),
    /// Docker's first image format.
    #[error(
        "docker image format v1 and schema 1 manifests are not supported: {0} must be pushed again by a newer tool"
    )]
    Schema1(String),
    /// The manifest cannot be used.
    #[error("manifest of {reference} cannot be used: {problem}")]
    Manifest {
        /// Familiar reference.
        reference: String,
        /// What is wrong.
        problem: String,
    },
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A layer cannot be used.
    #[error("layer {digest} cannot be used")]
    Layer {
        /// Its digest in the manifest.
        digest: Digest,
        /// Why.
        #[source]
        source: crate::layer::LayerError,
    },
    /// Content is not what its digest or size says.
    #[error("{what} from the registry is damaged: {problem}")]
    Verification {
        /// `layer sha256:…`, `manifest …`.
        what: String,
        /// What differs.
        problem: String,
    },
    /// The registry could not be reached or broke off.
    #[error("registry {registry} cannot be used")]
    Registry {
        /// Host and port.
        registry: String,
        /// Why.
        #[source]
        source: crate::registry::RegistryError,
    },
    /// Files or database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Pushing an image failed. The texts are docker's.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The name has a digest.
    #[error("cannot push a digest reference")]
    Digest,
    /// No image has a name in the repository.
    #[error("An image does not exist locally with the tag: {0}")]
    NoImage(String),
    /// There is no such tag.
    #[error("tag does not exist: {0}")]
    NoTag(String),
    /// The image is for another platform than the one asked for.
    #[error("image {tag} does not provide the specified platform: wanted {wanted}, actual: {found}")]
    WrongPlatform {
        /// Its tag.
        tag: String,
        /// What was wanted.
        wanted: String,
        /// What it is for.
        found: String,
    },
    /// The registry wants a login, and there is none.
    #[error("no basic auth credentials")]
    NoLogin,
    /// The registry refused the credentials.
    #[error("unauthorized: {0}")]
    Unauthorized(String),
    /// The registry does not let this user push here.
    #[error("denied: {0}")]
    Denied(String),
    /// The registry's rate limit.
    #[error("toomanyrequests: {0}")]
    TooManyRequests(String),
    /// The image is not there any more.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A layer could not be read.
    #[error("layer cannot be read")]
    Read(#[source] io::Error),
    /// The registry could not be reached or broke off.
    #[error("registry {registry} cannot be used")]
    Registry {
        /// Host and port.
        registry: String,
        /// Why.
        #[source]
        source: crate::registry::RegistryError,
    },
    /// Files or database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A registry does not take a login, or could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// This names no registry.
    #[error("invalid registry {0:?}: it must be HOST[:PORT]")]
    Server(String),
    /// The registry's refusal.
    #[error("unauthorized: {0}")]
    Unauthorized(String),
    /// The registry could not be reached.
    #[error("registry {registry} cannot be used")]
    Registry {
        /// Host and port.
        registry: String,
        /// Why.
        #[source]
        source: crate::registry::RegistryError,
    },
}

/// Importing a root filesystem failed.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A change is no Dockerfile line that an import knows.
    #[error("invalid change {line:?}: {problem}")]
    Change {
        /// The line.
        line: String,
        /// What is wrong.
        problem: String,
    },
    /// The tar cannot be used.
    #[error("root filesystem cannot be imported")]
    Layer(#[source] crate::layer::LayerError),
    /// The name has a digest.
    #[error("cannot import digest reference")]
    Digest,
    /// Files or database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A commit failed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// A change is no Dockerfile line that a commit knows.
    #[error("invalid change {line:?}: {problem}")]
    Change {
        /// The line.
        line: String,
        /// What is wrong.
        problem: String,
    },
    /// The layer cannot be used.
    #[error("the container's changes cannot become a layer")]
    Layer(#[source] crate::layer::LayerError),
    /// The name has a digest.
    #[error("refusing to create a tag with a digest reference")]
    Digest,
    /// One more layer than can be mounted.
    #[error("the image has as many layers as an image can have")]
    TooManyLayers,
    /// The image below is not there.
    #[error(transparent)]
    Parent(#[from] LookupError),
    /// Its configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Files or database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Loading an archive failed.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It is neither docker's archive nor an OCI layout, or its parts do not fit together.
    #[error("invalid archive: {0}")]
    Archive(String),
    /// The archive cannot be read.
    #[error("archive cannot be read")]
    Read(#[source] crate::tar::TarError),
    /// An image's configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A layer cannot be used.
    #[error("layer {name} cannot be used")]
    Layer {
        /// Its name in the archive.
        name: String,
        /// Why.
        #[source]
        source: crate::layer::LayerError,
    },
    /// Files or database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Saving images failed.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// There is no such image.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// The archive could not be written.
    #[error("archive cannot be written")]
    Write(#[source] io::Error),
    /// Files or database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl StoreError {
    /// Gives a file error its place, and a full disk its own kind.
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { path },
            _ => Self::File { action, path, source },
        }
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSpace { .. } => ErrorKind::NoSpace,
            _ => ErrorKind::Internal,
        }
    }
}

impl LookupError {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::Ambiguous(_) => ErrorKind::Conflict,
            Self::Reference(_) => ErrorKind::InvalidInput,
            Self::Store(error) => error.kind(),
        }
    }
}

impl TagError {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Lookup(error) => error.kind(),
            Self::Digest | Self::AlgorithmName => ErrorKind::InvalidInput,
            Self::Store(error) => error.kind(),
        }
    }
}

impl RemoveError {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Lookup(error) => error.kind(),
            Self::Store(error) => error.kind(),
            _ => ErrorKind::Conflict,
        }
    }
}

impl PullError {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Denied { .. }
            | Self::NameUnknown { .. }
            | Self::ManifestUnknown { .. }
            | Self::NoPlatform { .. }
            | Self::WrongPlatform { .. } => ErrorKind::NotFound,
            Self::Unauthorized(_) => ErrorKind::Unauthorized,
            Self::TooManyRequests(_) => ErrorKind::TooManyRequests,
            Self::Schema1(_) | Self::Manifest { .. } | Self::Config(_) => ErrorKind::InvalidInput,
            Self::Layer { source, .. } => source.kind(),
            Self::Verification { .. } | Self::Registry { .. } => ErrorKind::Unavailable,
            Self::Store(error) => error.kind(),
        }
    }
}

impl PushError {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoImage(_) | Self::NoTag(_) => ErrorKind::NotFound,
            Self::Digest | Self::WrongPlatform { .. } | Self::Config(_) => ErrorKind::InvalidInput,
            Self::NoLogin | Self::Unauthorized(_) => ErrorKind::Unauthorized,
            Self::Denied(_) => ErrorKind::Forbidden,
            Self::TooManyRequests(_) => ErrorKind::TooManyRequests,
            Self::Lookup(error) => error.kind(),
            Self::Read(_) => ErrorKind::Internal,
            Self::Registry { .. } => ErrorKind::Unavailable,
            Self::Store(error) => error.kind(),
        }
    }
}

impl LoginError {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Server(_) => ErrorKind::InvalidInput,
            Self::Unauthorized(_) => ErrorKind::Unauthorized,
            Self::Registry { .. } => ErrorKind::Unavailable,
        }
    }
}

impl ImportError {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Change { .. } | Self::Digest => ErrorKind::InvalidInput,
            Self::Layer(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }
}

impl CommitError {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Change { .. } | Self::Digest | Self::TooManyLayers | Self::Config(_) => {
                ErrorKind::InvalidInput
            }
            Self::Layer(error) => error.kind(),
            Self::Parent(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }
}

impl LoadError {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Archive(_) | Self::Read(_) | Self::Config(_) => ErrorKind::InvalidInput,
            Self::Layer { source, .. } => source.kind(),
            Self::Store(error) => error.kind(),
        }
    }
}

impl SaveError {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Lookup(error) => error.kind(),
            Self::Write(_) => ErrorKind::Internal,
            Self::Store(error) => error.kind(),
        }
    }
}
