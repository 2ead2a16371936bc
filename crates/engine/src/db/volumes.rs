//! Volumes in the state database.

use rusqlite::params;

use super::{Db, Durability, failed, from_json, to_json};
use crate::clock::Timestamp;
use crate::error::{EngineError, Result};
use crate::volumes::VolumeRecord;

/// The step of the schema that makes room for volumes.
pub(super) const MIGRATION: &str = "CREATE TABLE volumes (
         name TEXT PRIMARY KEY,
         driver TEXT NOT NULL,
         created_ns INTEGER NOT NULL,
         labels TEXT NOT NULL,
         options TEXT NOT NULL
     ) STRICT;";

impl Db {
    /// All volumes. Blocks.
    pub(crate) fn volumes(&self) -> Result<Vec<VolumeRecord>> {
        let connection = self.lock();
        let read = |error| EngineError::system("state database: cannot read volumes", error);
        let mut statement = connection
            .prepare("SELECT name, driver, created_ns, labels, options FROM volumes")
            .map_err(read)?;
        let rows = statement.query_map([], |row| {
            Ok(VolumeRecord {
                name: row.get(0)?,
                driver: from_json(row, 1)?,
                created: Timestamp(row.get(2)?),
                labels: from_json(row, 3)?,
                options: from_json(row, 4)?,
            })
        });
        rows.and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>).map_err(read)
    }

    /// Adds a volume.
    pub(crate) async fn add_volume(&self, volume: VolumeRecord) -> Result<()> {
        self.run(Durability::Synced, move |connection| {
            let write = || -> rusqlite::Result<()> {
                connection.execute(
                    "INSERT INTO volumes (name, driver, created_ns, labels, options) VALUES (?1, ?2, ?3, ?4, ?5)",
                    params![
                        volume.name,
                        to_json(&volume.driver)?,
                        volume.created.0,
                        to_json(&volume.labels)?,
                        to_json(&volume.options)?
                    ],
                )?;
                Ok(())
            };
            write().map_err(failed("add a volume"))
        })
        .await
    }

    /// Forgets a volume.
    pub(crate) async fn remove_volume(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.run(Durability::Synced, move |connection| {
            let removed = connection.execute("DELETE FROM volumes WHERE name = ?1", [name]);
            removed.map(drop).map_err(failed("remove a volume"))
        })
        .await
    }
}
