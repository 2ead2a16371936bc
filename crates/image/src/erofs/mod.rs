//! Read-only disks: writing and reading uncompressed EROFS.
//!
//! A layer's tar arrives as a stream and leaves as one file: file contents first, block by block
//! as they come, then all metadata, the superblock last. Whole blocks of a file lie one after the
//! other; what is left of its last block sits behind its inode, so that many small files cost little.
//! Format: Linux `fs/erofs/erofs_fs.h`; it is read by Linux 5.15 and newer (chunk-based files).

mod encode;
mod layout;
mod reader;
mod spill;
mod tree;
mod writer;

pub use encode::BLOCK;
pub use reader::{Head, Inode, ReadError, Reader, Stored};
pub use tree::{Attributes, Content, FileData, MetadataBudget, Node, NodeId, ROOT, Tree, Xattr};
pub use writer::{DataWriter, DeviceFile, Elsewhere, Piece, finish};
