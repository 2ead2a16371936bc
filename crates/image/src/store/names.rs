//! Finding, naming and removing images.

use crate::config::ImageConfig;
use crate::digest::{Digest, ImageId};
use crate::reference::{DEFAULT_TAG, Reference};

use super::database::{self, ImageRow};
use super::error::{LookupError, RemoveError, StoreError, TagError};
use super::image::{HistoryEntry, Image, ImageUse, Layer, Removed, RootAttributes};
use super::layers::{Shelf, State, chain_ids};
use super::time;

/// The row that a name, id, beginning of an id, or `name@digest` leads to.
///
/// # Errors
/// See [`LookupError`].
pub fn find(state: &State, name: &str) -> Result<ImageRow, LookupError> {
    let connection = &state.connection;
    let database = |error| LookupError::Store(StoreError::Database(error));
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    let is_hex = !hex.is_empty()
        && hex.len() <= 64
        && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let not_found = |text: String| LookupError::NotFound(text);
    let load = |id: &ImageId| -> Result<ImageRow, LookupError> {
        database::image(connection, id).map_err(database)?.ok_or_else(|| not_found(name.to_owned()))
    };
    if let Ok(digest) = Digest::from_hex(hex) {
        return load(&ImageId::new(digest));
    }
    let reference = match Reference::parse(name) {
        Ok(reference) => reference,
        // The rest of an id may be too odd for a name.
        Err(error) if !is_hex => return Err(error.into()),
        Err(_) => return by_prefix(state, hex, name),
    };
    let repository = reference.repository();
    let found = match (reference.digest(), reference.tag()) {
        (Some(digest), _) => database::by_digest(connection, &repository, &digest).map_err(database)?,
        (None, tag) => {
            database::tagged(connection, &repository, tag.unwrap_or(DEFAULT_TAG)).map_err(database)?
        }
    };
    match found {
        Some(id) => load(&id),
        None if is_hex => match by_prefix(state, hex, name) {
            Err(LookupError::NotFound(_)) => Err(not_found(reference.to_string())),
            result => result,
        },
        None => Err(not_found(reference.to_string())),
    }
}

/// The one image whose id begins so.
fn by_prefix(state: &State, hex: &str, name: &str) -> Result<ImageRow, LookupError> {
    let database = |error| LookupError::Store(StoreError::Database(error));
    let ids = database::ids(&state.connection, hex).map_err(database)?;
    match ids.as_slice() {
        [id] => {
            let row = database::image(&state.connection, id).map_err(database)?;
            row.ok_or_else(|| LookupError::NotFound(name.to_owned()))
        }
        [] => Err(LookupError::NotFound(name.to_owned())),
        _ => Err(LookupError::Ambiguous(name.to_owned())),
    }
}

/// The image of a row.
///
/// # Errors
/// Its configuration cannot be read any more.
pub fn image(shelf: &Shelf, row: ImageRow) -> Result<Image, StoreError> {
    let config = ImageConfig::parse(&row.config)
        .map_err(|error| StoreError::Damaged(format!("configuration of image {}: {error}", row.id)))?;
    let chain = chain_ids(&config.rootfs.diff_ids);
    if chain.len() != row.layers.len() {
        return Err(StoreError::Damaged(format!("image {} lacks layers", row.id)));
    }
    let layers: Vec<Layer> = row
        .layers
        .iter()
        .zip(chain)
        .map(|(layer, chain_id)| Layer {
            diff_id: layer.diff_id,
            chain_id,
            blob: shelf.disk().layer(&layer.key),
            blob_size: layer.summary.disk_size,
            size: layer.summary.files_size,
        })
        .collect();
    let root = row.layers.iter().rev().find_map(|layer| layer.summary.root);
    let undescribed = RootAttributes { mode: 0o755, uid: 0, gid: 0, mtime: 0, mtime_nanoseconds: 0 };
    let root = root.map_or(undescribed, |root| RootAttributes {
        mode: u32::from(root.attributes.mode),
        uid: root.attributes.uid,
        gid: root.attributes.gid,
        mtime: root.attributes.mtime,
        mtime_nanoseconds: root.attributes.mtime_nanoseconds,
    });
    let created = config.created.clone().unwrap_or_default();
    Ok(Image {
        id: row.id,
        size: layers.iter().map(|layer| layer.size).sum(),
        layers,
        repo_tags: tags(&row),
        repo_digests: row
            .digests
            .iter()
            .map(|(name, digest)| format!("{}@{digest}", familiar(name)))
            .collect(),
        created_seconds: time::parse(&created).unwrap_or(0),
        created,
        architecture: config.architecture.clone(),
        os: if config.os.is_empty() { "linux".to_owned() } else { config.os.clone() },
        variant: config.variant.clone(),
        author: config.author.clone().unwrap_or_default(),
        comment: config.comment.clone().unwrap_or_default(),
        manifest_digest: row.manifest_digest,
        manifest_media_type: row.manifest_media_type,
        manifest_size: row.manifest.len() as u64,
        last_tagged_seconds: row.tagged,
        root,
        config,
    })
}

