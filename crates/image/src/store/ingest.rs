//! Compressed bytes of layers on their way, kept so that the next pull goes on where a dead one was.
//!
//! `ingest/sha256/HEX` holds the first bytes of the blob with that digest, as they came. Nobody trusts
//! them: they go through the same pipeline as bytes from the network and count only when the whole blob
//! has its digest. A file here is a convenience, so nothing fails because of it: where it cannot be
//! written it is given up.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};
use tokio::sync::OwnedMutexGuard;

use crate::digest::Digest;

use super::disk::{distance, files};
use super::error::StoreError;

/// What nobody has gone on with for so long is removed.
pub const MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// Most bytes that stay for later pulls, all blobs together; the oldest go first.
const MAX_KEPT: u64 = 16 << 30;
/// Most bytes of one blob that are written; a larger blob is kept up to here.
const MAX_BLOB: u64 = 8 << 30;

/// The directory of ingests.
pub struct Ingests {
    directory: PathBuf,
    /// One lock per blob that somebody fetches.
    busy: Mutex<Busy>,
}

type Busy = HashMap<Digest, Arc<tokio::sync::Mutex<()>>>;

/// The kept beginning of one blob; nobody else has it meanwhile. It stays when this is dropped,
/// unless it was discarded.
pub struct Ingest {
    path: PathBuf,
    /// None when nothing is to be kept.
    file: Option<File>,
    /// Bytes that were there at first.
    start: u64,
    /// Bytes that are there now.
    length: u64,
    _alone: Option<OwnedMutexGuard<()>>,
}

/// A blob: the kept bytes, then those of a source, which are kept as they pass. Hashes and counts all.
pub struct Resumed<R> {
    ingest: Ingest,
    source: R,
    at: u64,
    hasher: Sha256,
}

impl Ingests {
    /// Opens the directory, which exists, and sweeps what is too old or too much.
    ///
    /// # Errors
    /// A file operation fails.
    pub fn open(directory: PathBuf) -> Result<Self, StoreError> {
        let ingests = Self { directory, busy: Mutex::default() };
        ingests.sweep(MAX_AGE, MAX_KEPT)?;
        Ok(ingests)
    }

    /// What is kept of a blob of `size` bytes, once nobody else fetches it. Something that cannot be
    /// its beginning is removed.
    pub async fn take(&self, digest: &Digest, size: u64) -> Ingest {
        let lock = {
            let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
            busy.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(busy.entry(*digest).or_default())
        };
        let alone = lock.lock_owned().await;
        let path = self.directory.join(digest.hex());
        let opened = OpenOptions::new().read(true).append(true).create(true).truncate(false).open(&path);
        let opened = opened.and_then(|file| {
            let mut length = file.metadata()?.len();
            if length > size {
                file.set_len(0)?;
                length = 0;
            }
            Ok((file, length))
        });
        let (file, length) = match opened {
            Ok((file, length)) => (Some(file), length),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a layer's bytes cannot be kept");
                (None, 0)
            }
        };
        Ingest { path, file, start: length, length, _alone: Some(alone) }
    }

    /// Removes what is kept of a blob, unless a pull is working on it.
    pub fn forget(&self, digest: &Digest) {
        let busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_taken(&busy, digest) {
            let _ = std::fs::remove_file(self.directory.join(digest.hex()));
        }
    }

    /// Removes what no pull is working on. Returns how many files went.
    ///
    /// # Errors
    /// A file operation fails.
    pub fn collect(&self) -> Result<usize, StoreError> {
        self.sweep(Duration::ZERO, 0)
    }

    /// Removes what is too old or too much, at a time when nobody depends on it.
    pub fn sweep_stale(&self) {
        if let Err(error) = self.sweep(MAX_AGE, MAX_KEPT) {
            tracing::warn!(%error, "kept bytes of layers cannot be swept");
        }
    }

    /// Removes what is older than `age`, then the oldest until `bytes` are left. What a pull is
    /// working on stays.
    fn sweep(&self, age: Duration, bytes: u64) -> Result<usize, StoreError> {
        let busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let is_busy = |path: &Path| digest_of(path).is_some_and(|digest| is_taken(&busy, &digest));
        let mut idle = Vec::new();
        for path in files(&self.directory)?.into_iter().filter(|path| !is_busy(path)) {
            let metadata = std::fs::symlink_metadata(&path);
            let metadata = metadata.map_err(|error| StoreError::file("read", &path, error))?;
            let written = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            idle.push((written, metadata.len(), path));
        }
        idle.sort_unstable();
        let (mut kept, mut removed) = (0_u64, 0);
        for (written, length, path) in idle.into_iter().rev() {
            let fits = kept.saturating_add(length) <= bytes;
            if fits && length > 0 && distance(written) <= age && digest_of(&path).is_some() {
                kept += length;
                continue;
            }
            std::fs::remove_file(&path).map_err(|error| StoreError::file("remove", &path, error))?;
            removed += 1;
        }
        Ok(removed)
    }
}

