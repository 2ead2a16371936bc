//! Images from an archive: docker's, or an OCI layout.
//!
//! What comes first in such a tar is not settled, so it is written to the store's directory once
//! and read from there.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use serde::Deserialize;

use crate::config::{ImageConfig, MAX_CONFIG};
use crate::digest::{Digest, ImageId};
use crate::layer::{Decompressor, LayerError, Limits};
use crate::platform::Platform;
use crate::progress::{LayerStep, Progress};
use crate::reference::{DEFAULT_TAG, Reference};
use crate::registry::{
    Descriptor, MAX_MANIFEST, OCI_MANIFEST, choose, is_index, media_type_of, parse_index, parse_manifest,
};
use crate::tar::{EntryKind, Reader, TarError};

use super::database::{self, NewImage};
use super::error::{LoadError, StoreError};
use super::image::LoadedImage;
use super::layers::{Hold, Shelf, ShelfError, chain_ids};
use super::made::manifest;
use super::merged;
use super::time;

/// Most files of an archive: a hundred images of 127 layers, three files each.
const MAX_FILES: usize = 100_000;
/// Most links followed to a file; docker once wrote equal layers as links.
const MAX_LINKS: usize = 8;

/// Takes an archive in.
///
/// # Errors
/// See [`LoadError`].
pub fn load(
    shelf: &Arc<Shelf>,
    limits: Limits,
    archive: impl Read,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Vec<LoadedImage>, LoadError> {
    let archive = Archive::spool(shelf, limits, archive)?;
    let images = match archive.small("manifest.json", MAX_MANIFEST)? {
        Some(list) => docker_images(&archive, &list)?,
        None => oci_images(&archive)?,
    };
    if images.is_empty() {
        return Err(LoadError::Archive("it holds no image".to_owned()));
    }
    let loader = Loader { shelf, limits, archive: &archive, progress };
    images.into_iter().map(|image| loader.image(image)).collect()
}

/// An image as the archive describes it.
struct Described {
    config: Vec<u8>,
    /// Paths of the layers, bottom first.
    layers: Vec<String>,
    names: Vec<Reference>,
    /// The manifest and its media type, if it has one.
    manifest: Option<(Vec<u8>, String)>,
}

/// The images of docker's `manifest.json`.
fn docker_images(archive: &Archive, list: &[u8]) -> Result<Vec<Described>, LoadError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Item {
        config: String,
        repo_tags: Option<Vec<String>>,
        layers: Option<Vec<String>>,
    }
    let bad = |problem: String| LoadError::Archive(problem);
    let items: Vec<Item> =
        serde_json::from_slice(list).map_err(|error| bad(format!("manifest.json: {error}")))?;
    let mut images = Vec::new();
    for item in items {
        let config = archive.small(&item.config, MAX_CONFIG)?;
        let config = config.ok_or_else(|| bad(format!("{} is missing", item.config)))?;
        let mut names = Vec::new();
        for tag in item.repo_tags.unwrap_or_default() {
            names.push(Reference::parse(&tag).map_err(|error| bad(format!("invalid tag {tag:?}: {error}")))?);
        }
        images.push(Described { config, layers: item.layers.unwrap_or_default(), names, manifest: None });
    }
    Ok(images)
}

