//! The images on this host: what is there, and every way in and out.

mod blobs;
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
mod push;
mod remote;
mod save;
mod time;

pub use error::{
    CommitError, ImportError, LoadError, LoginError, LookupError, MergeError, OpenError, PullError,
    PushError, RemoveError, SaveError, StoreError, TagError,
};
pub use handle::Store;
pub use image::{
    CommitRequest, HistoryEntry, Image, ImageUse, ImportRequest, Layer, LoadedImage, MergedLayers,
    PullOutcome, RemoteImage, Removed, RootAttributes,
};
