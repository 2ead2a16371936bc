//! Getting layers into the store, each once however many want it.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard};

use rusqlite::Connection;

use crate::digest::{Digest, ImageId};
use crate::erofs::Reader;
use crate::layer::{Converted, LayerError, Limits, Lower, Source, convert};

use super::blobs;
use super::database::{self, LayerRow};
use super::disk::{Disk, Temporary};
use super::error::{OpenError, StoreError};
use super::ingest::{self, Ingests};
use super::merged;

/// Directory, database, and what is under way.
pub struct Shelf {
    disk: Disk,
    ingests: Ingests,
    state: Mutex<State>,
    /// One lock per layer that somebody makes.
    making: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
    /// Chains whose layers cannot be one filesystem.
    pub(super) unmergeable: Mutex<HashSet<Digest>>,
}

/// What one thread at a time may touch.
pub struct State {
    /// The database.
    pub connection: Connection,
    /// Layers that unfinished work relies on, with the number of its holders.
    held: HashMap<Digest, usize>,
}

/// Keeps a layer from being collected.
pub struct Hold {
    shelf: Arc<Shelf>,
    key: Digest,
}

/// A layer whose tar is read; its files are still temporary.
pub struct Made {
    converted: Converted,
    /// Digest of the tar.
    pub diff_id: Digest,
    disk: (Temporary, File),
    map: (Temporary, File),
}

/// Getting a layer onto the shelf failed.
#[derive(Debug, thiserror::Error)]
pub enum ShelfError {
    /// The layer's fault.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Digest of a layer and all below it (OCI image specification, "Layer ChainID").
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => *diff_id,
            Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
        };
        chain.push(next);
    }
    chain
}

/// The name of a layer's disk that is right over one chain only.
fn borrowed_key(chain_id: &Digest) -> Digest {
    Digest::of(format!("hyper layer over {chain_id}").as_bytes())
}

