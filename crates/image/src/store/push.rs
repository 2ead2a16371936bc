//! Pushing: layers side by side, then the configuration, then the manifest that names them.
//!
//! The compressed bytes of a layer are not kept. Where the registry still has a blob that a pull or a push has found the
//! layer in, that blob is used, so that a pulled image goes back under its own digest; else the layer's tar is
//! compressed anew, and the manifest is a new one. The configuration, and with it the image's id, stays in any case.

use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use crate::auth::Auth;
use crate::digest::Digest;
use crate::layer::TarMap;
use crate::platform::Platform;
use crate::progress::{LayerStep, Progress};
use crate::reference::Reference;
use crate::registry::{
    Client, DOCKER_MANIFEST, Mounted, OCI_MANIFEST, RegistryError, Session, Upload, blob_pipe, endpoints,
    parse_manifest,
};

use super::blobs::{self, Blob};
use super::database::{self, ImageRow, LayerRow};
use super::error::{LookupError, PushError, StoreError};
use super::layers::{Shelf, chain_ids};
use super::time::now;

/// Progress is told at most so often per layer.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// Pause before another attempt; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// Most blobs of other registries that the registry is asked for, for each layer.
const MAX_GUESSES: usize = 3;
/// Bytes of a blob sent at once.
const PIECE: usize = 64 << 10;
/// Docker's name of a layer, compressed by gzip.
const DOCKER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// OCI's.
const OCI_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// OCI's name of a layer compressed by zstd; docker's manifest has none.
const OCI_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// What a push is told and uses.
pub struct Push<'a> {
    /// Where layers are.
    pub shelf: &'a Arc<Shelf>,
    /// How registries are spoken to.
    pub client: &'a Client,
    /// Layers that may be sent at once, over all pushes.
    pub slots: &'a Semaphore,
    /// The repository, and the tag; without one it is all tags.
    pub reference: &'a Reference,
    /// What the image must be for.
    pub platform: Option<Platform>,
    /// Whom to tell.
    pub progress: &'a (dyn Fn(Progress) + Send + Sync),
}

/// An image under one of its tags.
struct Tagged {
    tag: String,
    row: ImageRow,
}

/// A manifest as docker writes it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NewManifest<'a> {
    schema_version: u32,
    media_type: &'a str,
    config: NewDescriptor<'a>,
    layers: Vec<NewDescriptor<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NewDescriptor<'a> {
    media_type: &'a str,
    size: u64,
    digest: Digest,
}

