//! The state database: what containers and pods there are.
//!
//! One SQLite file, write-ahead log, every commit synced: what a request was told to be done is still so
//! after a crash. Memory holds the same records; the database is written first.

mod volumes;

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::clock::Timestamp;
use crate::error::{EngineError, Result};
use crate::health::Health;
use crate::networks::NetworkRecord;
use crate::options::{ContainerOptions, ContainerRecord, PodRecord, State};

/// How long a statement waits while the image store writes to the same file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Each step brings the schema from its index to the next version; never edited, only appended to.
const MIGRATIONS: [&str; 7] = [
    // 1: pods and the containers in them
    "CREATE TABLE pods (
         id TEXT PRIMARY KEY,
         name TEXT UNIQUE,
         explicit INTEGER NOT NULL,
         created_ns INTEGER NOT NULL,
         options TEXT NOT NULL,
         endpoint TEXT,
         up INTEGER NOT NULL
     ) STRICT;
     CREATE TABLE containers (
         id TEXT PRIMARY KEY,
         name TEXT NOT NULL UNIQUE,
         created_ns INTEGER NOT NULL,
         image_id TEXT NOT NULL,
         pod TEXT NOT NULL REFERENCES pods (id),
         options TEXT NOT NULL,
         state TEXT NOT NULL
     ) STRICT;",
    // 2: how containers ended that removed themselves
    "CREATE TABLE removed (
         id TEXT PRIMARY KEY,
         exit_code INTEGER NOT NULL,
         at_ns INTEGER NOT NULL
     ) STRICT;",
    // 3: what health checks say
    "CREATE TABLE health (
         container TEXT PRIMARY KEY REFERENCES containers (id) ON DELETE CASCADE,
         health TEXT NOT NULL
     ) STRICT;",
    // 4: volumes
    volumes::MIGRATION,
    // 5: user-defined networks, and pods' places on them
    "CREATE TABLE networks (
         id TEXT PRIMARY KEY,
         record TEXT NOT NULL
     ) STRICT;
     ALTER TABLE pods ADD COLUMN endpoints TEXT NOT NULL DEFAULT '[]';",
    // 6: the NIC slot of a pod's place on the default network
    "ALTER TABLE pods ADD COLUMN slot INTEGER NOT NULL DEFAULT 0;",
    // 7: when a pod's VM came up last
    "ALTER TABLE pods ADD COLUMN started_ns INTEGER;",
];

/// How long the exit code of a container that removed itself can be asked for: longer than a client needs to find a
/// daemon again that was ended in between.
const REMEMBERED_NS: i64 = 600_000_000_000;

/// A handle of the database; clones share one connection.
#[derive(Debug, Clone)]
pub(crate) struct Db {
    connection: Arc<Mutex<Connection>>,
}

/// Small settings kept beside pods and containers.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Setting {
    /// Subnet of the default network.
    Subnet,
    /// How the last pod's instructions were executed (`kvm`, `tcg`).
    Accelerator,
    /// The daemon's own id, as `/info` tells it.
    DaemonId,
}

impl Setting {
    fn key(self) -> &'static str {
        match self {
            Self::Subnet => "subnet",
            Self::Accelerator => "accelerator",
            Self::DaemonId => "daemon_id",
        }
    }
}

/// Whether a change has to outlive a power failure. Every change outlives the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// It is on disk when the call returns: some milliseconds, more on a busy disk.
    Synced,
    /// It is with the kernel. For what a power failure ends anyway: VMs, and containers that remove themselves.
    Written,
}

impl Durability {
    /// For a change to a container that removes itself, or does not.
    pub(crate) fn of_container(auto_remove: bool) -> Self {
        if auto_remove { Self::Written } else { Self::Synced }
    }

    /// Value of SQLite's `synchronous` in write-ahead mode.
    fn synchronous(self) -> &'static str {
        match self {
            Self::Synced => "full",
            Self::Written => "normal",
        }
    }
}