/// Whether somebody fetches a blob or waits to.
fn is_taken(busy: &Busy, digest: &Digest) -> bool {
    busy.get(digest).is_some_and(|lock| Arc::strong_count(lock) > 1)
}

/// The blob that a file's name says.
fn digest_of(path: &Path) -> Option<Digest> {
    Digest::from_hex(path.file_name()?.to_str()?).ok()
}

impl Ingest {
    /// Keeps nothing.
    pub fn none() -> Self {
        Self { path: PathBuf::new(), file: None, start: 0, length: 0, _alone: None }
    }

    /// Bytes of the blob that need not be fetched.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Whether the file takes room on the disk.
    pub fn takes_room(&self) -> bool {
        self.file.is_some() && self.length > 0
    }

    /// Removes the file.
    pub fn discard(&mut self) {
        if self.file.take().is_some()
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "kept bytes of a layer cannot be removed");
        }
    }

    /// Adds bytes, while there is room for them.
    fn append(&mut self, bytes: &[u8]) {
        let Some(mut file) = self.file.as_ref() else { return };
        // Cut, so that nothing ever follows a gap: a beginning stays of use.
        let room = usize::try_from(MAX_BLOB.saturating_sub(self.length)).unwrap_or(usize::MAX);
        let bytes = &bytes[..bytes.len().min(room)];
        match file.write_all(bytes) {
            Ok(()) => self.length += bytes.len() as u64,
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "a layer's bytes are no longer kept");
                self.discard();
            }
        }
    }
}

/// An empty file helps nobody.
impl Drop for Ingest {
    fn drop(&mut self) {
        if self.length == 0 {
            self.discard();
        }
    }
}

impl<R: Read> Resumed<R> {
    /// `source` begins where the kept bytes end.
    pub fn new(ingest: Ingest, source: R) -> Self {
        Self { ingest, source, at: 0, hasher: Sha256::new() }
    }

    /// Reads what is left and tells digest and length of the whole.
    ///
    /// # Errors
    /// The source's, or the kept bytes cannot be read.
    pub fn finish(&mut self) -> io::Result<(Digest, u64)> {
        io::copy(self, &mut io::sink())?;
        Ok((Digest::from_bytes(self.hasher.finalize_reset().into()), self.at))
    }

    /// The kept bytes.
    pub fn into_ingest(self) -> Ingest {
        self.ingest
    }
}

