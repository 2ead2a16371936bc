//! The store's tables.
//!
//! An image's configuration and manifest are kept as bytes, so their digests stay true. A layer's row
//! is written after its files are on disk and removed before they are.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use crate::digest::{Digest, ImageId};
use crate::erofs::Attributes;
use crate::layer::{RootEntry, Summary};

use super::blobs;
use super::error::{OpenError, StoreError};

/// Version of the tables.
const VERSION: i64 = 2;
/// What brings tables of version 1 to version 2.
const FROM_1_TO_2: &str = "
ALTER TABLE image_layer ADD COLUMN root_mtime_nanoseconds INTEGER;
UPDATE image_schema SET version = 2;
";
/// Longest wait for another writer of the same file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The tables. Digests are stored as `sha256:…`, times as seconds since 1970.
const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS image_schema (version INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS image_layer (
    key TEXT PRIMARY KEY, diff_id TEXT NOT NULL,
    files_size INTEGER NOT NULL, disk_size INTEGER NOT NULL, tar_size INTEGER NOT NULL,
    root_mode INTEGER, root_uid INTEGER, root_gid INTEGER, root_mtime INTEGER,
    root_mtime_nanoseconds INTEGER
) STRICT;
CREATE TABLE IF NOT EXISTS image_image (
    id TEXT PRIMARY KEY, config BLOB NOT NULL,
    manifest_digest TEXT NOT NULL, manifest_media_type TEXT NOT NULL, manifest BLOB NOT NULL,
    tagged INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS image_stack (
    image TEXT NOT NULL REFERENCES image_image(id) ON DELETE CASCADE,
    position INTEGER NOT NULL, layer TEXT NOT NULL REFERENCES image_layer(key),
    PRIMARY KEY (image, position)
) STRICT;
CREATE INDEX IF NOT EXISTS image_stack_layer ON image_stack(layer);
CREATE TABLE IF NOT EXISTS image_tag (
    repository TEXT NOT NULL, tag TEXT NOT NULL,
    image TEXT NOT NULL REFERENCES image_image(id) ON DELETE CASCADE,
    PRIMARY KEY (repository, tag)
) STRICT;
CREATE TABLE IF NOT EXISTS image_digest (
    repository TEXT NOT NULL, digest TEXT NOT NULL,
    image TEXT NOT NULL REFERENCES image_image(id) ON DELETE CASCADE,
    PRIMARY KEY (repository, digest)
) STRICT;
CREATE INDEX IF NOT EXISTS image_tag_image ON image_tag(image);
CREATE INDEX IF NOT EXISTS image_digest_image ON image_digest(image);
";

/// A layer's row.
#[derive(Debug, Clone, Copy)]
pub struct LayerRow {
    /// Names its files.
    pub key: Digest,
    /// Digest of its tar.
    pub diff_id: Digest,
    /// Sizes and root directory.
    pub summary: Summary,
}

/// An image's row with its layers and names.
#[derive(Debug, Clone)]
pub struct ImageRow {
    /// Digest of the configuration.
    pub id: ImageId,
    /// The configuration.
    pub config: Vec<u8>,
    /// Digest of the manifest.
    pub manifest_digest: Digest,
    /// Its media type.
    pub manifest_media_type: String,
    /// The manifest.
    pub manifest: Vec<u8>,
    /// When its names last changed.
    pub tagged: i64,
    /// Bottom first.
    pub layers: Vec<LayerRow>,
    /// Repository and tag.
    pub tags: Vec<(String, String)>,
    /// Repository and digest.
    pub digests: Vec<(String, Digest)>,
}

/// What is known about a new image.
pub struct NewImage<'a> {
    /// Digest of the configuration.
    pub id: ImageId,
    /// The configuration.
    pub config: &'a [u8],
    /// Digest of the manifest.
    pub manifest_digest: Digest,
    /// Its media type.
    pub manifest_media_type: &'a str,
    /// The manifest.
    pub manifest: &'a [u8],
    /// The layers' keys, bottom first.
    pub layers: &'a [Digest],
    /// Now.
    pub now: i64,
}

/// Opens the file and makes the tables.
///
/// # Errors
/// See [`OpenError`].
pub fn open(path: &Path) -> Result<Connection, OpenError> {
    let database = |error| OpenError::Store(StoreError::Database(error));
    let mut connection = Connection::open(path).map_err(database)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(database)?;
    // One that reads before it writes would fail at once when the engine wrote in between.
    connection.set_transaction_behavior(TransactionBehavior::Immediate);
    connection.pragma_update(None, "journal_mode", "WAL").map_err(database)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(database)?;
    connection.pragma_update(None, "foreign_keys", true).map_err(database)?;
    // In one transaction, so that a new file is synced once.
    let transaction = connection.transaction().map_err(database)?;
    transaction.execute_batch(SCHEMA).map_err(database)?;
    transaction.execute_batch(blobs::SCHEMA).map_err(database)?;
    let found: Option<i64> = transaction
        .query_row("SELECT version FROM image_schema", [], |row| row.get(0))
        .optional()
        .map_err(database)?;
    match found {
        None => {
            transaction.execute("INSERT INTO image_schema VALUES (?1)", [VERSION]).map_err(database)?;
        }
        Some(VERSION) => {}
        Some(1) => transaction.execute_batch(FROM_1_TO_2).map_err(database)?,
        Some(found) => return Err(OpenError::Version { found, known: VERSION }),
    }
    transaction.commit().map_err(database)?;
    Ok(connection)
}

/// Adds a finished layer.
pub fn add_layer(connection: &Connection, row: &LayerRow) -> rusqlite::Result<()> {
    let root = row.summary.root.map(|root| root.attributes);
    connection.execute(
        "INSERT OR REPLACE INTO image_layer VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        params![
            row.key.to_string(),
            row.diff_id.to_string(),
            row.summary.files_size as i64,
            row.summary.disk_size as i64,
            row.summary.tar_size as i64,
            root.map(|root| root.mode),
            root.map(|root| root.uid),
            root.map(|root| root.gid),
            root.map(|root| root.mtime),
            root.map(|root| root.mtime_nanoseconds),
        ],
    )?;
    Ok(())
}