impl Shelf {
    /// Takes directory and database over and removes what nothing refers to. The finished layers of a
    /// pull that died stay for the next one, as long as the bytes of its unfinished ones do.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(disk: Disk, connection: Connection) -> Result<Self, OpenError> {
        for key in database::unused_layers(&connection).map_err(StoreError::Database)? {
            if disk.layer_age(&key).is_some_and(|age| age <= ingest::MAX_AGE) {
                continue;
            }
            database::remove_layer(&connection, &key).map_err(StoreError::Database)?;
        }
        let known = database::layers(&connection).map_err(StoreError::Database)?;
        let known: HashSet<Digest> = known.into_iter().collect();
        disk.sweep_layers(|key| known.contains(key))?;
        merged::sweep(&disk, &connection)?;
        let state = Mutex::new(State { connection, held: HashMap::new() });
        let ingests = Ingests::open(disk.ingests())?;
        Ok(Self { disk, ingests, state, making: Mutex::default(), unmergeable: Mutex::default() })
    }

    /// The directory.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// What came of layers that are not there yet.
    pub fn ingests(&self) -> &Ingests {
        &self.ingests
    }

    /// The database, for a short while.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The lock under which a layer is made, or what is derived from a chain of them. It must not be held while waiting for another layer.
    pub fn making(&self, diff_id: Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut making = self.making.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        making.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(making.entry(diff_id).or_default())
    }

    /// The layer, if it is there, held.
    ///
    /// # Errors
    /// The database fails.
    pub fn find(
        self: &Arc<Self>,
        diff_id: &Digest,
        chain_id: &Digest,
    ) -> Result<Option<(LayerRow, Hold)>, StoreError> {
        let mut state = self.state();
        for key in [*diff_id, borrowed_key(chain_id)] {
            if let Some(row) = database::layer(&state.connection, &key)? {
                return Ok(Some((row, self.hold(&mut state, key))));
            }
        }
        Ok(None)
    }

    /// Holds a layer.
    pub(super) fn hold(self: &Arc<Self>, state: &mut State, key: Digest) -> Hold {
        *state.held.entry(key).or_default() += 1;
        Hold { shelf: Arc::clone(self), key }
    }

    /// Reads a layer's tar into temporary files.
    ///
    /// # Errors
    /// See [`ShelfError`].
    pub fn make(&self, source: impl Read + Send, limits: Limits) -> Result<Made, ShelfError> {
        let (disk, disk_file) = self.disk.temporary()?;
        let (map, map_file) = self.disk.temporary()?;
        let clone = |file: &File, temporary: &Temporary| {
            file.try_clone().map_err(|error| StoreError::file("open", temporary.path(), error))
        };
        let files = Source {
            disk: clone(&disk_file, &disk)?,
            scratch: self.disk.scratch()?,
            map: clone(&map_file, &map)?,
        };
        let (converted, diff_id) = convert(source, limits, files)?;
        Ok(Made { converted, diff_id, disk: (disk, disk_file), map: (map, map_file) })
    }

    /// Finishes a layer over the layers `below` (bottom first) and puts it on the shelf, held.
    ///
    /// # Errors
    /// See [`ShelfError`].
    pub fn keep(
        self: &Arc<Self>,
        made: Made,
        chain_id: &Digest,
        below: &[Digest],
    ) -> Result<(LayerRow, Hold), ShelfError> {
        let Made { converted, diff_id, disk, map } = made;
        let (key, lower) = if converted.needs_lower() {
            (borrowed_key(chain_id), self.lower(below)?)
        } else {
            (diff_id, Lower::default())
        };
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&key.bytes()[..16]);
        let summary = converted.finish(&lower, uuid)?;
        for (temporary, file) in [&disk, &map] {
            file.sync_all().map_err(|error| StoreError::file("sync", temporary.path(), error))?;
        }
        let row = LayerRow { key, diff_id, summary };
        let mut state = self.state();
        if database::layer(&state.connection, &key)?.is_none() {
            self.disk.keep_layer(&key, disk.0, map.0)?;
            database::add_layer(&state.connection, &row).map_err(StoreError::Database)?;
        }
        let hold = self.hold(&mut state, key);
        Ok((row, hold))
    }

    /// Opens layers' disks.
    fn lower(&self, keys: &[Digest]) -> Result<Lower, ShelfError> {
        let mut layers = Vec::with_capacity(keys.len());
        for key in keys {
            let path = self.disk.layer(key);
            let file = File::open(&path).map_err(|error| StoreError::file("open", &path, error))?;
            layers.push(Reader::new(file).map_err(LayerError::Lower)?);
        }
        Ok(Lower::new(layers))
    }

    /// Removes an image, if there is one to remove, and the layers that no image has then and no work relies on; and what
    /// is derived from chains that no image has. Returns the layers' diff IDs. The rows go in one transaction: a process
    /// that is killed leaves all of them or none, and files without a row are swept by the next one.
    ///
    /// # Errors
    /// The database or a file operation fails.
    pub fn collect(&self, state: &mut State, image: Option<&ImageId>) -> Result<Vec<Digest>, StoreError> {
        let transaction = state.connection.transaction()?;
        if let Some(image) = image {
            database::remove_image(&transaction, image)?;
        }
        let mut removed = Vec::new();
        for key in database::unused_layers(&transaction)? {
            if !state.held.contains_key(&key) {
                removed.extend(database::layer(&transaction, &key)?);
                database::remove_layer(&transaction, &key)?;
            }
        }
        if !removed.is_empty() {
            blobs::sweep(&transaction)?;
        }
        transaction.commit()?;
        for layer in &removed {
            self.disk.remove_layer(&layer.key)?;
        }
        merged::sweep(&self.disk, &state.connection)?;
        Ok(removed.into_iter().map(|layer| layer.diff_id).collect())
    }
}

impl Made {
    /// Whether the layer cannot be finished without those below.
    pub fn needs_lower(&self) -> bool {
        self.converted.needs_lower()
    }
}

impl From<rusqlite::Error> for ShelfError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(StoreError::Database(error))
    }
}

impl Hold {
    /// The layer's key.
    pub fn key(&self) -> Digest {
        self.key
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.shelf.state();
        if let Some(count) = state.held.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                state.held.remove(&self.key);
            }
        }
    }
}