fn failed(action: &str) -> impl FnOnce(rusqlite::Error) -> EngineError + '_ {
    move |error| {
        let full = error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull);
        let error = EngineError::system(format!("state database: cannot {action}"), error);
        if full {
            error.with_hint("the disk is full: remove images or containers, or enlarge it")
        } else {
            error
        }
    }
}

impl Db {
    /// Opens the database and brings its schema up to date.
    ///
    /// # Errors
    /// The file cannot be opened, is damaged, or was written by a newer version.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        // Environments and commands of containers hold secrets. SQLite gives its other files the same mode.
        std::fs::File::options().create(true).append(true).mode(0o600).open(path).map_err(|error| {
            EngineError::system(format!("cannot open state database {}", path.display()), error)
        })?;
        let open = |path: &Path| -> rusqlite::Result<Connection> {
            let connection = Connection::open(path)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            connection.pragma_update(None, "journal_mode", "wal")?;
            connection.pragma_update(None, "foreign_keys", true)?;
            Ok(connection)
        };
        let mut connection = open(path).map_err(|error| {
            EngineError::system(format!("cannot open state database {}", path.display()), error)
        })?;
        migrate(&mut connection, &MIGRATIONS)?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)) })
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Runs `work` where blocking is allowed.
    async fn run<T: Send + 'static>(
        &self,
        durability: Durability,
        work: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let db = self.clone();
        let work = move || {
            let mut connection = db.lock();
            connection
                .pragma_update(None, "synchronous", durability.synchronous())
                .map_err(failed("set how it writes"))?;
            work(&mut connection)
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| EngineError::system("state database: work ended early", error))?
    }

    /// Everything there is. Blocks.
    pub(crate) fn load(&self) -> Result<(Vec<PodRecord>, Vec<ContainerRecord>)> {
        let connection = self.lock();
        let read = |error| EngineError::system("state database: cannot read records", error);
        let mut statement = connection
            .prepare(
                "SELECT id, name, explicit, created_ns, options, endpoint, up, endpoints, slot, \
                 started_ns FROM pods",
            )
            .map_err(read)?;
        let pods = statement
            .query_map([], pod_of_row)
            .and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>)
            .map_err(read)?;
        let mut statement = connection
            .prepare("SELECT id, name, created_ns, image_id, pod, options, state FROM containers")
            .map_err(read)?;
        let containers = statement
            .query_map([], container_of_row)
            .and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>)
            .map_err(read)?;
        Ok((pods, containers))
    }

    /// A setting, if it was ever set. Blocks.
    pub(crate) fn setting(&self, setting: Setting) -> Result<Option<String>> {
        self.lock()
            .query_row("SELECT value FROM engine_settings WHERE key = ?1", [setting.key()], |row| row.get(0))
            .optional()
            .map_err(failed("read a setting"))
    }

    /// Changes a setting. Blocks.
    pub(crate) fn set_setting(&self, setting: Setting, value: &str) -> Result<()> {
        self.lock()
            .execute(
                "INSERT INTO engine_settings (key, value) VALUES (?1, ?2)
                 ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                params![setting.key(), value],
            )
            .map(drop)
            .map_err(failed("write a setting"))
    }

    /// Adds a container, and its pod with it where that is new, in one step.
    pub(crate) async fn insert(&self, pod: Option<PodRecord>, container: ContainerRecord) -> Result<()> {
        let durability = Durability::of_container(container.options.auto_remove);
        self.run(durability, move |connection| {
            let mut write = || -> rusqlite::Result<()> {
                let transaction = connection.transaction()?;
                if let Some(pod) = &pod {
                    put_pod(&transaction, pod)?;
                }
                transaction.execute(
                    "INSERT INTO containers (id, name, created_ns, image_id, pod, options, state)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                    params![
                        container.id,
                        container.name,
                        container.created.0,
                        container.image_id,
                        container.pod,
                        to_json(&container.options)?,
                        to_json(&container.state)?
                    ],
                )?;
                transaction.commit()
            };
            write().map_err(failed("add a container"))
        })
        .await
    }

    /// Adds or changes a pod.
    pub(crate) async fn put_pod(&self, pod: PodRecord, durability: Durability) -> Result<()> {
        self.run(durability, move |connection| put_pod(connection, &pod).map_err(failed("write a pod"))).await
    }

    /// All user-defined networks. Blocks.
    pub(crate) fn networks(&self) -> Result<Vec<NetworkRecord>> {
        let connection = self.lock();
        let read = |error| EngineError::system("state database: cannot read networks", error);
        let mut statement = connection.prepare("SELECT record FROM networks").map_err(read)?;
        statement
            .query_map([], |row| from_json(row, 0))
            .and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>)
            .map_err(read)
    }

    /// Adds a network.
    pub(crate) async fn put_network(&self, network: NetworkRecord) -> Result<()> {
        self.run(Durability::Synced, move |connection| {
            to_json(&network)
                .and_then(|record| {
                    connection.execute(
                        "INSERT INTO networks (id, record) VALUES (?1, ?2)",
                        params![network.id, record],
                    )
                })
                .map(drop)
                .map_err(failed("add a network"))
        })
        .await
    }

    /// Forgets a network.
    pub(crate) async fn remove_network(&self, id: &str) -> Result<()> {
        let id = id.to_owned();
        self.run(Durability::Synced, move |connection| {
            connection
                .execute("DELETE FROM networks WHERE id = ?1", [id])
                .map(drop)
                .map_err(failed("remove a network"))
        })
        .await
    }

    /// Changes a container's state.
    pub(crate) async fn set_state(&self, id: &str, state: &State, durability: Durability) -> Result<()> {
        let (id, state) = (id.to_owned(), state.clone());
        self.run(durability, move |connection| {
            to_json(&state)
                .and_then(|state| {
                    connection.execute("UPDATE containers SET state = ?2 WHERE id = ?1", params![id, state])
                })
                .map(drop)
                .map_err(failed("write a container's state"))
        })
        .await
    }

    /// Changes what a container is asked to be.
    pub(crate) async fn set_options(
        &self,
        id: &str,
        options: &ContainerOptions,
        durability: Durability,
    ) -> Result<()> {
        let (id, options) = (id.to_owned(), options.clone());
        self.run(durability, move |connection| {
            to_json(&options)
                .and_then(|options| {
                    connection
                        .execute("UPDATE containers SET options = ?2 WHERE id = ?1", params![id, options])
                })
                .map(drop)
                .map_err(failed("write a container's options"))
        })
        .await
    }

    /// Changes a container's name.
    pub(crate) async fn rename(&self, id: &str, name: &str) -> Result<()> {
        let (id, name) = (id.to_owned(), name.to_owned());
        self.run(Durability::Synced, move |connection| {
            connection
                .execute("UPDATE containers SET name = ?2 WHERE id = ?1", params![id, name])
                .map(drop)
                .map_err(failed("rename a container"))
        })
        .await
    }

    /// Forgets a container, and its pod with it when `pod` is given, in one step. A given exit code is remembered for
    /// a while.
    pub(crate) async fn remove(
        &self,
        container: &str,
        pod: Option<&str>,
        exit_code: Option<i64>,
        durability: Durability,
    ) -> Result<()> {
        let (container, pod) = (container.to_owned(), pod.map(str::to_owned));
        self.run(durability, move |connection| {
            let mut write = || -> rusqlite::Result<()> {
                let transaction = connection.transaction()?;
                transaction.execute("DELETE FROM containers WHERE id = ?1", [&container])?;
                if let Some(pod) = &pod {
                    transaction.execute("DELETE FROM pods WHERE id = ?1", [pod])?;
                }
                if let Some(exit_code) = exit_code {
                    let now = Timestamp::now().0;
                    transaction.execute("DELETE FROM removed WHERE at_ns < ?1", [now - REMEMBERED_NS])?;
                    transaction.execute(
                        "INSERT OR REPLACE INTO removed (id, exit_code, at_ns) VALUES (?1, ?2, ?3)",
                        params![container, exit_code, now],
                    )?;
                }
                transaction.commit()
            };
            write().map_err(failed("remove a container"))
        })
        .await
    }

    /// Changes what is known of a container's health, unless it is gone.
    pub(crate) async fn put_health(&self, container: &str, health: &Health) -> Result<()> {
        let (container, health) = (container.to_owned(), health.clone());
        self.run(Durability::Written, move |connection| {
            to_json(&health)
                .and_then(|health| {
                    connection.execute(
                        "INSERT INTO health (container, health) SELECT id, ?2 FROM containers WHERE id = ?1
                         ON CONFLICT (container) DO UPDATE SET health = excluded.health",
                        params![container, health],
                    )
                })
                .map(drop)
                .map_err(failed("write a container's health"))
        })
        .await
    }

    /// What is known of containers' health, by their ids. Blocks.
    pub(crate) fn health(&self) -> Result<Vec<(String, Health)>> {
        let connection = self.lock();
        connection
            .prepare("SELECT container, health FROM health")
            .and_then(|mut statement| {
                let rows = statement.query_map([], |row| Ok((row.get(0)?, from_json(row, 1)?)))?;
                rows.collect()
            })
            .map_err(failed("read containers' health"))
    }

    /// The exit code of a container that removed itself lately. Blocks.
    pub(crate) fn removed(&self, container: &str) -> Result<Option<i64>> {
        self.lock()
            .query_row("SELECT exit_code FROM removed WHERE id = ?1", [container], |row| row.get(0))
            .optional()
            .map_err(failed("read an exit code"))
    }

    /// Forgets a pod without containers.
    pub(crate) async fn remove_pod(&self, pod: &str) -> Result<()> {
        let pod = pod.to_owned();
        self.run(Durability::Synced, move |connection| {
            connection
                .execute("DELETE FROM pods WHERE id = ?1", [pod])
                .map(drop)
                .map_err(failed("remove a pod"))
        })
        .await
    }
}