/// The layer with this key.
pub fn layer(connection: &Connection, key: &Digest) -> rusqlite::Result<Option<LayerRow>> {
    let mut statement = connection.prepare("SELECT * FROM image_layer WHERE key = ?1")?;
    statement.query_row([key.to_string()], |row| layer_row(row, 0)).optional()
}

/// Reads a layer's columns from column `at`.
fn layer_row(row: &Row<'_>, at: usize) -> rusqlite::Result<LayerRow> {
    let mode: Option<u16> = row.get(at + 5)?;
    let root = match mode {
        Some(mode) => {
            let (uid, gid) = (row.get(at + 6)?, row.get(at + 7)?);
            let mtime_nanoseconds: Option<u32> = row.get(at + 9)?;
            let mtime_nanoseconds = mtime_nanoseconds.unwrap_or(0);
            let attributes = Attributes { mode, uid, gid, mtime: row.get(at + 8)?, mtime_nanoseconds };
            Some(RootEntry { attributes })
        }
        None => None,
    };
    Ok(LayerRow {
        key: digest(row, at)?,
        diff_id: digest(row, at + 1)?,
        summary: Summary {
            files_size: row.get::<_, i64>(at + 2)? as u64,
            disk_size: row.get::<_, i64>(at + 3)? as u64,
            tar_size: row.get::<_, i64>(at + 4)? as u64,
            root,
        },
    })
}

/// Reads a digest.
fn digest(row: &Row<'_>, at: usize) -> rusqlite::Result<Digest> {
    let text: String = row.get(at)?;
    text.parse().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(at, rusqlite::types::Type::Text, Box::new(error))
    })
}

/// Adds an image, or a newer manifest of one that is there.
pub fn add_image(transaction: &Transaction<'_>, image: &NewImage<'_>) -> rusqlite::Result<()> {
    let id = image.id.to_string();
    transaction.execute(
        "INSERT INTO image_image VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (id) DO UPDATE SET manifest_digest = ?3, manifest_media_type = ?4, manifest = ?5",
        params![
            id,
            image.config,
            image.manifest_digest.to_string(),
            image.manifest_media_type,
            image.manifest,
            image.now
        ],
    )?;
    transaction.execute("DELETE FROM image_stack WHERE image = ?1", [&id])?;
    for (position, key) in image.layers.iter().enumerate() {
        let values = params![id, position as i64, key.to_string()];
        transaction.execute("INSERT INTO image_stack VALUES (?1, ?2, ?3)", values)?;
    }
    Ok(())
}

