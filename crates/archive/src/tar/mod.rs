//! Tar streams from strangers: reading with bounds, byte for byte accountable; and writing.
//!
//! Understood: old v7, ustar, GNU (long names, base-256 numbers, sparse files) and PAX (paths, sizes,
//! times, owners, attributes, GNU's three sparse forms). Where writers of tars disagree, Go's
//! `archive/tar` decides, since docker, containerd and umoci read layers with it: global PAX headers are skipped,
//! links and devices have no payload whatever their size field says.

mod header;
mod pax;
mod reader;
mod sparse;
mod write;

pub use header::BLOCK;
pub use reader::{Entry, EntryKind, Reader, Sink};
pub use write::{entry_header, padding_of, trailer, write_header};

/// What is wrong with a tar stream.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The bytes cannot be read.
    #[error("tar stream cannot be read")]
    Read(#[source] std::io::Error),
    /// What is read cannot be kept.
    #[error("tar headers cannot be kept")]
    Keep(#[source] std::io::Error),
    /// It ends inside an entry.
    #[error("tar stream ends too early")]
    Truncated,
    /// A header's checksum or a field is wrong.
    #[error("invalid tar header at byte {offset}: {problem}")]
    Header {
        /// Where the header begins.
        offset: u64,
        /// What is wrong.
        problem: &'static str,
    },
}
