//! Saving a VM as a template, and bringing up another from it.
//!
//! The guest's memory is a file that QEMU maps; with the capability `x-ignore-shared` a migration leaves it where it
//! is and carries the state of the devices alone. A clone maps the same file privately.

use std::fs::{self, File};
use std::io;
use std::os::fd::RawFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio::time::timeout;

use super::qmp::{Command, Event, Qmp};
use crate::config::Start;
use crate::error::VmError;

/// How long the state of the devices, some ten KiB, may take to be written.
const SAVING: Duration = Duration::from_secs(30);
/// How long it may take to be read; measured: some milliseconds. Who waits for a clone can have a VM that boots instead.
const RESTORING: Duration = Duration::from_secs(15);

/// Stops the guest and writes what its memory's file does not hold; both files are on disk then.
pub async fn save(qmp: &Qmp, dir: &Path) -> Result<(), VmError> {
    let io = |attempt| move |source| VmError::Io { attempt, source };
    let state = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(dir.join(Start::STATE))
        .map_err(io("create the template's state"))?;
    let kept = state.try_clone().map_err(io("share the template's state"))?;
    let mut events = qmp.events();
    qmp.execute(Command::new("stop", json!({}))).await?;
    let commands = vec![
        capabilities(),
        Command { execute: "getfd", arguments: json!({ "fdname": "state" }), descriptor: Some(state.into()) },
        Command::new("migrate", json!({ "uri": "fd:state" })),
    ];
    qmp.execute_all(commands).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    migrated(&mut events, SAVING).await?;
    let memory = dir.join(Start::MEMORY);
    let synced = tokio::task::spawn_blocking(move || -> io::Result<()> {
        kept.sync_all()?;
        File::open(memory)?.sync_all()
    });
    synced
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(io("write the template to disk"))
}

/// Brings up a clone, by the state behind QEMU's descriptor `state`, and lets it run.
pub async fn restore(qmp: &Qmp, state: RawFd) -> Result<(), VmError> {
    let mut events = qmp.events();
    let commands = vec![
        capabilities(),
        silence(),
        Command::new("migrate-incoming", json!({ "uri": format!("fd:{state}") })),
    ];
    qmp.execute_all(commands).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    migrated(&mut events, RESTORING).await?;
    // The template was stopped when it was saved.
    qmp.execute(Command::new("cont", json!({}))).await.map(drop)
}

fn capabilities() -> Command {
    let on = ["x-ignore-shared", "events"].map(|name| json!({ "capability": name, "state": true }));
    Command::new("migrate-set-capabilities", json!({ "capabilities": on }))
}

/// A clone has moved from nowhere, and its address is not that of its template: QEMU need not tell everybody five times
/// where it is. Each announcement is broadcast, and wakes every guest on the network.
fn silence() -> Command {
    Command::new("migrate-set-parameters", json!({ "announce-rounds": 0 }))
}

/// Waits for the end of a migration.
async fn migrated(events: &mut broadcast::Receiver<Event>, patience: Duration) -> Result<(), VmError> {
    let end = async {
        loop {
            match events.recv().await {
                Ok(event) if event.name == "MIGRATION" => {
                    match event.data.get("status").and_then(Value::as_str) {
                        Some("completed") => return Ok(()),
                        Some("failed") => {
                            let message = "the state of the devices cannot be saved or restored".into();
                            return Err(VmError::Refused { command: "migrate".into(), message });
                        }
                        _ => {}
                    }
                }
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => {
                    return Err(VmError::Gone("its control socket closed".into()));
                }
            }
        }
    };
    let seconds = patience.as_secs();
    timeout(patience, end)
        .await
        .unwrap_or_else(|_| Err(VmError::Timeout { command: "migrate".into(), seconds }))
}