/// Gives an image a tag. Returns whether that changed anything.
pub fn set_tag(
    connection: &Connection,
    repository: &str,
    tag: &str,
    image: &ImageId,
    now: i64,
) -> rusqlite::Result<bool> {
    let id = image.to_string();
    let query = "SELECT image FROM image_tag WHERE repository = ?1 AND tag = ?2";
    let known: Option<String> =
        connection.query_row(query, [repository, tag], |row| row.get(0)).optional()?;
    if known.as_deref() == Some(&id) {
        return Ok(false);
    }
    connection.execute("INSERT OR REPLACE INTO image_tag VALUES (?1, ?2, ?3)", [repository, tag, &id])?;
    connection.execute("UPDATE image_image SET tagged = ?2 WHERE id = ?1", params![id, now])?;
    Ok(true)
}

/// Notes that an image came from a repository under a digest.
pub fn set_digest(
    connection: &Connection,
    repository: &str,
    digest: &Digest,
    image: &ImageId,
) -> rusqlite::Result<()> {
    let values = [repository, &digest.to_string(), &image.to_string()];
    connection.execute("INSERT OR REPLACE INTO image_digest VALUES (?1, ?2, ?3)", values)?;
    Ok(())
}

/// The image with this id.
pub fn image(connection: &Connection, id: &ImageId) -> rusqlite::Result<Option<ImageRow>> {
    let mut statement = connection.prepare(
        "SELECT id, config, manifest_digest, manifest_media_type, manifest, tagged FROM image_image WHERE id = ?1",
    )?;
    let found = statement
        .query_row([id.to_string()], |row| {
            Ok(ImageRow {
                id: ImageId::new(digest(row, 0)?),
                config: row.get(1)?,
                manifest_digest: digest(row, 2)?,
                manifest_media_type: row.get(3)?,
                manifest: row.get(4)?,
                tagged: row.get(5)?,
                layers: Vec::new(),
                tags: Vec::new(),
                digests: Vec::new(),
            })
        })
        .optional()?;
    let Some(mut image) = found else { return Ok(None) };
    let id = image.id.to_string();
    let mut statement = connection.prepare(
        "SELECT l.* FROM image_stack s JOIN image_layer l ON l.key = s.layer WHERE s.image = ?1 ORDER BY s.position",
    )?;
    image.layers = statement.query_map([&id], |row| layer_row(row, 0))?.collect::<Result<_, _>>()?;
    let mut statement = connection
        .prepare("SELECT repository, tag FROM image_tag WHERE image = ?1 ORDER BY repository, tag")?;
    image.tags =
        statement.query_map([&id], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    let mut statement = connection.prepare(
        "SELECT repository, digest FROM image_digest WHERE image = ?1 ORDER BY repository, digest",
    )?;
    image.digests =
        statement.query_map([&id], |row| Ok((row.get(0)?, digest(row, 1)?)))?.collect::<Result<_, _>>()?;
    Ok(Some(image))
}

/// All images' ids that begin with these hex digits.
pub fn ids(connection: &Connection, prefix: &str) -> rusqlite::Result<Vec<ImageId>> {
    let mut statement =
        connection.prepare("SELECT id FROM image_image WHERE substr(id, 8, length(?1)) = ?1 ORDER BY id")?;
    statement.query_map([prefix], |row| Ok(ImageId::new(digest(row, 0)?)))?.collect()
}

/// The image with a tag.
pub fn tagged(connection: &Connection, repository: &str, tag: &str) -> rusqlite::Result<Option<ImageId>> {
    let query = "SELECT image FROM image_tag WHERE repository = ?1 AND tag = ?2";
    connection.query_row(query, [repository, tag], |row| Ok(ImageId::new(digest(row, 0)?))).optional()
}

/// The image that came from a repository under a digest.
pub fn by_digest(
    connection: &Connection,
    repository: &str,
    wanted: &Digest,
) -> rusqlite::Result<Option<ImageId>> {
    let query = "SELECT image FROM image_digest WHERE repository = ?1 AND digest = ?2";
    let values = [repository, &wanted.to_string()];
    connection.query_row(query, values, |row| Ok(ImageId::new(digest(row, 0)?))).optional()
}

/// Takes a tag away.
pub fn remove_tag(connection: &Connection, repository: &str, tag: &str) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM image_tag WHERE repository = ?1 AND tag = ?2", [repository, tag])?;
    Ok(())
}