/// Brings the schema of our tables to the newest version, each step in a transaction. The version has a table of
/// its own, since the image store keeps other tables in the same file.
fn migrate(connection: &mut Connection, migrations: &[&str]) -> Result<()> {
    let mut step = || -> rusqlite::Result<Option<i64>> {
        let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        transaction.execute_batch(
            "CREATE TABLE IF NOT EXISTS engine_settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;",
        )?;
        let version: i64 = transaction
            .query_row("SELECT value FROM engine_settings WHERE key = 'schema'", [], |row| {
                row.get::<_, String>(0)
            })
            .optional()?
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        if version > migrations.len() as i64 {
            return Ok(Some(version));
        }
        for migration in migrations.iter().skip(usize::try_from(version).unwrap_or(0)) {
            transaction.execute_batch(migration)?;
        }
        transaction.execute(
            "INSERT INTO engine_settings (key, value) VALUES ('schema', ?1)
             ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            [migrations.len().to_string()],
        )?;
        transaction.commit()?;
        Ok(None)
    };
    match step().map_err(failed("bring the schema up to date"))? {
        None => Ok(()),
        Some(version) => Err(EngineError::conflict(format!(
            "the state database has version {version}, this hyperd knows {}",
            migrations.len()
        ))
        .with_hint("use the newer hyperd that wrote it")),
    }
}