/// The images of an OCI layout's `index.json`.
fn oci_images(archive: &Archive) -> Result<Vec<Described>, LoadError> {
    let bad = |problem: String| LoadError::Archive(problem);
    let index = archive.small("index.json", MAX_MANIFEST)?;
    let index = index.ok_or_else(|| bad("neither manifest.json nor index.json is in it".to_owned()))?;
    let entries = parse_index(&index).map_err(|error| bad(format!("index.json: {error}")))?;
    let mut images: Vec<(Digest, Described)> = Vec::new();
    for (descriptor, platform) in entries {
        if platform.is_some_and(|platform| platform.fitness(&Platform::host()).is_none()) {
            continue;
        }
        let Some((digest, bytes, media_type)) = oci_manifest(archive, &descriptor)? else { continue };
        let name = oci_name(&descriptor);
        if let Some((_, known)) = images.iter_mut().find(|(known, _)| *known == digest) {
            known.names.extend(name);
            continue;
        }
        let parsed = parse_manifest(&bytes).map_err(|error| bad(format!("manifest {digest}: {error}")))?;
        let config = archive.blob(&parsed.config, MAX_CONFIG)?;
        let layers = parsed.layers.iter().map(|layer| blob_path(&layer.digest)).collect();
        let manifest = Some((bytes, media_type));
        images.push((digest, Described { config, layers, names: name.into_iter().collect(), manifest }));
    }
    Ok(images.into_iter().map(|(_, image)| image).collect())
}

/// The manifest that a descriptor leads to, through an index if need be.
fn oci_manifest(
    archive: &Archive,
    descriptor: &Descriptor,
) -> Result<Option<(Digest, Vec<u8>, String)>, LoadError> {
    let mut descriptor = descriptor.clone();
    for _ in 0..3 {
        let bytes = archive.blob(&descriptor, MAX_MANIFEST)?;
        let media_type = media_type_of(&bytes, Some(&descriptor.media_type)).map_err(LoadError::Archive)?;
        let media_type = media_type
            .ok_or_else(|| LoadError::Archive("schema 1 manifests are not supported".to_owned()))?;
        if !is_index(&media_type) {
            return Ok(Some((descriptor.digest, bytes, media_type)));
        }
        let inner = parse_index(&bytes).map_err(LoadError::Archive)?;
        match choose(inner, &Platform::host()) {
            Some(next) => descriptor = next,
            None => return Ok(None),
        }
    }
    Err(LoadError::Archive("its indexes are nested too deeply".to_owned()))
}

/// The name in an OCI index. A bare word there is a tag without a repository, and names nothing.
fn oci_name(descriptor: &Descriptor) -> Option<Reference> {
    let full = descriptor.annotation("io.containerd.image.name");
    let short =
        descriptor.annotation("org.opencontainers.image.ref.name").filter(|name| name.contains(['/', ':']));
    Reference::parse(full.or(short)?).ok().filter(|reference| reference.tag().is_some())
}

/// A blob's place in an OCI layout.
fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// What does the work for one image.
struct Loader<'a> {
    shelf: &'a Arc<Shelf>,
    limits: Limits,
    archive: &'a Archive,
    progress: &'a (dyn Fn(Progress) + Sync),
}