impl Push<'_> {
    /// Does it all. Gives the manifest's digest for each tag.
    ///
    /// # Errors
    /// See [`PushError`].
    pub async fn run(&self, auth: Option<Auth>) -> Result<Vec<(String, Digest)>, PushError> {
        self.tell(Progress::Status(format!(
            "The push refers to repository [{}]",
            self.reference.repository()
        )));
        let images = self.choose()?;
        let endpoint = endpoints(self.reference, self.client.config()).pop();
        let endpoint = endpoint.expect("endpoints end with the registry itself");
        let mut pushed = Vec::with_capacity(images.len());
        for image in &images {
            let session = self.client.session(&endpoint, self.reference, auth.clone()).await;
            let session = session.map_err(|error| self.failed(error))?;
            let sources = self.mount_sources(&image.row)?;
            let session = session.for_push(sources.iter().map(String::as_str));
            pushed.push((image.tag.clone(), self.image(&session, image).await?));
        }
        Ok(pushed)
    }

    /// The images to push.
    fn choose(&self) -> Result<Vec<Tagged>, PushError> {
        if self.reference.digest().is_some() {
            return Err(PushError::Digest);
        }
        let state = self.shelf.state();
        let mut tags = database::tags_of(&state.connection, &self.reference.repository())
            .map_err(StoreError::Database)?;
        if tags.is_empty() {
            return Err(PushError::NoImage(self.reference.familiar_name()));
        }
        if let Some(wanted) = self.reference.tag() {
            tags.retain(|(tag, _)| tag == wanted);
        }
        let mut images = Vec::with_capacity(tags.len());
        for (tag, id) in tags {
            let row = database::image(&state.connection, &id).map_err(StoreError::Database)?;
            images.extend(row.map(|row| Tagged { tag, row }));
        }
        drop(state);
        if images.is_empty() {
            return Err(PushError::NoTag(self.reference.to_string()));
        }
        let Some(wanted) = &self.platform else { return Ok(images) };
        for image in &images {
            let config = crate::config::ImageConfig::parse(&image.row.config)?;
            let has = Platform { os: config.os, architecture: config.architecture, variant: config.variant };
            if has.fitness(wanted).is_none() {
                let (wanted, found) = (wanted.to_string(), has.to_string());
                return Err(PushError::WrongPlatform { tag: image.tag.clone(), wanted, found });
            }
        }
        Ok(images)
    }

    /// Paths of the registry's repositories that may have a layer of the image.
    fn mount_sources(&self, row: &ImageRow) -> Result<Vec<String>, PushError> {
        let state = self.shelf.state();
        let mut paths = Vec::new();
        for layer in &row.layers {
            let known = blobs::of_layer(&state.connection, &layer.diff_id).map_err(StoreError::Database)?;
            paths.extend(known.iter().filter_map(|(repository, _)| self.path_here(repository)));
        }
        paths.sort_unstable();
        paths.dedup();
        Ok(paths)
    }

    /// The path of another repository of the same registry.
    fn path_here(&self, repository: &str) -> Option<String> {
        let path = repository.strip_prefix(self.reference.domain())?.strip_prefix('/')?;
        (path != self.reference.path()).then(|| path.to_owned())
    }

    /// Pushes one image under one tag.
    async fn image(&self, session: &Session<'_>, image: &Tagged) -> Result<Digest, PushError> {
        let row = &image.row;
        let diff_ids: Vec<Digest> = row.layers.iter().map(|layer| layer.diff_id).collect();
        let mut holds = Vec::with_capacity(diff_ids.len());
        for (diff_id, chain_id) in diff_ids.iter().zip(chain_ids(&diff_ids)) {
            let found = self.shelf.find(diff_id, &chain_id)?;
            holds.push(found.ok_or_else(|| LookupError::NotFound(self.reference.to_string()))?);
        }
        // As docker does it, from the top.
        for diff_id in diff_ids.iter().rev() {
            self.step(diff_id, LayerStep::Preparing);
        }
        let own = own_blobs(row);
        let mut different: Vec<(usize, &LayerRow)> = Vec::new();
        for (position, layer) in row.layers.iter().enumerate().rev() {
            if !different.iter().any(|(_, known)| known.diff_id == layer.diff_id) {
                different.push((position, layer));
            }
        }
        let mut running: FuturesUnordered<_> = different
            .iter()
            .map(|(position, layer)| {
                let hint = own.get(*position).cloned();
                async move { (layer.diff_id, self.layer(session, layer, hint).await) }
            })
            .collect();
        let mut found: Vec<(Digest, Blob)> = Vec::with_capacity(different.len());
        while let Some((diff_id, blob)) = running.next().await {
            found.push((diff_id, blob?));
        }
        drop(running);
        let layers: Vec<&Blob> = diff_ids
            .iter()
            .map(|diff_id| {
                let blob = found.iter().find(|(known, _)| known == diff_id);
                &blob.expect("every layer has been pushed").1
            })
            .collect();
        self.config(session, row).await?;
        let (media_type, bytes) = manifest(row, &own, &layers);
        let (digest, size) = (Digest::of(&bytes), bytes.len());
        let stored = session.put_manifest(&image.tag, &media_type, bytes).await;
        stored.map_err(|error| self.failed(error))?;
        {
            let state = self.shelf.state();
            database::set_digest(&state.connection, &self.reference.repository(), &digest, &row.id)
                .map_err(StoreError::Database)?;
        }
        let tag = &image.tag;
        self.tell(Progress::Status(format!("{tag}: digest: {digest} size: {size}")));
        self.tell(Progress::Pushed { tag: tag.clone(), digest, size: size as u64 });
        drop(holds);
        Ok(digest)
    }

    /// Sees to it that the repository has a layer.
    async fn layer(
        &self,
        session: &Session<'_>,
        layer: &LayerRow,
        hint: Option<Blob>,
    ) -> Result<Blob, PushError> {
        let slot = match self.slots.try_acquire() {
            Ok(slot) => slot,
            Err(_) => {
                self.step(&layer.diff_id, LayerStep::Waiting);
                self.slots.acquire().await.expect("the semaphore is never closed")
            }
        };
        let (mut failures, mut pause) = (0, FIRST_PAUSE);
        let blob = loop {
            let error = match self.try_layer(session, layer, hint.as_ref()).await {
                Ok(blob) => break blob,
                Err(error) => error,
            };
            failures += 1;
            let PushError::Registry { source, .. } = &error else { return Err(error) };
            if !source.is_transient() || failures >= self.client.config().attempts {
                return Err(error);
            }
            let asked = source.refusal().and_then(|refusal| refusal.retry_after).unwrap_or_default();
            let wait = pause.max(asked).min(LONGEST_PAUSE);
            tracing::debug!(diff_id = %layer.diff_id, failures, ?wait, %error, "a layer's push broke off");
            self.step(&layer.diff_id, LayerStep::Retrying { seconds: wait.as_secs().max(1) });
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        };
        drop(slot);
        let state = self.shelf.state();
        blobs::remember(&state.connection, &layer.diff_id, &self.reference.repository(), &blob, now())
            .map_err(StoreError::Database)?;
        Ok(blob)
    }

    /// One attempt at [`Self::layer`].
    async fn try_layer(
        &self,
        session: &Session<'_>,
        layer: &LayerRow,
        hint: Option<&Blob>,
    ) -> Result<Blob, PushError> {
        let diff_id = &layer.diff_id;
        let known = {
            let state = self.shelf.state();
            blobs::of_layer(&state.connection, diff_id).map_err(StoreError::Database)?
        };
        let ours = self.reference.repository();
        let (here, elsewhere): (Vec<_>, Vec<_>) =
            known.into_iter().partition(|(repository, _)| *repository == ours);
        let mut upload = None;
        let mut asked: Vec<Digest> = Vec::new();
        for (_, blob) in &here {
            if self.exists(session, blob).await? {
                self.step(diff_id, LayerStep::LayerExists);
                return Ok(blob.clone());
            }
            asked.push(blob.digest);
            let state = self.shelf.state();
            blobs::forget(&state.connection, diff_id, &ours, &blob.digest).map_err(StoreError::Database)?;
        }
        for (repository, blob) in &elsewhere {
            let Some(path) = self.path_here(repository) else { continue };
            match session.mount(blob.digest, &path).await.map_err(|error| self.failed(error))? {
                Mounted::Yes => {
                    self.tell(Progress::Mounted { id: diff_id.short(), from: path });
                    return Ok(blob.clone());
                }
                // Good for what is to be sent.
                Mounted::No(begun) => upload = Some(begun),
            }
        }
        let guesses = hint.into_iter().chain(elsewhere.iter().map(|(_, blob)| blob));
        for blob in guesses {
            if asked.contains(&blob.digest) || asked.len() >= here.len() + MAX_GUESSES {
                continue;
            }
            asked.push(blob.digest);
            if self.exists(session, blob).await? {
                self.step(diff_id, LayerStep::LayerExists);
                return Ok(blob.clone());
            }
        }
        let blob = match self.upload(session, layer, upload).await {
            // A login may end before its last layer is there.
            Err(PushError::Unauthorized(_)) => {
                session.log_in_again().await;
                self.upload(session, layer, None).await?
            }
            result => result?,
        };
        self.step(diff_id, LayerStep::Pushed);
        Ok(blob)
    }

    /// Whether the repository has a blob.
    async fn exists(&self, session: &Session<'_>, blob: &Blob) -> Result<bool, PushError> {
        let size = session.blob_size(blob.digest).await.map_err(|error| self.failed(error))?;
        Ok(size == Some(blob.size))
    }

    /// Compresses a layer and sends it meanwhile.
    async fn upload(
        &self,
        session: &Session<'_>,
        layer: &LayerRow,
        begun: Option<Upload>,
    ) -> Result<Blob, PushError> {
        let upload = match begun {
            Some(upload) => upload,
            None => session.begin_upload().await.map_err(|error| self.failed(error))?,
        };
        let (sink, source) = blob_pipe();
        let (shelf, key) = (Arc::clone(self.shelf), layer.key);
        let read = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let counter = Arc::clone(&read);
        let making = tokio::task::spawn_blocking(move || compress(&shelf, &key, sink, &counter));
        let total = layer.summary.tar_size;
        let told = Mutex::new(0);
        let tell = || {
            let current = read.load(std::sync::atomic::Ordering::Relaxed);
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            if current > *told {
                *told = current;
                self.step(&layer.diff_id, LayerStep::Pushing { current, total });
            }
        };
        let began = Instant::now();
        let sending = session.send(upload, source);
        tokio::pin!(sending);
        let sent = loop {
            match tokio::time::timeout(TELL_EVERY, &mut sending).await {
                Ok(sent) => break sent,
                Err(_) => tell(),
            }
        };
        // What could not be read says more than what did not arrive because of it.
        let made = making.await.map_err(StoreError::Task)?;
        let (digest, size) = match (made, &sent) {
            (Ok(made), _) => made,
            (Err(PushError::Read(error)), Err(_)) if error.kind() == io::ErrorKind::BrokenPipe => {
                return Err(self.failed(sent.expect_err("the arm says so")));
            }
            (Err(error), _) => return Err(error),
        };
        let upload = sent.map_err(|error| self.failed(error))?;
        tell();
        session.complete(upload, digest).await.map_err(|error| self.failed(error))?;
        tracing::debug!(diff_id = %layer.diff_id, %digest, size, took = ?began.elapsed(), "a layer was sent");
        Ok(Blob { digest, media_type: DOCKER_GZIP.to_owned(), size })
    }

    /// Sees to it that the repository has the configuration.
    async fn config(&self, session: &Session<'_>, row: &ImageRow) -> Result<(), PushError> {
        let digest = row.id.digest();
        let size = session.blob_size(digest).await.map_err(|error| self.failed(error))?;
        if size == Some(row.config.len() as u64) {
            return Ok(());
        }
        let stored = session.put_blob(digest, row.config.clone().into()).await;
        stored.map_err(|error| self.failed(error))
    }

    /// Tells something.
    fn tell(&self, progress: Progress) {
        (self.progress)(progress);
    }

    /// Tells something about a layer; docker names it by its diff ID here.
    fn step(&self, diff_id: &Digest, step: LayerStep) {
        self.tell(Progress::Layer { id: diff_id.short(), step });
    }

    /// A registry's failure, in docker's words where it has some.
    fn failed(&self, error: RegistryError) -> PushError {
        if matches!(error, RegistryError::NoLogin { .. }) {
            return PushError::NoLogin;
        }
        if let Some(refusal) = error.refusal() {
            match (refusal.status, refusal.code.as_str()) {
                (403, _) | (_, "DENIED") => {
                    return PushError::Denied(refusal.words("requested access to the resource is denied"));
                }
                (401, _) => return PushError::Unauthorized(refusal.words("authentication required")),
                (429, _) => {
                    return PushError::TooManyRequests(refusal.words("the registry's rate limit is reached"));
                }
                _ => {}
            }
        }
        PushError::Registry { registry: self.reference.domain().to_owned(), source: error }
    }
}