fn put_pod(connection: &Connection, pod: &PodRecord) -> rusqlite::Result<()> {
    connection
        .execute(
            "INSERT INTO pods (id, name, explicit, created_ns, options, endpoint, up, endpoints, slot, started_ns)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
             ON CONFLICT (id) DO UPDATE SET
                 name = excluded.name, explicit = excluded.explicit, options = excluded.options,
                 endpoint = excluded.endpoint, up = excluded.up, endpoints = excluded.endpoints,
                 slot = excluded.slot, started_ns = excluded.started_ns",
            params![
                pod.id,
                pod.name,
                pod.explicit,
                pod.created.0,
                to_json(&pod.options)?,
                pod.endpoint.as_ref().map(to_json).transpose()?,
                pod.up,
                to_json(&pod.endpoints)?,
                pod.slot,
                pod.started.map(|at| at.0)
            ],
        )
        .map(drop)
}

fn pod_of_row(row: &Row<'_>) -> rusqlite::Result<PodRecord> {
    Ok(PodRecord {
        id: row.get(0)?,
        name: row.get(1)?,
        explicit: row.get(2)?,
        created: Timestamp(row.get(3)?),
        options: from_json(row, 4)?,
        endpoint: match row.get_ref(5)?.as_str_or_null()? {
            None => None,
            Some(_) => Some(from_json(row, 5)?),
        },
        up: row.get(6)?,
        endpoints: from_json(row, 7)?,
        slot: row.get(8)?,
        started: row.get::<_, Option<i64>>(9)?.map(Timestamp),
    })
}