/// A row's tags in familiar form.
fn tags(row: &ImageRow) -> Vec<String> {
    row.tags.iter().map(|(name, tag)| format!("{}:{tag}", familiar(name))).collect()
}

/// The familiar form of a stored repository.
pub fn familiar(repository: &str) -> String {
    Reference::parse_untagged(repository)
        .map_or_else(|_| repository.to_owned(), |found| found.familiar_name())
}

/// All images, newest first.
///
/// # Errors
/// The database fails, or a row cannot be read any more.
pub fn list(shelf: &Shelf) -> Result<Vec<Image>, LookupError> {
    let state = shelf.state();
    let ids = database::ids(&state.connection, "").map_err(StoreError::Database)?;
    let mut images = Vec::with_capacity(ids.len());
    for id in ids {
        if let Some(row) = database::image(&state.connection, &id).map_err(StoreError::Database)? {
            images.push(image(shelf, row)?);
        }
    }
    images.sort_by_key(|image| (std::cmp::Reverse(image.created_seconds), image.id));
    Ok(images)
}

/// Gives an image another name.
///
/// # Errors
/// See [`TagError`].
pub fn tag(shelf: &Shelf, source: &str, target: &Reference) -> Result<(), TagError> {
    if target.digest().is_some() {
        return Err(TagError::Digest);
    }
    if target.familiar_name() == "sha256" {
        return Err(TagError::AlgorithmName);
    }
    let state = shelf.state();
    let row = find(&state, source)?;
    let tag = target.tag().unwrap_or(DEFAULT_TAG);
    database::set_tag(&state.connection, &target.repository(), tag, &row.id, time::now())
        .map_err(StoreError::Database)?;
    Ok(())
}

/// Removes a name or an image, as docker does it.
///
/// # Errors
/// See [`RemoveError`].
pub fn remove(
    shelf: &Shelf,
    name: &str,
    force: bool,
    no_prune: bool,
    in_use: &dyn Fn(&ImageId) -> Option<ImageUse>,
) -> Result<Vec<Removed>, RemoveError> {
    // The caller's answer must not wait for our lock.
    let id = find(&shelf.state(), name)?.id;
    let usage = in_use(&id);
    let mut state = shelf.state();
    let row = find(&state, name)?;
    let usage = if row.id == id { usage } else { in_use(&row.id) };
    let mut removed = Vec::new();
    if is_id(&row.id, name) {
        if is_single(&row) {
            conflict(&row, force, usage.as_ref(), false)?;
        }
    } else {
        let reference = Reference::parse(name).map_err(crate::store::LookupError::from)?;
        if let Some(user) = usage.as_ref().filter(|_| !force && is_single(&row)) {
            return Err(RemoveError::NameInUse {
                name: name.to_owned(),
                container: short(&user.container),
                image: row.id.short(),
            });
        }
        removed.extend(untag(&state, &row, &reference)?);
        let left = database::image(&state.connection, &row.id).map_err(StoreError::Database)?;
        let keeps_names = left.is_some_and(|left| !left.tags.is_empty() || !left.digests.is_empty());
        // A user keeps an image that lost its last name; force only took the name.
        if keeps_names || no_prune || usage.is_some() {
            return Ok(removed);
        }
    }
    let names_left = database::image(&state.connection, &row.id).map_err(StoreError::Database)?;
    if let Some(row) = &names_left {
        conflict(row, force, usage.as_ref(), true)?;
        removed.extend(tags(row).into_iter().map(Removed::Untagged));
        let digests = row.digests.iter().map(|(name, digest)| format!("{}@{digest}", familiar(name)));
        removed.extend(digests.map(Removed::Untagged));
    }
    if usage.is_some() {
        // A stopped container still needs the disks: only the names go, the image when it is unused.
        for (name, tag) in &row.tags {
            database::remove_tag(&state.connection, name, tag).map_err(StoreError::Database)?;
        }
        for (name, digest) in &row.digests {
            database::remove_digest(&state.connection, name, digest).map_err(StoreError::Database)?;
        }
        return Ok(removed);
    }
    let chain = ImageConfig::parse(&row.config)
        .map_or_else(|_| Vec::new(), |config| chain_ids(&config.rootfs.diff_ids));
    let gone = shelf.collect(&mut state, Some(&row.id))?;
    removed.push(Removed::Deleted(row.id.to_string()));
    let gone_here = row.layers.iter().zip(&chain).rev().filter(|(layer, _)| gone.contains(&layer.diff_id));
    removed.extend(gone_here.map(|(_, chain_id)| Removed::Deleted(chain_id.to_string())));
    Ok(removed)
}

