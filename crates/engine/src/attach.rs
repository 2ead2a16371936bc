//! Attaching to a container's streams, before or while it runs.

use std::sync::PoisonError;

use tokio::net::UnixStream;
use tokio::sync::oneshot;

use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::options::Phase;
use crate::podsock::{self, AttachStreams};
use crate::registry::{Container, Counted, PendingAttach};

/// Clients that may wait for one container to start.
const PENDING_MAX: usize = 64;

/// A client's place at a container's streams.
#[derive(Debug)]
pub struct Attachment {
    /// The container has a terminal: the stream is raw.
    pub tty: bool,
    stream: Source,
    reading: Counted,
}

/// A process's streams: output in docker's format, and the other way raw input. The pod stays while one of these lives,
/// so that no output is lost.
#[derive(Debug)]
pub struct ProcessStream {
    /// The connection.
    pub stream: UnixStream,
    _reading: Counted,
}

#[derive(Debug)]
enum Source {
    Ready(UnixStream),
    Pending(oneshot::Receiver<UnixStream>),
}

impl Attachment {
    pub(crate) fn ready(tty: bool, stream: UnixStream, container: &Container) -> Self {
        Self { tty, stream: Source::Ready(stream), reading: Counted::new(&container.attached) }
    }

    /// The streams. Waits for the container to start; `None` if that fails.
    pub async fn stream(self) -> Option<ProcessStream> {
        let stream = match self.stream {
            Source::Ready(stream) => stream,
            Source::Pending(receiver) => receiver.await.ok()?,
        };
        Some(ProcessStream { stream, _reading: self.reading })
    }
}

impl Engine {
    /// Attaches to a container. One that does not run is attached to when it starts, before its first byte.
    ///
    /// # Errors
    /// Frozen, being removed, or the shim does not answer.
    pub async fn attach(&self, reference: &str, mut streams: AttachStreams) -> Result<Attachment> {
        let container = self.shared.registry.find(reference)?;
        let _transition = container.transition.lock().await;
        let (phase, tty, open_stdin) = {
            let record = container.lock();
            (record.state.phase, record.options.tty, record.options.open_stdin)
        };
        streams.stdin &= open_stdin;
        match phase {
            Phase::Paused => Err(EngineError::conflict(format!(
                "container {} is paused, unpause the container before attach",
                container.id
            ))),
            Phase::Removing | Phase::Dead => Err(EngineError::conflict(format!(
                "container {} is marked for removal and cannot be attached to",
                container.id
            ))),
            Phase::Running => {
                let shim = self.running_shim(&container)?;
                let stream = podsock::attach(shim.dir(), &container.id, None, streams).await?;
                self.shared.container_event(&container.record(), "attach", &[]);
                Ok(Attachment::ready(tty, stream, &container))
            }
            Phase::Created | Phase::Starting | Phase::Exited => {
                let (sender, receiver) = oneshot::channel();
                let mut pending = container.pending.lock().unwrap_or_else(PoisonError::into_inner);
                pending.retain(|client| !client.stream.is_closed());
                if pending.len() >= PENDING_MAX {
                    return Err(EngineError::conflict(format!(
                        "too many clients wait for container {} to start",
                        container.id
                    )));
                }
                pending.push(PendingAttach { streams, stream: sender });
                drop(pending);
                self.shared.container_event(&container.record(), "attach", &[]);
                Ok(Attachment {
                    tty,
                    stream: Source::Pending(receiver),
                    reading: Counted::new(&container.attached),
                })
            }
        }
    }

    /// Tells listeners that a client detached by its keys.
    pub fn detached(&self, reference: &str) {
        if let Ok(container) = self.shared.registry.find(reference) {
            self.shared.container_event(&container.record(), "detach", &[]);
        }
    }
}