impl Loader<'_> {
    /// Puts an image into the store.
    fn image(&self, image: Described) -> Result<LoadedImage, LoadError> {
        let config = ImageConfig::parse(&image.config)?;
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != image.layers.len() {
            let problem =
                format!("{} layers, but {} in the configuration", image.layers.len(), diff_ids.len());
            return Err(LoadError::Archive(problem));
        }
        let mut rows = Vec::new();
        let mut holds: Vec<Hold> = Vec::new();
        for ((path, diff_id), chain_id) in image.layers.iter().zip(diff_ids).zip(chain_ids(diff_ids)) {
            let below: Vec<Digest> = holds.iter().map(Hold::key).collect();
            let (row, hold) = match self.shelf.find(diff_id, &chain_id)? {
                Some(found) => found,
                None => self.layer(path, diff_id, &chain_id, &below)?,
            };
            rows.push(row);
            holds.push(hold);
        }
        let id = ImageId::new(Digest::of(&image.config));
        let sizes: Vec<(Digest, u64)> = rows.iter().map(|row| (row.diff_id, row.summary.tar_size)).collect();
        let keys: Vec<Digest> = rows.iter().map(|row| row.key).collect();
        let (manifest, media_type) =
            image.manifest.unwrap_or_else(|| (manifest(&image.config, &sizes), OCI_MANIFEST.to_owned()));
        let new = NewImage {
            id,
            config: &image.config,
            manifest_digest: Digest::of(&manifest),
            manifest_media_type: &media_type,
            manifest: &manifest,
            layers: &keys,
            now: time::now(),
        };
        self.commit(&new, &image.names).map_err(StoreError::Database)?;
        merged::prepare(self.shelf, &id);
        let references: Vec<String> = image.names.iter().map(ToString::to_string).collect();
        if references.is_empty() {
            (self.progress)(Progress::Line(format!("Loaded image ID: {id}")));
        }
        for name in &references {
            (self.progress)(Progress::Line(format!("Loaded image: {name}")));
        }
        Ok(LoadedImage { id, references })
    }

    /// Makes one layer's disk.
    fn layer(
        &self,
        path: &str,
        diff_id: &Digest,
        chain_id: &Digest,
        below: &[Digest],
    ) -> Result<(database::LayerRow, Hold), LoadError> {
        let failed = |error| match error {
            ShelfError::Layer(source) => LoadError::Layer { name: path.to_owned(), source },
            ShelfError::Store(error) => LoadError::Store(error),
        };
        let (file, length) = self.archive.open(path)?;
        let tell = |current: u64| {
            let step = LayerStep::Loading { current, total: length };
            (self.progress)(Progress::Layer { id: diff_id.short(), step });
        };
        tell(0);
        let lock = self.shelf.making(*diff_id);
        let _making = lock.blocking_lock();
        if let Some(found) = self.shelf.find(diff_id, chain_id)? {
            return Ok(found);
        }
        let made = self.shelf.make(file, self.limits).map_err(failed)?;
        if made.diff_id != *diff_id {
            let source = LayerError::DiffId { expected: *diff_id, found: made.diff_id };
            return Err(LoadError::Layer { name: path.to_owned(), source });
        }
        let kept = self.shelf.keep(made, chain_id, below).map_err(failed)?;
        tell(length);
        Ok(kept)
    }

    /// Writes the image and its names.
    fn commit(&self, new: &NewImage<'_>, names: &[Reference]) -> rusqlite::Result<()> {
        let mut state = self.shelf.state();
        let transaction = state.connection.transaction()?;
        database::add_image(&transaction, new)?;
        for name in names {
            let tag = name.tag().unwrap_or(DEFAULT_TAG);
            database::set_tag(&transaction, &name.repository(), tag, &new.id, new.now)?;
        }
        transaction.commit()
    }
}

/// The archive on disk, with an index of its files.
struct Archive {
    file: File,
    files: HashMap<String, Located>,
}

/// A file of the archive.
enum Located {
    /// Its bytes.
    Bytes { offset: u64, length: u64 },
    /// Another path.
    Link(String),
}

impl Archive {
    /// Writes the stream to scratch space and finds its files.
    fn spool(shelf: &Shelf, limits: Limits, archive: impl Read) -> Result<Self, LoadError> {
        let failed = |source| LoadError::Layer { name: "archive".to_owned(), source };
        let file = shelf.disk().scratch()?;
        // An archive holds many layers: the bound for one is not meant for it, the ratio is.
        let limits = Limits { layer: u64::MAX, ..limits };
        let stream = Decompressor::new(archive, limits).map_err(failed)?;
        let mut reader = Reader::new(BufReader::with_capacity(1 << 20, stream), ());
        let mut out = std::io::BufWriter::with_capacity(1 << 20, file);
        let (mut files, mut offset) = (HashMap::new(), 0_u64);
        while let Some(entry) = reader.next_entry().map_err(read_failed)? {
            if files.len() >= MAX_FILES {
                return Err(LoadError::Archive(format!("it holds more than {MAX_FILES} files")));
            }
            let Ok(path) = String::from_utf8(entry.path.clone()) else { continue };
            let path = clean(&path);
            match entry.kind {
                EntryKind::File if entry.sparse.is_some() => {
                    return Err(LoadError::Archive(format!("{path} is a sparse file")));
                }
                EntryKind::File => {
                    let start = offset;
                    reader.payload(|(), bytes| -> Result<(), SpoolError> {
                        out.write_all(bytes).map_err(SpoolError::Write)?;
                        offset += bytes.len() as u64;
                        Ok(())
                    })?;
                    files.insert(path, Located::Bytes { offset: start, length: offset - start });
                }
                EntryKind::Symlink | EntryKind::HardLink => {
                    let target = String::from_utf8_lossy(&entry.link).into_owned();
                    let target = match (entry.kind, path.rsplit_once('/')) {
                        (EntryKind::Symlink, Some((directory, _))) => clean(&format!("{directory}/{target}")),
                        _ => clean(&target),
                    };
                    files.insert(path, Located::Link(target));
                }
                _ => {}
            }
        }
        let file = out.into_inner().map_err(|error| spool_failed(error.into_error()))?;
        Ok(Self { file, files })
    }

