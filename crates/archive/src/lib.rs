//! Files as tar streams: reading what strangers wrote, and writing.
//!
//! The guest's agent and the command line copy files with it, the image store reads layers. What always holds: a stream
//! is read with bounds; a tree is walked and written relative to an open directory, one component at a time where a
//! symbolic link must not lead elsewhere, so that no name in an archive and no race moves the work out of it.
//! Files in reading order: [`tar`], `pack`, `unpack`.

#[cfg(test)]
mod fuzz;
mod pack;
pub mod tar;
mod unpack;

pub use pack::{Packer, Tree};
pub use unpack::{Owner, UnpackError, UnpackOptions, Walls, unpack};