/// The blobs that an image's own manifest names, bottom first; none where it was made here or does not fit.
fn own_blobs(row: &ImageRow) -> Vec<Blob> {
    let Ok(parsed) = parse_manifest(&row.manifest) else { return Vec::new() };
    let fits = parsed.config.digest == row.id.digest() && parsed.layers.len() == row.layers.len();
    let made_here = parsed.layers.iter().zip(&row.layers).all(|(blob, layer)| blob.digest == layer.diff_id);
    if !fits || made_here {
        return Vec::new();
    }
    let blobs = parsed.layers.into_iter();
    blobs.map(|blob| Blob { digest: blob.digest, media_type: blob.media_type, size: blob.size }).collect()
}

/// The manifest over the blobs that are in the repository now: the image's own, if it names the same, else docker's.
fn manifest(row: &ImageRow, own: &[Blob], layers: &[&Blob]) -> (String, Vec<u8>) {
    let same = own.len() == layers.len()
        && own.iter().zip(layers).all(|(own, now)| own.digest == now.digest && own.size == now.size);
    if same && !own.is_empty() {
        return (row.manifest_media_type.clone(), row.manifest.clone());
    }
    // Docker's manifest has no name for zstd.
    let oci = layers.iter().any(|layer| layer.media_type.contains("zstd"));
    let config = NewDescriptor {
        media_type: match oci {
            true => "application/vnd.oci.image.config.v1+json",
            false => "application/vnd.docker.container.image.v1+json",
        },
        size: row.config.len() as u64,
        digest: row.id.digest(),
    };
    let layers = layers.iter().map(|layer| NewDescriptor {
        media_type: layer_type(&layer.media_type, oci),
        size: layer.size,
        digest: layer.digest,
    });
    let media_type = if oci { OCI_MANIFEST } else { DOCKER_MANIFEST };
    let manifest = NewManifest { schema_version: 2, media_type, config, layers: layers.collect() };
    let mut bytes = Vec::new();
    // Docker's form, to the blank.
    let form = serde_json::ser::PrettyFormatter::with_indent(b"   ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, form);
    manifest.serialize(&mut serializer).expect("a manifest is valid JSON");
    (media_type.to_owned(), bytes)
}

/// A layer's media type in the manifest's family.
fn layer_type(known: &str, oci: bool) -> &'static str {
    let compression = known.rsplit(['+', '.']).next().unwrap_or_default();
    match (compression, oci) {
        ("zstd", _) => OCI_ZSTD,
        ("tar", true) => "application/vnd.oci.image.layer.v1.tar",
        ("tar", false) => "application/vnd.docker.image.rootfs.diff.tar",
        (_, true) => OCI_GZIP,
        (_, false) => DOCKER_GZIP,
    }
}

