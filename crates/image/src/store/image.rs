//! An image as the store knows it, and what its operations take and give.

use std::path::PathBuf;

use crate::config::{ContainerConfig, ImageConfig};
use crate::digest::{Digest, ImageId};
use crate::platform::Platform;
use crate::reference::Reference;

/// An image in the store.
#[derive(Debug, Clone)]
pub struct Image {
    /// The digest of its configuration.
    pub id: ImageId,
    /// The configuration.
    pub config: ImageConfig,
    /// Its layers, bottom first.
    pub layers: Vec<Layer>,
    /// Its names with tags, familiar form, sorted.
    pub repo_tags: Vec<String>,
    /// Its names with manifest digests, familiar form, sorted.
    pub repo_digests: Vec<String>,
    /// When it was made, as its configuration says, RFC 3339; empty when it does not.
    pub created: String,
    /// The same in seconds since 1970, zero when unknown.
    pub created_seconds: i64,
    /// Bytes of all files in all layers.
    pub size: u64,
    /// Go's name of the architecture.
    pub architecture: String,
    /// The operating system.
    pub os: String,
    /// The architecture's variant.
    pub variant: Option<String>,
    /// Who made it.
    pub author: String,
    /// The message of its commit or import.
    pub comment: String,
    /// Digest of the manifest it came with.
    pub manifest_digest: Digest,
    /// That manifest's media type.
    pub manifest_media_type: String,
    /// Bytes of the manifest.
    pub manifest_size: u64,
    /// When its names last changed here, seconds since 1970.
    pub last_tagged_seconds: i64,
    /// What the root directory must look like: from the topmost layer that says so.
    pub root: RootAttributes,
}

/// A layer on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Digest of this and all layers below, by the OCI specification.
    pub chain_id: Digest,
    /// The read-only EROFS image.
    pub blob: PathBuf,
    /// Bytes of that image.
    pub blob_size: u64,
    /// Bytes of all files in it.
    pub size: u64,
}

/// All layers of an image as one read-only disk: an EROFS image that shows what an overlay of them would, with the
/// file contents in the layers' own disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergedLayers {
    /// The filesystem: the first blocks of the disk.
    pub metadata: PathBuf,
    /// What follows them on the disk, one after the other; for a mount from several devices the same in
    /// the same order. Not every layer needs to be among them.
    pub devices: Vec<PathBuf>,
}

/// Owner, mode and time of an image's root directory. In an overlay they come from the writable
/// layer, so whoever makes that one must copy them there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootAttributes {
    /// Permission bits, at most `0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time in seconds since 1970.
    pub mtime: i64,
    /// And nanoseconds, below 1 000 000 000.
    pub mtime_nanoseconds: u32,
}

/// How a pull ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullOutcome {
    /// The image.
    pub image_id: ImageId,
    /// Digest of what the tag names: the index if there is one, else the manifest.
    pub digest: Digest,
    /// The store had it already under this name.
    pub up_to_date: bool,
}

/// What to make of an imported root filesystem.
#[derive(Debug, Clone, Default)]
pub struct ImportRequest {
    /// The new image's name.
    pub reference: Option<Reference>,
    /// Dockerfile lines (`CMD`, `ENTRYPOINT`, `ENV`, `EXPOSE`, `HEALTHCHECK`, `LABEL`, `ONBUILD`, `STOPSIGNAL`,
    /// `USER`, `VOLUME`, `WORKDIR`).
    pub changes: Vec<String>,
    /// The image's comment.
    pub message: Option<String>,
    /// What it is for; none means this host.
    pub platform: Option<Platform>,
}

/// What to make of a layer over an image.
#[derive(Debug, Clone, Default)]
pub struct CommitRequest {
    /// The image below, by id or name.
    pub parent: String,
    /// How containers of the new image run.
    pub config: ContainerConfig,
    /// Dockerfile lines that change this; those of [`ImportRequest::changes`].
    pub changes: Vec<String>,
    /// The new image's name.
    pub reference: Option<Reference>,
    /// Who made it.
    pub author: Option<String>,
    /// The image's comment.
    pub comment: Option<String>,
    /// The command that made the layer.
    pub created_by: String,
}

/// An image that came out of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedImage {
    /// The image.
    pub id: ImageId,
    /// Names the archive gave it, familiar form; none when it had no name.
    pub references: Vec<String>,
}

/// One thing that a removal did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name is gone (familiar form, with tag or digest).
    Untagged(String),
    /// An image is gone (`sha256:…`).
    Deleted(String),
}

/// Who uses an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUse {
    /// The container's id.
    pub container: String,
    /// It runs, so not even force helps.
    pub running: bool,
}

/// One line of `docker history`, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The image's id for the newest line, `<missing>` for the others.
    pub id: String,
    /// Seconds since 1970.
    pub created: i64,
    /// The command.
    pub created_by: String,
    /// The image's names, on the newest line.
    pub tags: Vec<String>,
    /// Bytes of the layer's files.
    pub size: u64,
    /// A remark.
    pub comment: String,
}

/// What a registry has under a name.
#[derive(Debug, Clone)]
pub struct RemoteImage {
    /// Of the manifest or index.
    pub media_type: String,
    /// Its digest.
    pub digest: crate::digest::Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What there is an image for.
    pub platforms: Vec<crate::platform::Platform>,
}