impl<R: Read> Read for Resumed<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let kept = self.ingest.start.saturating_sub(self.at);
        let length = if kept > 0 {
            let wanted = out.len().min(usize::try_from(kept).unwrap_or(usize::MAX));
            let file = self.ingest.file.as_ref();
            let file = file.ok_or_else(|| io::Error::other("kept bytes are gone"))?;
            match file.read_at(&mut out[..wanted], self.at)? {
                0 if wanted > 0 => return Err(io::Error::other("kept bytes have become fewer")),
                length => length,
            }
        } else {
            let length = self.source.read(out)?;
            self.ingest.append(&out[..length]);
            length
        };
        self.hasher.update(&out[..length]);
        self.at += length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ingests(directory: &Path) -> Ingests {
        Ingests::open(directory.to_owned()).expect("an open directory")
    }

    fn names(directory: &Path) -> usize {
        std::fs::read_dir(directory).expect("a directory").count()
    }

    fn age(path: &Path, hours: u64) {
        let file = File::options().write(true).open(path).expect("a file");
        let time = SystemTime::now() - Duration::from_secs(hours * 3600);
        file.set_modified(time).expect("a time can be set");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_blob_cut_anywhere_comes_whole_and_asks_for_the_rest_only(
            blob in proptest::collection::vec(any::<u8>(), 1..2000),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..4),
        ) {
            let directory = tempfile::tempdir().expect("a directory");
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let mut have = 0;
            for cut in cuts.iter().map(|cut| cut.index(blob.len())) {
                let ingests = ingests(directory.path());
                let ingest = runtime.block_on(ingests.take(&Digest::of(&blob), blob.len() as u64));
                prop_assert_eq!(ingest.start(), have);
                let end = cut.max(have as usize);
                let mut resumed = Resumed::new(ingest, &blob[have as usize..end]);
                let (digest, length) = resumed.finish().expect("memory does not fail");
                prop_assert_eq!((digest, length), (Digest::of(&blob[..end]), end as u64));
                have = end as u64;
            }
            let ingests = ingests(directory.path());
            let ingest = runtime.block_on(ingests.take(&Digest::of(&blob), blob.len() as u64));
            let mut resumed = Resumed::new(ingest, &blob[have as usize..]);
            let mut whole = Vec::new();
            resumed.read_to_end(&mut whole).expect("memory does not fail");
            prop_assert!(whole == blob);
            prop_assert_eq!(resumed.finish().expect("it has ended").0, Digest::of(&blob));
            resumed.into_ingest().discard();
            prop_assert_eq!(names(directory.path()), 0);
        }
    }

    #[tokio::test]
    async fn old_too_many_and_strange_files_are_swept() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &[u8]| directory.path().join(Digest::of(name).hex());
        for (name, hours) in [(b"old".as_slice(), 25), (b"new", 23), (b"newer", 1)] {
            std::fs::write(path(name), b"12345").expect("a file");
            age(&path(name), hours);
        }
        std::fs::write(path(b"empty"), b"").expect("a file");
        std::fs::write(directory.path().join("strange"), b"12345").expect("a file");
        let ingests = ingests(directory.path());
        assert_eq!((names(directory.path()), path(b"old").exists()), (2, false));
        assert_eq!(ingests.sweep(MAX_AGE, 9).expect("it can be swept"), 1);
        assert!(path(b"newer").exists() && !path(b"new").exists(), "the oldest goes first");
        let taken = ingests.take(&Digest::of(b"newer"), 10).await;
        assert_eq!((ingests.collect().expect("it can be swept"), taken.start()), (0, 5));
        drop(taken);
        assert_eq!((ingests.collect().expect("it can be swept"), names(directory.path())), (1, 0));
    }

    #[tokio::test]
    async fn bytes_that_cannot_be_the_beginning_are_not_used() {
        let directory = tempfile::tempdir().expect("a directory");
        let digest = Digest::of(b"blob");
        std::fs::write(directory.path().join(digest.hex()), b"too long").expect("a file");
        let ingests = ingests(directory.path());
        assert_eq!(ingests.take(&digest, 4).await.start(), 0);
        assert_eq!(names(directory.path()), 0);
    }

    #[tokio::test]
    async fn a_blob_is_one_fetchers_at_a_time() {
        let directory = tempfile::tempdir().expect("a directory");
        let ingests = ingests(directory.path());
        let digest = Digest::of(b"blob");
        let first = ingests.take(&digest, 4).await;
        let waits = tokio::time::timeout(Duration::from_millis(50), ingests.take(&digest, 4)).await;
        assert!(waits.is_err());
        drop(first);
        ingests.take(&digest, 4).await;
    }
}