fn container_of_row(row: &Row<'_>) -> rusqlite::Result<ContainerRecord> {
    Ok(ContainerRecord {
        id: row.get(0)?,
        name: row.get(1)?,
        created: Timestamp(row.get(2)?),
        image_id: row.get(3)?,
        pod: row.get(4)?,
        options: from_json(row, 5)?,
        state: from_json(row, 6)?,
    })
}

fn to_json(value: &impl Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

fn from_json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    serde_json::from_str(row.get_ref(column)?.as_str()?).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::options::{ContainerOptions, Phase, PodOptions};

    fn pod() -> PodRecord {
        PodRecord {
            id: "0123456789abcdef".into(),
            name: Some("p".into()),
            explicit: true,
            created: Timestamp(5),
            options: PodOptions { vcpus: 2, ..PodOptions::default() },
            endpoint: None,
            slot: 0,
            endpoints: Vec::new(),
            up: false,
            started: Some(Timestamp(6)),
        }
    }

    fn container() -> ContainerRecord {
        ContainerRecord {
            id: "c".repeat(64),
            name: "web".into(),
            created: Timestamp(7),
            image_id: "sha256:00".into(),
            pod: pod().id,
            options: ContainerOptions { image: "debian".into(), ..ContainerOptions::default() },
            state: State::default(),
        }
    }

    #[tokio::test]
    async fn what_was_written_is_there_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hyper.db");
        let db = Db::open(&path).unwrap();
        db.insert(Some(pod()), container()).await.unwrap();
        let state = State { phase: Phase::Running, pid: 9, ..State::default() };
        db.set_state(&container().id, &state, Durability::Written).await.unwrap();
        db.rename(&container().id, "web2").await.unwrap();
        db.set_setting(Setting::Subnet, "172.30.0.1/16").unwrap();
        drop(db);
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        let db = Db::open(&path).unwrap();
        let (pods, containers) = db.load().unwrap();
        assert_eq!(pods, [pod()]);
        assert_eq!(containers, [ContainerRecord { name: "web2".into(), state, ..container() }]);
        assert_eq!(db.setting(Setting::Subnet).unwrap().as_deref(), Some("172.30.0.1/16"));
        assert_eq!(db.setting(Setting::DaemonId).unwrap(), None);
    }

    #[tokio::test]
    async fn container_is_not_added_without_its_pod_or_with_a_taken_name() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("hyper.db")).unwrap();
        db.insert(None, container()).await.unwrap_err();
        db.insert(Some(pod()), container()).await.unwrap();
        let other = ContainerRecord { id: "d".repeat(64), ..container() };
        db.insert(None, other).await.unwrap_err();
        db.remove(&container().id, Some(&pod().id), Some(7), Durability::Synced).await.unwrap();
        assert_eq!(db.load().unwrap(), (vec![], vec![]));
        assert_eq!(db.removed(&container().id).unwrap(), Some(7));
        assert_eq!(db.removed("other").unwrap(), None);
    }

    #[test]
    fn schema_grows_by_steps_and_a_newer_one_is_refused() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, &MIGRATIONS).unwrap();
        let longer = [&MIGRATIONS[..], &["CREATE TABLE later (x INTEGER) STRICT;"]].concat();
        migrate(&mut connection, &longer).unwrap();
        connection.execute("INSERT INTO later VALUES (1)", []).unwrap();
        migrate(&mut connection, &longer).unwrap();
        let refused = migrate(&mut connection, &MIGRATIONS).unwrap_err();
        assert_eq!(refused.kind, Kind::Conflict);
    }
}