/// Takes a digest's name away.
pub fn remove_digest(connection: &Connection, repository: &str, digest: &Digest) -> rusqlite::Result<()> {
    let values = [repository, &digest.to_string()];
    connection.execute("DELETE FROM image_digest WHERE repository = ?1 AND digest = ?2", values)?;
    Ok(())
}

/// Removes an image with its names.
pub fn remove_image(connection: &Connection, id: &ImageId) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM image_image WHERE id = ?1", [id.to_string()])?;
    Ok(())
}

/// The layers that no image has.
pub fn unused_layers(connection: &Connection) -> rusqlite::Result<Vec<Digest>> {
    let mut statement =
        connection.prepare("SELECT key FROM image_layer WHERE key NOT IN (SELECT layer FROM image_stack)")?;
    statement.query_map([], |row| digest(row, 0))?.collect()
}

/// For each image the diff IDs of its layers, bottom first.
pub fn stacks(connection: &Connection) -> rusqlite::Result<Vec<Vec<Digest>>> {
    let mut statement = connection.prepare(
        "SELECT s.image, l.diff_id FROM image_stack s JOIN image_layer l ON l.key = s.layer ORDER BY s.image, s.position",
    )?;
    let mut rows = statement.query([])?;
    let mut stacks: Vec<Vec<Digest>> = Vec::new();
    let mut image = String::new();
    while let Some(row) = rows.next()? {
        let of: String = row.get(0)?;
        if of != image {
            stacks.push(Vec::new());
            image = of;
        }
        stacks.last_mut().expect("every row has an image").push(digest(row, 1)?);
    }
    Ok(stacks)
}

/// All layers.
pub fn layers(connection: &Connection) -> rusqlite::Result<Vec<Digest>> {
    let mut statement = connection.prepare("SELECT key FROM image_layer")?;
    statement.query_map([], |row| digest(row, 0))?.collect()
}

/// Removes a layer's row.
pub fn remove_layer(connection: &Connection, key: &Digest) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM image_layer WHERE key = ?1", [key.to_string()])?;
    Ok(())
}

/// A repository's tags and their images.
pub fn tags_of(connection: &Connection, repository: &str) -> rusqlite::Result<Vec<(String, ImageId)>> {
    let mut statement =
        connection.prepare("SELECT tag, image FROM image_tag WHERE repository = ?1 ORDER BY tag")?;
    statement.query_map([repository], |row| Ok((row.get(0)?, ImageId::new(digest(row, 1)?))))?.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_that_reads_first_waits_for_other_writers() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("hyper.db");
        let mut connection = open(&path).expect("a new database");
        let other = Connection::open(&path).expect("the same database");
        other
            .execute_batch("CREATE TABLE other (x); BEGIN IMMEDIATE; INSERT INTO other VALUES (1)")
            .expect("alone");
        let writer = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(100));
            other.execute_batch("COMMIT").expect("it holds the lock");
        });
        let transaction = connection.transaction().expect("after the other");
        assert_eq!(unused_layers(&transaction).expect("readable"), []);
        transaction.execute("UPDATE image_schema SET version = version", []).expect("nobody came between");
        transaction.commit().expect("nobody came between");
        writer.join().expect("no panic");
    }

    #[test]
    fn tables_of_the_first_version_are_taken_over() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("hyper.db");
        let older =
            "ALTER TABLE image_layer DROP COLUMN root_mtime_nanoseconds; UPDATE image_schema SET version = 1";
        open(&path).expect("a new database").execute_batch(older).expect("as it was");
        for _ in 0..2 {
            let connection = open(&path).expect("an older database");
            let columns = "SELECT root_mtime_nanoseconds FROM image_layer";
            connection.prepare(columns).expect("the column is there");
        }
    }
}
