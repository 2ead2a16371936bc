//! The images on this host: what is there, and every way in and out.

mod error;
mod image;
mod store;

pub use error::{
    ImportError, LoadError, LookupError, OpenError, PullError, RemoveError, SaveError, StoreError, TagError,
};
pub use image::{
    HistoryEntry, Image, ImageUse, ImportRequest, Layer, LoadedImage, PullOutcome, Removed, RootAttributes,
};
pub use store::Store;
