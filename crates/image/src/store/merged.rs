//! All layers of an image as one disk: derived from the layers, made when an image is complete or at its first use.
//!
//! The file is named by the chain of layers, since images that differ in their configuration alone share it, and says
//! inside from which disks it was made. One that does not fit them is made anew.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use rusqlite::Connection;

use crate::digest::{Digest, ImageId};
use crate::erofs::Head;
use crate::layer::{LayerDisk, LayerError, layer_tag, merge};

use super::database::{self, LayerRow};
use super::disk::Disk;
use super::error::{MergeError, StoreError};
use super::image::MergedLayers;
use super::layers::{Hold, Shelf, chain_ids};

/// Version of what [`merge`] makes, part of the identity of its file.
const VERSION: u32 = 1;

/// The chain of each image.
fn chains(connection: &Connection) -> Result<HashSet<Digest>, StoreError> {
    let stacks = database::stacks(connection)?;
    Ok(stacks.iter().filter_map(|diff_ids| chain_ids(diff_ids).pop()).collect())
}

/// Removes the files of chains that no image has.
///
/// # Errors
/// The database or a file operation fails.
pub fn sweep(disk: &Disk, connection: &Connection) -> Result<(), StoreError> {
    let chains = chains(connection)?;
    disk.sweep_merged(|chain_id| chains.contains(chain_id))
}

/// The one disk of an image's layers, made if it is not there; none for an image of a single layer.
///
/// # Errors
/// See [`MergeError`].
pub fn get(shelf: &Arc<Shelf>, image: &ImageId) -> Result<Option<MergedLayers>, MergeError> {
    let row = database::image(&shelf.state().connection, image).map_err(StoreError::Database)?;
    let layers = row.map(|row| row.layers).unwrap_or_default();
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.diff_id).collect();
    let (2.., Some(chain_id)) = (layers.len(), chain_ids(&diff_ids).pop()) else { return Ok(None) };
    let chain = Chain { shelf, image, layers, chain_id };
    if let Some(found) = chain.find()? {
        return Ok(Some(found));
    }
    // No diff ID is a chain's: nobody makes a layer under this lock.
    let lock = shelf.making(chain_id);
    let _making = lock.blocking_lock();
    if let Some(found) = chain.find()? {
        return Ok(Some(found));
    }
    chain.make()?;
    chain.find()?.map(Some).ok_or_else(|| {
        StoreError::Damaged(format!("what was made of the layers of image {} is not there", image.short()))
            .into()
    })
}

/// Makes it ahead of the first use. That it cannot be is told again then, if it matters.
pub fn prepare(shelf: &Arc<Shelf>, image: &ImageId) {
    if let Err(error) = get(shelf, image) {
        let cause: &dyn std::error::Error = &error;
        tracing::warn!(%image, cause, "the layers of an image are not united");
    }
}

/// The layers of an image.
struct Chain<'a> {
    shelf: &'a Arc<Shelf>,
    image: &'a ImageId,
    /// Bottom first.
    layers: Vec<LayerRow>,
    chain_id: Digest,
}

impl Chain<'_> {
    /// What the file says that is made of these very disks.
    fn uuid(&self) -> [u8; 16] {
        let mut text = format!("hyper merged layers {VERSION}");
        for layer in &self.layers {
            text.push_str(&format!(" {}", layer.key));
        }
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&Digest::of(text.as_bytes()).bytes()[..16]);
        uuid
    }

    /// The file, if it is there and fits the layers.
    fn find(&self) -> Result<Option<MergedLayers>, StoreError> {
        let path = self.shelf.disk().merged(&self.chain_id);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::file("open", &path, error)),
        };
        match self.devices(&file) {
            Ok(devices) => Ok(Some(MergedLayers { metadata: path, devices })),
            Err(problem) => {
                tracing::warn!(path = %path.display(), problem, "the united layers of an image are made anew");
                Ok(None)
            }
        }
    }

    /// The disks that the file names. The error says why it is of no use.
    fn devices(&self, file: &File) -> Result<Vec<PathBuf>, String> {
        let head = Head::read(file, self.layers.len()).map_err(|error| error.to_string())?;
        if head.uuid != self.uuid() {
            return Err("it was made of other layers".to_owned());
        }
        let mut paths = Vec::with_capacity(head.devices.len());
        for device in head.devices {
            let key = self.layers.iter().map(|layer| layer.key).find(|key| layer_tag(key) == device.tag);
            let path = self.shelf.disk().layer(&key.ok_or("it names a layer that the image lacks")?);
            let blocks = std::fs::metadata(&path).map(|metadata| metadata.len() / crate::erofs::BLOCK);
            if !blocks.is_ok_and(|blocks| blocks == u64::from(device.blocks)) {
                return Err(format!("{} has another size", path.display()));
            }
            paths.push(path);
        }
        Ok(paths)
    }

    /// Makes the file, unless the image has gone meanwhile.
    fn make(&self) -> Result<(), MergeError> {
        let unmergeable = || self.shelf.unmergeable.lock().unwrap_or_else(PoisonError::into_inner);
        if unmergeable().contains(&self.chain_id) {
            return Err(MergeError::TooLarge(self.image.short()));
        }
        let _holds: Vec<Hold> = {
            let mut state = self.shelf.state();
            self.layers.iter().map(|layer| self.shelf.hold(&mut state, layer.key)).collect()
        };
        let disk = self.shelf.disk();
        let (temporary, file) = disk.temporary()?;
        let out = file.try_clone().map_err(|error| StoreError::file("open", temporary.path(), error))?;
        let merged = merge(self.open()?, out, disk.scratch()?, self.uuid());
        merged.map_err(|source| {
            if source.is_too_large() {
                unmergeable().insert(self.chain_id);
            }
            MergeError::Layers { image: self.image.short(), source }
        })?;
        file.sync_all().map_err(|error| StoreError::file("sync", temporary.path(), error))?;
        // With the lock, so that it is swept with the image, be it right now.
        let state = self.shelf.state();
        if chains(&state.connection)?.contains(&self.chain_id) {
            disk.keep_merged(&self.chain_id, temporary)?;
        }
        Ok(())
    }

    fn open(&self) -> Result<Vec<LayerDisk>, StoreError> {
        let open = |layer: &LayerRow| {
            let path = self.shelf.disk().layer(&layer.key);
            let file = File::open(&path).map_err(|error| StoreError::file("open", &path, error))?;
            Ok(LayerDisk { key: layer.key, file })
        };
        self.layers.iter().map(open).collect()
    }
}

impl LayerError {
    /// No later attempt will succeed.
    fn is_too_large(&self) -> bool {
        match self {
            Self::Budget(_) => true,
            Self::Write(error) => error.kind() == io::ErrorKind::FileTooLarge,
            _ => false,
        }
    }
}