    /// Where a file is.
    fn locate(&self, path: &str) -> Option<(u64, u64)> {
        let mut path = clean(path);
        for _ in 0..MAX_LINKS {
            match self.files.get(&path)? {
                Located::Bytes { offset, length } => return Some((*offset, *length)),
                Located::Link(target) => path = target.clone(),
            }
        }
        None
    }

    /// A small file's bytes, if it is there.
    fn small(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, LoadError> {
        let Some((offset, length)) = self.locate(path) else { return Ok(None) };
        if length > limit {
            return Err(LoadError::Archive(format!(
                "{path} has {length} bytes, at most {limit} are supported"
            )));
        }
        let mut bytes = vec![0; length as usize];
        self.file.read_exact_at(&mut bytes, offset).map_err(spool_failed)?;
        Ok(Some(bytes))
    }

    /// A small blob's bytes, checked.
    fn blob(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>, LoadError> {
        let digest = descriptor.digest;
        let bytes = self.small(&blob_path(&digest), limit)?;
        let bytes = bytes.ok_or_else(|| LoadError::Archive(format!("blob {digest} is missing")))?;
        if Digest::of(&bytes) != digest {
            return Err(LoadError::Archive(format!("blob {digest} is damaged")));
        }
        Ok(bytes)
    }

    /// A file as a stream, and its length.
    fn open(&self, path: &str) -> Result<(impl Read + Send, u64), LoadError> {
        let located = self.locate(path);
        let (offset, length) = located.ok_or_else(|| LoadError::Archive(format!("{path} is missing")))?;
        let mut file = self.file.try_clone().map_err(spool_failed)?;
        file.seek(SeekFrom::Start(offset)).map_err(spool_failed)?;
        Ok((file.take(length), length))
    }
}

/// A path without `.`, `..` and double slashes.
fn clean(path: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => {
                names.pop();
            }
            _ => names.push(name),
        }
    }
    names.join("/")
}

/// Reading the archive, or writing it to scratch space.
enum SpoolError {
    Tar(TarError),
    Write(std::io::Error),
}

impl From<TarError> for SpoolError {
    fn from(error: TarError) -> Self {
        Self::Tar(error)
    }
}

impl From<SpoolError> for LoadError {
    fn from(error: SpoolError) -> Self {
        match error {
            SpoolError::Tar(error) => read_failed(error),
            SpoolError::Write(error) => spool_failed(error),
        }
    }
}

/// The archive's stream is bad.
fn read_failed(error: TarError) -> LoadError {
    match LayerError::from(error) {
        LayerError::Tar(error) => LoadError::Read(error),
        source => LoadError::Layer { name: "archive".to_owned(), source },
    }
}

/// Scratch space fails.
fn spool_failed(error: std::io::Error) -> LoadError {
    LoadError::Store(StoreError::file("use", "scratch space", error))
}
