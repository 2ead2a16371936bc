//! Layers: from a tar stream to a disk and back.
//!
//! A layer's disk normally depends on its tar alone and is named by its diff ID. Some layers
//! borrow from those below: directories that the tar uses but does not describe get the lower
//! layer's attributes (in an overlay the upper directory's would win), hard links to files of a lower layer get
//! a copy, and an opaque root becomes a whiteout for each lower name. Such a disk is right over
//! that one chain of layers only, and is named by its chain ID.

mod convert;
mod decompress;
mod error;
mod finish;
mod lower;
mod merge;
mod path;
mod stream;
mod tarmap;

pub use decompress::{Decompressor, Limits, decompressed};
pub use error::LayerError;
pub use finish::{Converted, RootEntry, Summary};
pub use lower::Lower;
pub use merge::{Disk as LayerDisk, merge, tag as layer_tag};
pub use stream::{Source, convert, disk_of_file};
pub use tarmap::TarMap;

#[cfg(test)]
mod tests;
