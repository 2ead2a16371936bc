//! The store's directory.
//!
//! `lock` (held while a process owns the store), `tmp/` (swept when it opens), and for each layer
//! `layers/sha256/KEY.erofs` with `KEY.tarmap` beside it. A layer is there when its row in the database is.
//! `ingest/sha256/` has what came of layers that are not there yet. `merged/sha256/CHAIN.erofs` is all layers of
//! a chain as one filesystem, derived from them and made anew where it is missing.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock};

use crate::digest::Digest;

use super::error::{OpenError, StoreError};

/// The directory, owned by this process.
pub struct Disk {
    root: PathBuf,
    next: AtomicU64,
    _lock: File,
}

/// A file in `tmp/` that goes away unless it is moved.
pub struct Temporary {
    path: PathBuf,
    kept: bool,
}

impl Disk {
    /// Takes the directory over, makes what is missing and sweeps what is unfinished.
    ///
    /// # Errors
    /// Another process has it, or a file operation fails.
    pub fn open(root: &Path) -> Result<Self, OpenError> {
        for directory in ["tmp", "layers/sha256", "ingest/sha256", "merged/sha256"] {
            let directory = root.join(directory);
            std::fs::create_dir_all(&directory)
                .map_err(|error| StoreError::file("create", &directory, error))?;
        }
        let path = root.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(|error| StoreError::file("open", &path, error))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(OpenError::Locked(root.to_owned())),
            Err(error) => return Err(StoreError::file("lock", &path, error.into()).into()),
        }
        let disk = Self { root: root.to_owned(), next: AtomicU64::new(0), _lock: lock };
        for path in files(&root.join("tmp"))? {
            std::fs::remove_file(&path).map_err(|error| StoreError::file("remove", &path, error))?;
        }
        Ok(disk)
    }

    /// A new empty file, readable and writable.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn temporary(&self) -> Result<(Temporary, File), StoreError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.root.join(format!("tmp/{}-{number}", std::process::id()));
        let file = OpenOptions::new().create_new(true).read(true).write(true).open(&path);
        let file = file.map_err(|error| StoreError::file("create", &path, error))?;
        Ok((Temporary { path, kept: false }, file))
    }

    /// Scratch space without a name.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn scratch(&self) -> Result<File, StoreError> {
        let (_temporary, file) = self.temporary()?;
        Ok(file)
    }

    /// A layer's disk.
    pub fn layer(&self, key: &Digest) -> PathBuf {
        self.root.join(format!("layers/sha256/{}.erofs", key.hex()))
    }

    /// The metadata of all layers of a chain.
    pub fn merged(&self, chain_id: &Digest) -> PathBuf {
        self.root.join(format!("merged/sha256/{}.erofs", chain_id.hex()))
    }

    /// Moves the finished metadata of a chain to its place and makes that last.
    ///
    /// # Errors
    /// A file operation fails; then nothing or a whole file may be there.
    pub fn keep_merged(&self, chain_id: &Digest, metadata: Temporary) -> Result<(), StoreError> {
        metadata.move_to(&self.merged(chain_id))?;
        sync_directory(&self.root.join("merged/sha256"))
    }

    /// Removes the metadata of all chains that `is_known` does not know.
    ///
    /// # Errors
    /// A file operation fails.
    pub fn sweep_merged(&self, is_known: impl Fn(&Digest) -> bool) -> Result<(), StoreError> {
        sweep(&self.root.join("merged/sha256"), is_known)
    }

    /// How long ago a layer's disk was made; none if it is not there.
    pub fn layer_age(&self, key: &Digest) -> Option<Duration> {
        let made = std::fs::metadata(self.layer(key)).and_then(|metadata| metadata.modified()).ok()?;
        Some(distance(made))
    }

    /// Where unfinished downloads are.
    pub fn ingests(&self) -> PathBuf {
        self.root.join("ingest/sha256")
    }

    /// What gives a layer's tar back.
    pub fn tar_map(&self, key: &Digest) -> PathBuf {
        self.root.join(format!("layers/sha256/{}.tarmap", key.hex()))
    }

    /// Moves a finished layer to its place and makes that last.
    ///
    /// # Errors
    /// A file operation fails; then nothing but an unreferenced file may remain.
    pub fn keep_layer(&self, key: &Digest, disk: Temporary, map: Temporary) -> Result<(), StoreError> {
        map.move_to(&self.tar_map(key))?;
        disk.move_to(&self.layer(key))?;
        sync_directory(&self.root.join("layers/sha256"))
    }

    /// Removes a layer's files.
    ///
    /// # Errors
    /// A file operation fails.
    pub fn remove_layer(&self, key: &Digest) -> Result<(), StoreError> {
        for path in [self.layer(key), self.tar_map(key)] {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::file("remove", &path, error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes all layer files whose key `is_known` does not know.
    ///
    /// # Errors
    /// A file operation fails.
    pub fn sweep_layers(&self, is_known: impl Fn(&Digest) -> bool) -> Result<(), StoreError> {
        sweep(&self.root.join("layers/sha256"), is_known)
    }
}

/// Removes the files of a directory that are named by no digest, or by one that `is_known` does not know.
fn sweep(directory: &Path, is_known: impl Fn(&Digest) -> bool) -> Result<(), StoreError> {
    for path in files(directory)? {
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let key = stem.and_then(|stem| Digest::from_hex(stem).ok());
        if key.is_none_or(|key| !is_known(&key)) {
            std::fs::remove_file(&path).map_err(|error| StoreError::file("remove", &path, error))?;
        }
    }
    Ok(())
}

impl Temporary {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its lasting name.
    fn move_to(mut self, to: &Path) -> Result<(), StoreError> {
        std::fs::rename(&self.path, to).map_err(|error| StoreError::file("rename", &self.path, error))?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.kept {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// How far a time is from now. A clock that was wrong makes things old as well.
pub(super) fn distance(time: SystemTime) -> Duration {
    time.elapsed().unwrap_or_else(|ahead| ahead.duration())
}

/// The files of a directory.
pub(super) fn files(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let fail = |error| StoreError::file("read", directory, error);
    let entries = std::fs::read_dir(directory).map_err(fail)?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(fail)).collect()
}

/// Makes renames last.
fn sync_directory(directory: &Path) -> Result<(), StoreError> {
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|error| StoreError::file("sync", directory, error))
}
