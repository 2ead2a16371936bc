//! Which blobs of registries have which layer, as pulls and pushes have found: so that a push need not send it again.
//!
//! Only a hint: a push asks the registry before it relies on it.

use rusqlite::{Connection, params};

use crate::digest::Digest;

/// Most blobs remembered of a layer, the newest (docker: 50 as well).
const MAX_BLOBS: i64 = 50;

/// The table.
pub const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS image_blob (
    diff_id TEXT NOT NULL, repository TEXT NOT NULL, digest TEXT NOT NULL,
    media_type TEXT NOT NULL, size INTEGER NOT NULL, seen INTEGER NOT NULL,
    PRIMARY KEY (diff_id, repository, digest)
) STRICT;
";

/// A layer as registries have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Its digest, compressed as it is.
    pub digest: Digest,
    /// What it is.
    pub media_type: String,
    /// Its size in bytes.
    pub size: u64,
}

/// Notes that a repository (`registry/path`) has a layer as a blob.
pub fn remember(
    connection: &Connection,
    diff_id: &Digest,
    repository: &str,
    blob: &Blob,
    now: i64,
) -> rusqlite::Result<()> {
    let diff_id = diff_id.to_string();
    let digest = blob.digest.to_string();
    connection.execute(
        "INSERT OR REPLACE INTO image_blob VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![diff_id, repository, digest, blob.media_type, blob.size as i64, now],
    )?;
    connection.execute(
        "DELETE FROM image_blob WHERE diff_id = ?1 AND rowid NOT IN
             (SELECT rowid FROM image_blob WHERE diff_id = ?1 ORDER BY seen DESC, rowid DESC LIMIT ?2)",
        params![diff_id, MAX_BLOBS],
    )?;
    Ok(())
}

/// The blobs of a layer with their repositories, the newest first.
pub fn of_layer(connection: &Connection, diff_id: &Digest) -> rusqlite::Result<Vec<(String, Blob)>> {
    let mut statement = connection.prepare(
        "SELECT repository, digest, media_type, size FROM image_blob WHERE diff_id = ?1 ORDER BY seen DESC, rowid DESC",
    )?;
    let rows = statement.query_map([diff_id.to_string()], |row| {
        let digest: String = row.get(1)?;
        let blob = digest.parse().ok().map(|digest| -> rusqlite::Result<Blob> {
            Ok(Blob { digest, media_type: row.get(2)?, size: row.get::<_, i64>(3)? as u64 })
        });
        Ok((row.get(0)?, blob.transpose()?))
    })?;
    rows.filter_map(|row| row.map(|(repository, blob)| blob.map(|blob| (repository, blob))).transpose())
        .collect()
}

/// Forgets a blob that a repository does not have.
pub fn forget(
    connection: &Connection,
    diff_id: &Digest,
    repository: &str,
    digest: &Digest,
) -> rusqlite::Result<()> {
    connection.execute(
        "DELETE FROM image_blob WHERE diff_id = ?1 AND repository = ?2 AND digest = ?3",
        [&diff_id.to_string(), repository, &digest.to_string()],
    )?;
    Ok(())
}

/// Forgets the blobs of layers that are not here.
pub fn sweep(connection: &Connection) -> rusqlite::Result<()> {
    let statement = "DELETE FROM image_blob WHERE diff_id NOT IN (SELECT diff_id FROM image_layer)";
    connection.execute(statement, [])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_blobs_are_remembered_once_for_each_repository() {
        let connection = Connection::open_in_memory().expect("a database");
        connection.execute_batch(SCHEMA).expect("a table");
        let layer = Digest::of(b"layer");
        let blob = |text: &str| Blob {
            digest: Digest::of(text.as_bytes()),
            media_type: "application/x".to_owned(),
            size: 7,
        };
        for (now, text) in [(1, "a"), (2, "b"), (3, "a")] {
            remember(&connection, &layer, "r/x", &blob(text), now).expect("written");
        }
        let found = of_layer(&connection, &layer).expect("read");
        assert_eq!(found, [("r/x".to_owned(), blob("a")), ("r/x".to_owned(), blob("b"))]);
        for now in 4..100 {
            remember(&connection, &layer, "r/y", &blob(&now.to_string()), now).expect("written");
        }
        let found = of_layer(&connection, &layer).expect("read");
        assert_eq!((found.len() as i64, &found[0].1), (MAX_BLOBS, &blob("99")));
        forget(&connection, &layer, "r/y", &blob("99").digest).expect("written");
        assert_eq!(of_layer(&connection, &layer).expect("read")[0].1, blob("98"));
    }
}