/// Takes one name away; digests of the same repository go with its last tag.
fn untag(state: &State, row: &ImageRow, reference: &Reference) -> Result<Vec<Removed>, StoreError> {
    let connection = &state.connection;
    let repository = reference.repository();
    let mut removed = Vec::new();
    let mut forget = |digest: &Digest| -> Result<(), StoreError> {
        database::remove_digest(connection, &repository, digest)?;
        removed.push(Removed::Untagged(format!("{}@{digest}", reference.familiar_name())));
        Ok(())
    };
    if let Some(digest) = reference.digest() {
        forget(&digest)?;
        return Ok(removed);
    }
    let tag = reference.tag().unwrap_or(DEFAULT_TAG);
    database::remove_tag(connection, &repository, tag)?;
    let last = !row.tags.iter().any(|(name, known)| *name == repository && known != tag);
    if last {
        for (_, digest) in row.digests.iter().filter(|(name, _)| *name == repository) {
            forget(digest)?;
        }
    }
    removed.insert(0, Removed::Untagged(format!("{}:{tag}", reference.familiar_name())));
    Ok(removed)
}

/// Whether the name given is the image's id or its beginning.
fn is_id(id: &ImageId, name: &str) -> bool {
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    !hex.is_empty() && id.hex().starts_with(hex)
}

/// At most one tag, and all names in one repository.
fn is_single(row: &ImageRow) -> bool {
    if row.tags.len() + row.digests.len() <= 1 {
        return true;
    }
    let repository =
        row.tags.first().map(|(name, _)| name).or_else(|| row.digests.first().map(|(name, _)| name));
    row.tags.len() <= 1 && row.digests.iter().all(|(name, _)| Some(name) == repository)
}

/// Whether an image may go. Names count only when `with_names` and there are several.
fn conflict(
    row: &ImageRow,
    force: bool,
    usage: Option<&ImageUse>,
    with_names: bool,
) -> Result<(), RemoveError> {
    let image = row.id.short();
    if let Some(user) = usage {
        let container = short(&user.container);
        if user.running {
            return Err(RemoveError::UsedByRunning { image, container });
        }
        if !force {
            return Err(RemoveError::UsedByStopped { image, container });
        }
    }
    if with_names && !force && !is_single(row) {
        return Err(RemoveError::SeveralNames { image });
    }
    Ok(())
}

/// A container's short id.
fn short(container: &str) -> String {
    container.chars().take(12).collect()
}

/// How an image came to be, newest first.
///
/// # Errors
/// See [`LookupError`].
pub fn history(shelf: &Shelf, name: &str) -> Result<Vec<HistoryEntry>, LookupError> {
    let state = shelf.state();
    let row = find(&state, name)?;
    let tags = tags(&row);
    let image = image(shelf, row)?;
    let mut layers = image.layers.iter();
    let mut entries: Vec<HistoryEntry> = Vec::new();
    for line in &image.config.history {
        let size = if line.empty_layer { 0 } else { layers.next().map_or(0, |layer| layer.size) };
        entries.push(HistoryEntry {
            id: "<missing>".to_owned(),
            created: line.created.as_deref().and_then(time::parse).unwrap_or(0),
            created_by: line.created_by.clone().unwrap_or_default(),
            tags: Vec::new(),
            size,
            comment: line.comment.clone().unwrap_or_default(),
        });
    }
    // Some builders write no history, or not for all layers.
    entries.extend(layers.map(|layer| HistoryEntry {
        id: "<missing>".to_owned(),
        created: image.created_seconds,
        created_by: String::new(),
        tags: Vec::new(),
        size: layer.size,
        comment: String::new(),
    }));
    entries.reverse();
    if let Some(newest) = entries.first_mut() {
        newest.id = image.id.to_string();
        newest.tags = tags;
    }
    Ok(entries)
}
