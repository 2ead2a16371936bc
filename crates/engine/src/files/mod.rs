//! Files of containers: looked at, copied in and out, compared with the image.
//!
//! The container's guest does it. One that does not run gets a VM for it ([`helper`]): what a guest has written is never
//! mounted on the host.

mod commit;
mod connection;
mod helper;

use std::sync::Arc;
use std::time::Duration;

use hyper_protocol::agent::Reply;
use hyper_protocol::files::{Change, FileWork, Files, PIECE_MAX, PathStat};
use tokio::sync::mpsc;

pub use commit::CommitOptions;
pub(crate) use helper::Helpers;

use self::connection::Connection;
use crate::engine::Engine;
use crate::error::{EngineError, Kind, Result};
use crate::mounts;
use crate::options::Phase;
use crate::registry::Container;

/// How long a container that has just ended may take to be known as ended.
const SETTLE: Duration = Duration::from_secs(10);

/// Most bytes of a line that tells a change: two paths' worth, escaped.
const LINE_MAX: usize = 64 << 10;

/// Most changes that are told: an upper bound for what a guest can make us keep.
const CHANGES_MAX: usize = 2 << 20;

/// How a tar is unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UnpackFlags {
    /// A directory is not replaced by another kind of file, nor the other way round.
    pub no_overwrite: bool,
    /// The files become the container's user's.
    pub own: bool,
}

/// Bytes on their way out of a container. Dropping it ends the work.
#[derive(Debug)]
pub struct Download {
    connection: Connection,
    ended: bool,
}

impl Download {
    /// The next bytes; `None` when all have come.
    ///
    /// # Errors
    /// The work has failed or was cut off.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        if self.ended {
            return Ok(None);
        }
        if let Some(piece) = self.connection.piece().await? {
            return Ok(Some(piece));
        }
        self.ended = true;
        match self.connection.reply().await? {
            Reply::Done => Ok(None),
            _ => Err(connection::unexpected()),
        }
    }
}

impl Engine {
    /// What is at a path of a container.
    ///
    /// # Errors
    /// No such container or path.
    pub async fn path_stat(&self, reference: &str, path: &str) -> Result<PathStat> {
        let container = self.shared.registry.find(reference)?;
        let work = FileWork::Stat { path: container_path(path) };
        match self.work(&container, work).await.map_err(|error| missing(error, path, reference))? {
            (Reply::Path(found), _) => Ok(found),
            _ => Err(connection::unexpected()),
        }
    }

    /// A path of a container as a tar.
    ///
    /// # Errors
    /// No such container or path.
    pub async fn read_files(&self, reference: &str, path: &str) -> Result<(PathStat, Download)> {
        let container = self.shared.registry.find(reference)?;
        let work = FileWork::Read { path: container_path(path) };
        match self.work(&container, work).await.map_err(|error| missing(error, path, reference))? {
            (Reply::Path(found), connection) => {
                self.shared.container_event(&container.record(), "archive-path", &[]);
                Ok((found, Download { connection, ended: false }))
            }
            _ => Err(connection::unexpected()),
        }
    }

    /// Unpacks a tar into a directory of a container. An error among the pieces is the client's, who has gone.
    ///
    /// # Errors
    /// No such container or directory, or the tar wants what cannot be.
    pub async fn write_files<B: AsRef<[u8]>>(
        &self,
        reference: &str,
        path: &str,
        flags: UnpackFlags,
        mut body: mpsc::Receiver<std::io::Result<B>>,
    ) -> Result<()> {
        let container = self.shared.registry.find(reference)?;
        let (user, running) = {
            let record = container.lock();
            (record.options.user.clone(), record.state.is_running())
        };
        let owner = (flags.own && !user.is_empty()).then_some(user);
        let work = FileWork::Write {
            path: container_path(path),
            no_overwrite: flags.no_overwrite,
            owner,
            // A helper does not outlive its work by long.
            sync: !running,
        };
        let failed = |error| missing(error, path, reference);
        let mut connection = match self.work(&container, work).await.map_err(failed)? {
            (Reply::Done, connection) => connection,
            _ => return Err(connection::unexpected()),
        };
        let (receiving, sending) = connection.split();
        let send = async {
            while let Some(bytes) = body.recv().await {
                let bytes = bytes.map_err(|error| {
                    EngineError::invalid(format!("the archive cannot be read to its end: {error}"))
                })?;
                for piece in bytes.as_ref().chunks(PIECE_MAX) {
                    sending.piece(piece).await?;
                }
            }
            sending.end().await
        };
        let answer = async { receiving.reply().await };
        tokio::pin!(send, answer);
        let reply = tokio::select! {
            biased;
            // It may refuse before it has read all.
            reply = &mut answer => reply,
            sent = &mut send => match sent {
                Ok(()) => answer.await,
                // Why it does not read any further is in its answer, if there is one.
                Err(error) if error.kind == Kind::Unavailable => answer.await,
                Err(error) => Err(error),
            },
        };
        match reply? {
            Reply::Done => {
                self.shared.container_event(&container.record(), "extract-to-dir", &[]);
                Ok(())
            }
            _ => Err(connection::unexpected()),
        }
    }

