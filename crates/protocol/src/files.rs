//! Work on the files of a container: what is asked, and how bytes follow the answer.
//!
//! [`crate::agent::Request::Files`] opens it. The answer is a [`Reply`](crate::agent::Reply); where it is one that bytes
//! follow, they come in *pieces*: `u32` length in big endian (1 to [`PIECE_MAX`]) and as many bytes, a length of 0 after
//! the last. Bytes from the guest are followed by one more `Reply`, which tells whether that was all. Bytes to the guest
//! are answered by one, maybe before they have all been sent. A stream that ends without it was cut off.

use serde::{Deserialize, Serialize};

/// Most bytes in one piece.
pub const PIECE_MAX: usize = 64 << 10;

/// Most bytes of a path.
pub const PATH_MAX: usize = 4095;

/// What to do with the files of a container that is there, running or not started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// The container.
    pub container: crate::agent::Id,
    /// What.
    pub work: FileWork,
}

/// One piece of work. Paths are the container's own and looked up in its mount namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FileWork {
    /// Looks at a path. Answers [`crate::agent::Reply::Path`].
    Stat {
        /// Absolute; one that ends in `/` or `/.` follows a symbolic link at its end.
        path: String,
    },
    /// Packs a path. Answers [`crate::agent::Reply::Path`]; then comes a tar.
    Read {
        /// As in [`FileWork::Stat`].
        path: String,
    },
    /// Unpacks a tar into a directory. Answers [`crate::agent::Reply::Done`] when the directory is there, and again when
    /// all is unpacked.
    Write {
        /// The directory; links at its end are followed.
        path: String,
        /// A directory is not replaced by another kind of file, nor the other way round.
        no_overwrite: bool,
        /// Whose the files become: `USER[:GROUP]` of the container; `None` for what the tar says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<String>,
        /// Write it out to the disk before the last answer.
        sync: bool,
    },
    /// Packs the root filesystem without what is mounted on it. Answers [`crate::agent::Reply::Done`]; then comes a tar.
    Export,
    /// Packs what the writable layer changes, with whiteouts as OCI layers have them. Answers as [`FileWork::Export`].
    Layer,
    /// Tells what the writable layer changes. Answers [`crate::agent::Reply::Done`]; then come [`Change`]s, one a line.
    Changes,
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathStat {
    /// Last part of the path.
    pub name: String,
    /// Bytes, of a link those of its text.
    pub size: u64,
    /// Kind and permissions (`st_mode`).
    pub mode: u32,
    /// Modification time, nanoseconds since 1970-01-01 UTC.
    pub mtime_ns: i64,
    /// Where a link at the end leads, as an absolute path, also if nothing is there; empty otherwise.
    pub link_target: String,
}

/// How a path was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// It is another file, or has other attributes; a directory: something in it has changed.
    Modified,
    /// The image does not have it.
    Added,
    /// Only the image has it.
    Deleted,
}

/// A path that the writable layer changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Absolute.
    pub path: String,
    /// How.
    pub kind: ChangeKind,
}