/// Writes a layer's tar through gzip. Gives digest and size of what came out.
fn compress(
    shelf: &Shelf,
    key: &Digest,
    sink: impl Write,
    read: &std::sync::atomic::AtomicU64,
) -> Result<(Digest, u64), PushError> {
    let open = |path: std::path::PathBuf| {
        File::open(&path).map_err(|error| PushError::Store(StoreError::file("open", path, error)))
    };
    let map_path = shelf.disk().tar_map(key);
    let disk = open(shelf.disk().layer(key))?;
    let map = TarMap::open(open(map_path.clone())?)
        .map_err(|error| PushError::Store(StoreError::file("read", map_path, error)))?;
    let hashed = Hashed { out: sink, hasher: Sha256::new(), length: 0 };
    let out = io::BufWriter::with_capacity(PIECE, hashed);
    let mut counted = Counted { out: GzEncoder::new(out, Compression::default()), read };
    map.write_tar(&disk, &mut counted).map_err(PushError::Read)?;
    let out = counted.out.finish().map_err(PushError::Read)?;
    let hashed = out.into_inner().map_err(|error| PushError::Read(error.into_error()))?;
    Ok((Digest::from_bytes(hashed.hasher.finalize().into()), hashed.length))
}

/// Hashes and counts what is written.
struct Hashed<W> {
    out: W,
    hasher: Sha256,
    length: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.out.write(bytes)?;
        self.hasher.update(&bytes[..length]);
        self.length += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Counts what is written.
struct Counted<'a, W> {
    out: W,
    read: &'a std::sync::atomic::AtomicU64,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.out.write(bytes)?;
        self.read.fetch_add(length as u64, std::sync::atomic::Ordering::Relaxed);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_are_translated_between_the_families() {
        let table = [
            ("application/vnd.oci.image.layer.v1.tar+gzip", false, DOCKER_GZIP),
            (DOCKER_GZIP, true, OCI_GZIP),
            (OCI_ZSTD, true, OCI_ZSTD),
            ("application/vnd.oci.image.layer.v1.tar", false, "application/vnd.docker.image.rootfs.diff.tar"),
        ];
        for (known, oci, expected) in table {
            assert_eq!(layer_type(known, oci), expected, "{known}");
        }
    }
}
