//! An image of what a container has become.

use std::io::{self, Read};
use std::sync::Arc;

use hyper_image::{CommitRequest, ContainerConfig, Empty, ImageId, Reference};
use hyper_protocol::files::FileWork;
use tokio::sync::mpsc;

use super::Download;
use crate::engine::Engine;
use crate::error::{EngineError, Kind, Result};
use crate::options::{ContainerRecord, Phase};
use crate::registry::Container;

/// Pieces that may wait for the store.
const BACKLOG: usize = 16;

/// How a container is committed.
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// The image's name.
    pub reference: Option<Reference>,
    /// Who made it.
    pub author: String,
    /// A remark.
    pub comment: String,
    /// Dockerfile lines that change the configuration.
    pub changes: Vec<String>,
    /// Freeze the container meanwhile, if it runs.
    pub pause: bool,
}

impl Engine {
    /// Makes an image of a container: its own with one more layer, and its configuration.
    ///
    /// # Errors
    /// No such container, a change that cannot be, or the guest's layer cannot be used.
    pub async fn commit(&self, reference: &str, options: CommitOptions) -> Result<ImageId> {
        let container = self.shared.registry.find(reference)?;
        let request = request(&container.record(), &options);
        let paused = options.pause && container.lock().state.phase == Phase::Running;
        let paused = paused
            && match self.pause(&container.id).await {
                Ok(()) => true,
                // It has ended, or somebody else froze it.
                Err(error) if error.kind == Kind::Conflict => false,
                Err(error) => return Err(error),
            };
        let committed = self.commit_layer(&container, request).await;
        if paused && let Err(error) = self.unpause(&container.id).await {
            tracing::warn!(container = container.id, error = %error.report(), "cannot unpause after a commit");
        }
        let id = committed?;
        let details = [
            ("comment", options.comment),
            ("imageID", id.to_string()),
            ("imageRef", options.reference.map(|name| name.to_string()).unwrap_or_default()),
        ];
        self.shared.container_event(&container.record(), "commit", &details);
        Ok(id)
    }

    async fn commit_layer(&self, container: &Arc<Container>, request: CommitRequest) -> Result<ImageId> {
        let mut download = self.download(container, FileWork::Layer).await?;
        let (sender, pieces) = mpsc::channel(BACKLOG);
        let images = self.shared.images.clone();
        let layer = Layer { pieces, current: Vec::new(), at: 0, whole: false };
        let made = tokio::task::spawn_blocking(move || images.commit(layer, &request));
        let cut_off = carry(&mut download, sender).await;
        let made = made.await.map_err(|error| EngineError::system("the commit ended early", error))?;
        // Why the layer did not come whole says more than that it did not.
        cut_off?;
        Ok(made?)
    }
}

/// Gives the layer to the store, and tells how that ended.
async fn carry(download: &mut Download, sender: mpsc::Sender<Option<Vec<u8>>>) -> Result<()> {
    while let Some(piece) = download.next().await? {
        if sender.send(Some(piece)).await.is_err() {
            // The store has had enough, and says why.
            return Ok(());
        }
    }
    // The end, which a layer that was cut off does not have.
    let _ = sender.send(None).await;
    Ok(())
}

/// A layer to read from where blocking is allowed.
struct Layer {
    pieces: mpsc::Receiver<Option<Vec<u8>>>,
    current: Vec<u8>,
    at: usize,
    whole: bool,
}

impl Read for Layer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.current.len() && !self.whole {
            match self.pieces.blocking_recv() {
                Some(Some(piece)) => (self.current, self.at) = (piece, 0),
                Some(None) => self.whole = true,
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let count = buffer.len().min(self.current.len() - self.at);
        buffer[..count].copy_from_slice(&self.current[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

fn request(record: &ContainerRecord, options: &CommitOptions) -> CommitRequest {
    let set = |names: &[String]| names.iter().map(|name| (name.clone(), Empty {})).collect();
    let said = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let of = &record.options;
    CommitRequest {
        parent: record.image_id.clone(),
        config: ContainerConfig {
            user: of.user.clone(),
            exposed_ports: set(&of.exposed_ports),
            env: of.env.clone(),
            entrypoint: of.entrypoint.clone().unwrap_or_default(),
            cmd: of.cmd.clone().unwrap_or_default(),
            volumes: set(&of.image_volumes),
            working_dir: of.working_dir.clone(),
            labels: of.labels.clone(),
            stop_signal: of.stop_signal.clone(),
            stop_timeout: of.stop_timeout,
            healthcheck: of.healthcheck.clone(),
            on_build: of.on_build.clone(),
            shell: of.shell.clone(),
            args_escaped: false,
        },
        changes: options.changes.clone(),
        reference: options.reference.clone(),
        author: said(&options.author),
        comment: said(&options.comment),
        created_by: of.cmd.clone().unwrap_or_default().join(" "),
    }
}
