//! Images as one tar that old and new dockers, podman and OCI tools read.
//!
//! An OCI layout with docker's `manifest.json` and `repositories` beside it, as docker 25 and newer
//! write. Layers are uncompressed: their tars come back byte for byte, so all digests of the configuration stay true.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use serde_json::json;

use crate::digest::Digest;
use crate::layer::TarMap;
use crate::reference::{DEFAULT_TAG, Reference};
use crate::registry::{OCI_INDEX, OCI_MANIFEST};
use crate::tar::{BLOCK, entry_header, trailer};

use super::database::{self, ImageRow};
use super::error::{LookupError, SaveError, StoreError};
use super::layers::{Hold, Shelf, State, chain_ids};
use super::made::manifest;
use super::names::{familiar, find};

/// An image to write, with the names to give it and its layers held.
struct Chosen {
    row: ImageRow,
    /// Repository (familiar form) and tag.
    tags: Vec<(String, String)>,
    _holds: Vec<Hold>,
}

/// Writes the images to `out`.
///
/// # Errors
/// See [`SaveError`].
pub fn save(shelf: &Arc<Shelf>, names: &[String], out: impl Write) -> Result<(), SaveError> {
    let chosen = choose(shelf, names)?;
    let mut archive = Archive { out: io::BufWriter::with_capacity(1 << 20, out), written: HashSet::new() };
    archive.directory("blobs/")?;
    archive.directory("blobs/sha256/")?;
    let (mut index, mut list) = (Vec::new(), Vec::new());
    let mut repositories: BTreeMap<&str, BTreeMap<&str, String>> = BTreeMap::new();
    for image in &chosen {
        let row = &image.row;
        archive.blob(&row.id.digest(), &row.config)?;
        for layer in &row.layers {
            archive.layer(shelf, &layer.key, &layer.diff_id)?;
        }
        let sizes: Vec<(Digest, u64)> =
            row.layers.iter().map(|layer| (layer.diff_id, layer.summary.tar_size)).collect();
        let manifest = manifest(&row.config, &sizes);
        archive.blob(&Digest::of(&manifest), &manifest)?;
        let descriptor = json!({
            "mediaType": OCI_MANIFEST, "digest": Digest::of(&manifest), "size": manifest.len(),
        });
        if image.tags.is_empty() {
            index.push(descriptor.clone());
        }
        let top = chain_ids(&sizes.iter().map(|(diff_id, _)| *diff_id).collect::<Vec<_>>()).last().copied();
        for (name, tag) in &image.tags {
            let mut descriptor = descriptor.clone();
            let full =
                Reference::parse_untagged(name).map_or_else(|_| name.clone(), |found| found.repository());
            descriptor["annotations"] = json!({
                "io.containerd.image.name": format!("{full}:{tag}"),
                "org.opencontainers.image.ref.name": tag,
            });
            index.push(descriptor);
            if let Some(top) = top {
                repositories.entry(name).or_default().insert(tag, top.hex());
            }
        }
        let tags: Vec<String> = image.tags.iter().map(|(name, tag)| format!("{name}:{tag}")).collect();
        list.push(json!({
            "Config": blob_path(&row.id.digest()),
            "RepoTags": if tags.is_empty() { None } else { Some(tags) },
            "Layers": sizes.iter().map(|(diff_id, _)| blob_path(diff_id)).collect::<Vec<_>>(),
        }));
    }
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": index});
    archive.file("index.json", index.to_string().as_bytes())?;
    archive.file("manifest.json", json!(list).to_string().as_bytes())?;
    archive.file("oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#)?;
    if !repositories.is_empty() {
        archive.file("repositories", json!(repositories).to_string().as_bytes())?;
    }
    archive.out.write_all(&trailer()).and_then(|()| archive.out.flush()).map_err(SaveError::Write)
}

/// Finds the images. A name with a tag or digest is that one; a bare repository is all its tags, an id is nameless.
fn choose(shelf: &Arc<Shelf>, names: &[String]) -> Result<Vec<Chosen>, SaveError> {
    let mut chosen: Vec<Chosen> = Vec::new();
    for name in names {
        let (rows, state) = {
            let state = shelf.state();
            (rows_of(&state, name)?, state)
        };
        drop(state);
        for (row, tags) in rows {
            if let Some(known) = chosen.iter_mut().find(|known| known.row.id == row.id) {
                known.tags.extend(tags);
                known.tags.sort();
                known.tags.dedup();
                continue;
            }
            let diff_ids: Vec<Digest> = row.layers.iter().map(|layer| layer.diff_id).collect();
            let mut holds = Vec::new();
            for (layer, chain_id) in row.layers.iter().zip(chain_ids(&diff_ids)) {
                let found = shelf.find(&layer.diff_id, &chain_id)?;
                let (_, hold) = found.ok_or_else(|| LookupError::NotFound(name.clone()))?;
                holds.push(hold);
            }
            chosen.push(Chosen { row, tags, _holds: holds });
        }
    }
    Ok(chosen)
}

/// An image, and the tags (repository in familiar form, tag) it is asked for by.
type Wanted = (ImageRow, Vec<(String, String)>);

/// The images of one name, each with the tags it is asked for by.
fn rows_of(state: &State, name: &str) -> Result<Vec<Wanted>, SaveError> {
    let untagged = Reference::parse_untagged(name).ok();
    let bare =
        untagged.as_ref().filter(|reference| reference.tag().is_none() && reference.digest().is_none());
    if let Some(reference) = bare {
        let tags =
            database::tags_of(&state.connection, &reference.repository()).map_err(StoreError::Database)?;
        let mut rows = Vec::new();
        for (tag, id) in tags {
            let row = database::image(&state.connection, &id).map_err(StoreError::Database)?;
            rows.extend(row.map(|row| (row, vec![(reference.familiar_name(), tag)])));
        }
        if !rows.is_empty() {
            return Ok(rows);
        }
    }
    let row = find(state, name)?;
    let tag = untagged.filter(|reference| reference.digest().is_none());
    let tags =
        tag.map(|reference| (reference.familiar_name(), reference.tag().unwrap_or(DEFAULT_TAG).to_owned()));
    // An id that looks like a name is not one of the image's names.
    let is_name = |wanted: &(String, String)| {
        row.tags
            .iter()
            .any(|(name, tag)| (familiar(name), tag.as_str()) == (wanted.0.clone(), wanted.1.as_str()))
    };
    let tags = tags.into_iter().filter(is_name).collect();
    Ok(vec![(row, tags)])
}

/// A blob's place in the archive.
fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// The tar being written.
struct Archive<W: Write> {
    out: io::BufWriter<W>,
    /// Blobs that are in it already.
    written: HashSet<Digest>,
}

impl<W: Write> Archive<W> {
    /// A directory.
    fn directory(&mut self, path: &str) -> Result<(), SaveError> {
        self.header(path, b'5', 0o755, 0)
    }

    /// A file from memory.
    fn file(&mut self, path: &str, bytes: &[u8]) -> Result<(), SaveError> {
        self.header(path, b'0', 0o644, bytes.len() as u64)?;
        self.out.write_all(bytes).map_err(SaveError::Write)?;
        self.pad(bytes.len() as u64)
    }

    /// A blob from memory, once.
    fn blob(&mut self, digest: &Digest, bytes: &[u8]) -> Result<(), SaveError> {
        if self.written.insert(*digest) { self.file(&blob_path(digest), bytes) } else { Ok(()) }
    }

    /// A layer's tar, once.
    fn layer(&mut self, shelf: &Shelf, key: &Digest, diff_id: &Digest) -> Result<(), SaveError> {
        if !self.written.insert(*diff_id) {
            return Ok(());
        }
        let open = |path: std::path::PathBuf| {
            File::open(&path).map_err(|error| SaveError::Store(StoreError::file("open", path, error)))
        };
        let map_path = shelf.disk().tar_map(key);
        let disk = open(shelf.disk().layer(key))?;
        let map = TarMap::open(open(map_path.clone())?)
            .map_err(|error| SaveError::Store(StoreError::file("read", map_path, error)))?;
        self.header(&blob_path(diff_id), b'0', 0o644, map.size)?;
        map.write_tar(&disk, &mut self.out).map_err(SaveError::Write)?;
        self.pad(map.size)
    }

    /// An entry's header.
    fn header(&mut self, path: &str, kind: u8, mode: u16, size: u64) -> Result<(), SaveError> {
        let header = entry_header(path.as_bytes(), kind, mode, size, 0).expect("the archive's own paths fit");
        self.out.write_all(&header).map_err(SaveError::Write)
    }

    /// Zeros up to the next block.
    fn pad(&mut self, size: u64) -> Result<(), SaveError> {
        let padding = size.wrapping_neg() % BLOCK as u64;
        self.out.write_all(&[0; BLOCK][..padding as usize]).map_err(SaveError::Write)
    }
}