    /// The whole root filesystem of a container as a tar, without what is mounted on it.
    ///
    /// # Errors
    /// No such container.
    pub async fn export(&self, reference: &str) -> Result<Download> {
        let container = self.shared.registry.find(reference)?;
        let download = self.download(&container, FileWork::Export).await?;
        self.shared.container_event(&container.record(), "export", &[]);
        Ok(download)
    }

    /// What a container has changed, directories before what is in them.
    ///
    /// # Errors
    /// No such container.
    pub async fn changes(&self, reference: &str) -> Result<Vec<Change>> {
        let container = self.shared.registry.find(reference)?;
        let mut download = self.download(&container, FileWork::Changes).await?;
        let (mut changes, mut line) = (Vec::new(), Vec::new());
        while let Some(piece) = download.next().await? {
            for byte in piece {
                match byte {
                    b'\n' => {
                        changes.push(serde_json::from_slice(&line).map_err(|error| {
                            EngineError::system("the guest tells a change that cannot be read", error)
                        })?);
                        line.clear();
                    }
                    byte => line.push(byte),
                }
                if line.len() > LINE_MAX || changes.len() > CHANGES_MAX {
                    return Err(EngineError::new(Kind::System, "the guest tells more changes than can be"));
                }
            }
        }
        Ok(changes)
    }

    pub(crate) async fn download(&self, container: &Arc<Container>, work: FileWork) -> Result<Download> {
        match self.work(container, work).await? {
            (Reply::Done, connection) => Ok(Download { connection, ended: false }),
            _ => Err(connection::unexpected()),
        }
    }

    /// Has work on files begun, wherever the container is, and gives its first answer.
    pub(crate) async fn work(
        &self,
        container: &Arc<Container>,
        work: FileWork,
    ) -> Result<(Reply, Connection)> {
        let asked = Files { container: container.id.clone(), work };
        if container.lock().state.is_running() {
            match self.work_in_pod(container, &asked).await {
                Err(error) if self.has_just_ended(container, &error).await => {}
                outcome => return outcome,
            }
        }
        refuse_remote(container, &asked.work)?;
        let (dir, lease) = self.lend_helper(container, wants_mounts(container, &asked.work)).await?;
        match dir {
            Some(dir) => Connection::open(&dir, &asked, lease).await,
            // It was started meanwhile.
            None => self.work_in_pod(container, &asked).await,
        }
    }

    async fn work_in_pod(&self, container: &Arc<Container>, asked: &Files) -> Result<(Reply, Connection)> {
        let shim = self.running_shim(container)?;
        Connection::open(shim.dir(), asked, None).await
    }

    /// Whether a failure came from the container's end.
    async fn has_just_ended(&self, container: &Arc<Container>, error: &EngineError) -> bool {
        if matches!(error.kind, Kind::NotFound | Kind::Invalid) {
            return false;
        }
        let mut progress = container.progress.subscribe();
        let ended = progress.wait_for(|progress| !progress.running);
        tokio::time::timeout(SETTLE, ended).await.is_ok()
            && !matches!(container.lock().state.phase, Phase::Removing | Phase::Dead)
    }
}

/// A helper has no network: what belongs on a server would land beside it.
fn refuse_remote(container: &Container, work: &FileWork) -> Result<()> {
    let (FileWork::Stat { path } | FileWork::Read { path } | FileWork::Write { path, .. }) = work else {
        return Ok(());
    };
    let record = container.lock();
    let within = |target: &str| {
        path.strip_prefix(target.trim_end_matches('/'))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let mut remote = record.options.mounts.points.iter().filter(|point| point.is_remote());
    match remote.find(|point| within(&point.target)) {
        None => Ok(()),
        Some(point) => Err(EngineError::unsupported(format!(
            "{} is on a server, and the container does not run: copying there is not supported",
            point.target
        ))
        .with_hint("start the container first")),
    }
}

/// Whether work is on paths, which may lead into a volume, of a container that has any.
fn wants_mounts(container: &Container, work: &FileWork) -> bool {
    match work {
        FileWork::Stat { .. } | FileWork::Read { .. } | FileWork::Write { .. } => {
            !container.lock().options.mounts.points.is_empty()
        }
        // They leave out what is mounted.
        FileWork::Export | FileWork::Layer | FileWork::Changes => false,
    }
}

/// Docker's words for a path that is not there.
fn missing(error: EngineError, path: &str, reference: &str) -> EngineError {
    if error.kind == Kind::NotFound && error.message != format!("No such container: {reference}") {
        return EngineError::not_found(format!("Could not find the file {path} in container {reference}"));
    }
    error
}

/// A path as docker has it: absolute and without `..`, but with the `/` or `/.` at its end, which means a directory.
fn container_path(path: &str) -> String {
    let mut clean = mounts::clean(path);
    let last = path.rsplit('/').next().unwrap_or_default();
    if last == "." {
        clean = format!("{}/.", clean.trim_end_matches('/'));
    } else if path.ends_with('/') && clean != "/" {
        clean.push('/');
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_absolute_and_keep_their_ends() {
        for (given, clean) in [
            ("etc/passwd", "/etc/passwd"),
            ("/etc/", "/etc/"),
            ("/etc/.", "/etc/."),
            ("/", "/"),
            ("/.", "/."),
            ("", "/"),
            (".", "/."),
            ("../../etc/../x", "/x"),
            ("/a//b/./c", "/a/b/c"),
        ] {
            assert_eq!(container_path(given), clean, "{given}");
        }
    }
}
