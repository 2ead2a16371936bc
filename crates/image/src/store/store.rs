//! The store's public face.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use crate::auth::Auth;
use crate::digest::ImageId;
use crate::platform::Platform;
use crate::progress::Progress;
use crate::reference::Reference;
use crate::registry::RegistryConfig;

use super::error::{
    ImportError, LoadError, LookupError, OpenError, PullError, RemoveError, SaveError, TagError,
};
use super::image::{HistoryEntry, Image, ImageUse, ImportRequest, LoadedImage, PullOutcome, Removed};

/// The images on this host. A clone is another handle of the same store.
#[derive(Clone)]
pub struct Store {
    _shared: Arc<()>,
}

impl Store {
    /// Opens the store in `directory`, with its tables in the SQLite file `database`, and sweeps
    /// what a killed process left unfinished. One process at a time owns a store.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(_directory: &Path, _database: &Path, _config: RegistryConfig) -> Result<Self, OpenError> {
        unimplemented!()
    }

    /// Fetches an image. `platform` chooses from an index (none: this host's), `auth` is shown to
    /// the registry (none: what docker's configuration has). Cancelling the future ends the pull
    /// and leaves nothing unfinished behind.
    ///
    /// # Errors
    /// See [`PullError`].
    pub async fn pull(
        &self,
        _reference: &Reference,
        _platform: Option<Platform>,
        _auth: Option<Auth>,
        _progress: impl Fn(Progress) + Send + Sync + 'static,
    ) -> Result<PullOutcome, PullError> {
        unimplemented!()
    }

    /// Makes an image of one layer from a root filesystem's tar, plain or compressed. Blocks.
    ///
    /// # Errors
    /// See [`ImportError`].
    pub fn import(
        &self,
        _tar: impl Read + Send,
        _request: &ImportRequest,
        _progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<ImageId, ImportError> {
        unimplemented!()
    }

    /// Takes in the images of a docker archive or OCI layout tar, plain or compressed. Blocks.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(
        &self,
        _archive: impl Read + Send,
        _progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Vec<LoadedImage>, LoadError> {
        unimplemented!()
    }

    /// Writes images as a tar that is both a docker archive and an OCI layout. Blocks.
    ///
    /// # Errors
    /// See [`SaveError`].
    pub fn save(&self, _names: &[String], _archive: impl Write) -> Result<(), SaveError> {
        unimplemented!()
    }

    /// The image with this name, id, beginning of an id, or `name@digest`.
    ///
    /// # Errors
    /// See [`LookupError`].
    pub fn get(&self, _name: &str) -> Result<Image, LookupError> {
        unimplemented!()
    }

    /// All images, newest first.
    ///
    /// # Errors
    /// Files or database.
    pub fn list(&self) -> Result<Vec<Image>, LookupError> {
        unimplemented!()
    }

    /// Gives an image another name, taking it from the image that had it.
    ///
    /// # Errors
    /// See [`TagError`].
    pub fn tag(&self, _source: &str, _target: &Reference) -> Result<(), TagError> {
        unimplemented!()
    }

    /// Removes a name, or an image with all its names. With its last name an image goes, and with
    /// its last image a layer. `in_use` tells who uses an image. `no_prune` keeps an image that only lost
    /// its name.
    ///
    /// # Errors
    /// See [`RemoveError`].
    pub fn remove(
        &self,
        _name: &str,
        _force: bool,
        _no_prune: bool,
        _in_use: &dyn Fn(&ImageId) -> Option<ImageUse>,
    ) -> Result<Vec<Removed>, RemoveError> {
        unimplemented!()
    }

    /// How an image came to be, newest first.
    ///
    /// # Errors
    /// See [`LookupError`].
    pub fn history(&self, _name: &str) -> Result<Vec<HistoryEntry>, LookupError> {
        unimplemented!()
    }
}
