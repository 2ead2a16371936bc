//! The images on this host: what is there, and every way in and out.

mod changes;
mod commit;
mod database;
mod disk;
mod error;
mod handle;
mod image;
mod import;
mod ingest;
mod layers;
mod load;
mod login;
mod made;
mod merged;
mod names;
mod pull;
mod save;
mod time;

pub use error::{
    CommitError, ImportError, LoadError, LoginError, LookupError, MergeError, OpenError, PullError,
    RemoveError, SaveError, StoreError, TagError,
};
pub use handle::Store;
pub use image::{
    CommitRequest, HistoryEntry, Image, ImageUse, ImportRequest, Layer, LoadedImage, MergedLayers,
    PullOutcome, Removed, RootAttributes,
};
