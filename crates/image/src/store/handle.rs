//! The store's public face.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::auth::Auth;
use crate::digest::{Digest, ImageId};
use crate::platform::Platform;
use crate::progress::Progress;
use crate::reference::Reference;
use crate::registry::{Client, RegistryConfig};

use super::database;
use super::disk::Disk;
use super::error::{
    CommitError, ImportError, LoadError, LoginError, LookupError, MergeError, OpenError, PullError,
    PushError, RemoveError, SaveError, StoreError, TagError,
};
use super::image::{
    CommitRequest, HistoryEntry, Image, ImageUse, ImportRequest, LoadedImage, MergedLayers, PullOutcome,
    RemoteImage, Removed,
};
use super::layers::Shelf;
use super::pull::Pull;
use super::push::Push;
use super::{commit, import, load, login, merged, names, remote, save};

/// The images on this host. A clone is another handle of the same store.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

/// What all handles share.
struct Shared {
    shelf: Arc<Shelf>,
    client: Client,
    slots: Semaphore,
    push_slots: Semaphore,
}

impl Store {
    /// Opens the store in `directory`, with its tables in the SQLite file `database`, and sweeps
    /// what a killed process left unfinished. One process at a time owns a store.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(directory: &Path, database: &Path, config: RegistryConfig) -> Result<Self, OpenError> {
        let disk = Disk::open(directory)?;
        let shelf = Arc::new(Shelf::open(disk, database::open(database)?)?);
        let slots = Semaphore::new(config.parallel_layers.max(1));
        let push_slots = Semaphore::new(config.parallel_uploads.max(1));
        let client = Client::new(config);
        Ok(Self { shared: Arc::new(Shared { shelf, client, slots, push_slots }) })
    }

    /// Fetches an image. `platform` chooses from an index (none: this host's), `auth` is shown to
    /// the registry. Dropping the future ends the pull;
    /// what came of its layers stays for the next pull for a day. Needs a tokio runtime with time and I/O.
    ///
    /// # Errors
    /// See [`PullError`].
    pub async fn pull(
        &self,
        reference: &Reference,
        platform: Option<Platform>,
        auth: Option<Auth>,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<PullOutcome, PullError> {
        let client = &self.shared.client;
        let pull = Pull {
            shelf: &self.shared.shelf,
            client,
            slots: &self.shared.slots,
            limits: client.config().limits,
            reference,
            platform,
            progress: &progress,
        };
        pull.run(auth).await
    }

    /// Sends an image to the registry of its name: `reference` is the repository and the tag, or all its tags if it has
    /// none. Gives each tag's manifest digest. Needs a tokio runtime with time and I/O.
    ///
    /// # Errors
    /// See [`PushError`].
    pub async fn push(
        &self,
        reference: &Reference,
        platform: Option<Platform>,
        auth: Option<Auth>,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<Vec<(String, Digest)>, PushError> {
        let push = Push {
            shelf: &self.shared.shelf,
            client: &self.shared.client,
            slots: &self.shared.push_slots,
            reference,
            platform,
            progress: &progress,
        };
        push.run(auth).await
    }

    /// What the registry of a name has under it.
    ///
    /// # Errors
    /// See [`PullError`].
    pub async fn look(&self, reference: &Reference, auth: Option<Auth>) -> Result<RemoteImage, PullError> {
        remote::look(&self.shared.client, reference, auth).await
    }

    /// Asks a registry (`host[:port]`, a URL, or nothing for docker.io) whether it takes a login. Gives
    /// the token that clients may keep in its place, if the registry has such.
    ///
    /// # Errors
    /// See [`LoginError`].
    pub async fn login(&self, server: &str, auth: Auth) -> Result<Option<String>, LoginError> {
        login::login(&self.shared.client, server, auth).await
    }

    /// Makes an image of one layer from a root filesystem's tar, plain, gzip or zstd. Blocks.
    ///
    /// # Errors
    /// See [`ImportError`].
    pub fn import(
        &self,
        tar: impl Read + Send,
        request: &ImportRequest,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<ImageId, ImportError> {
        import::import(&self.shared.shelf, self.shared.client.config().limits, tar, request, progress)
    }

    /// Makes an image of another one and the tar of a layer over it. Blocks; must not be called on a thread that runs
    /// asynchronous tasks.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub fn commit(&self, layer: impl Read + Send, request: &CommitRequest) -> Result<ImageId, CommitError> {
        commit::commit(&self.shared.shelf, self.shared.client.config().limits, layer, request)
    }

    /// Takes in the images of a docker archive or OCI layout tar, plain, gzip or zstd. Blocks; must
    /// not be called on a thread that runs asynchronous tasks.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(
        &self,
        archive: impl Read + Send,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Vec<LoadedImage>, LoadError> {
        load::load(&self.shared.shelf, self.shared.client.config().limits, archive, progress)
    }

    /// Writes images as a tar that is both a docker archive and an OCI layout. A bare repository
    /// means all its tags. Blocks.
    ///
    /// # Errors
    /// See [`SaveError`].
    pub fn save(&self, names: &[String], archive: impl Write) -> Result<(), SaveError> {
        save::save(&self.shared.shelf, names, archive)
    }

    /// The image with this name, id, beginning of an id, or `name@digest`.
    ///
    /// # Errors
    /// See [`LookupError`].
    pub fn get(&self, name: &str) -> Result<Image, LookupError> {
        let shelf = &self.shared.shelf;
        let row = names::find(&shelf.state(), name)?;
        Ok(names::image(shelf, row)?)
    }

    /// All layers of an image as one disk, made if it is not there; none for an image of a single layer, which is
    /// one. Blocks; must not be called on a thread that runs asynchronous tasks.
    ///
    /// # Errors
    /// See [`MergeError`].
    pub fn merged(&self, image: &Image) -> Result<Option<MergedLayers>, MergeError> {
        merged::get(&self.shared.shelf, &image.id)
    }

    /// All images, newest first.
    ///
    /// # Errors
    /// Files or database.
    pub fn list(&self) -> Result<Vec<Image>, LookupError> {
        names::list(&self.shared.shelf)
    }

    /// Gives an image another name, taking it from the image that had it.
    ///
    /// # Errors
    /// See [`TagError`].
    pub fn tag(&self, source: &str, target: &Reference) -> Result<(), TagError> {
        names::tag(&self.shared.shelf, source, target)
    }

    /// Removes a name, or an image with all its names. With its last name an image goes, and with
    /// its last image a layer. `in_use` tells who uses an image, a running container first; an image in
    /// use never goes: `force` then takes its names only.
    /// `no_prune` keeps an image that only lost its last name.
    ///
    /// # Errors
    /// See [`RemoveError`].
    pub fn remove(
        &self,
        name: &str,
        force: bool,
        no_prune: bool,
        in_use: &dyn Fn(&ImageId) -> Option<ImageUse>,
    ) -> Result<Vec<Removed>, RemoveError> {
        names::remove(&self.shared.shelf, name, force, no_prune, in_use)
    }

    /// How an image came to be, newest first.
    ///
    /// # Errors
    /// See [`LookupError`].
    pub fn history(&self, name: &str) -> Result<Vec<HistoryEntry>, LookupError> {
        names::history(&self.shared.shelf, name)
    }

    /// Removes layers and parts of layers that no image has and no pull is working on: what failed
    /// pulls left for another attempt. Returns how many went.
    ///
    /// # Errors
    /// Files or database.
    pub fn collect_garbage(&self) -> Result<usize, StoreError> {
        let shelf = &self.shared.shelf;
        let parts = shelf.ingests().collect()?;
        let mut state = shelf.state();
        Ok(parts + shelf.collect(&mut state, None)?.len())
    }
}
