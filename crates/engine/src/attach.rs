//! Attaching to a container's streams, before or while it runs.

use std::sync::PoisonError;

use hyper_protocol::shim::{Position, Session};
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::options::Phase;
use crate::podsock::{self, AttachStreams};
use crate::registry::{Counted, PendingAttach};

/// Clients that may wait for one container to start.
const PENDING_MAX: usize = 64;

/// A client's place at a container's streams.
#[derive(Debug)]
pub struct Attachment {
    /// The container has a terminal: the stream is raw.
    pub tty: bool,
    /// Where the streams are, with a session.
    pub position: Option<Position>,
    stream: Source,
    reading: Counted,
}

/// A process's streams: output in docker's format, and the other way raw input. The pod stays while one of these lives,
/// so that no output is lost.
#[derive(Debug)]
pub struct ProcessStream {
    /// The connection.
    pub stream: UnixStream,
    /// The input is framed, as the shim takes it in a session.
    pub framed: bool,
    _reading: Counted,
}

#[derive(Debug)]
enum Source {
    Ready(UnixStream),
    Pending(oneshot::Receiver<UnixStream>),
}

impl Attachment {
    pub(crate) fn ready(
        tty: bool,
        (stream, position): (UnixStream, Option<Position>),
        reading: Counted,
    ) -> Self {
        Self { tty, position, stream: Source::Ready(stream), reading }
    }

    /// The streams. Waits for the container to start; `None` if that fails.
    pub async fn stream(self) -> Option<ProcessStream> {
        let stream = match self.stream {
            Source::Ready(stream) => stream,
            Source::Pending(receiver) => receiver.await.ok()?,
        };
        Some(ProcessStream { stream, framed: self.position.is_some(), _reading: self.reading })
    }
}

impl Engine {
    /// Attaches to a container. One that does not run is attached to when it starts, before its first byte. With the key
    /// of a session, [`Engine::resume`] goes on when the connection was lost.
    ///
    /// # Errors
    /// Frozen, being removed, or the shim does not answer.
    pub async fn attach(
        &self,
        reference: &str,
        mut streams: AttachStreams,
        key: Option<String>,
    ) -> Result<Attachment> {
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
            Phase::Restarting => Err(crate::restart::in_between(&container.id)),
            Phase::Running => {
                let shim = self.running_shim(&container)?;
                let session = key.map(|key| Session { key, received: None });
                let attached = podsock::attach(shim.dir(), &container.id, None, streams, session).await?;
                self.shared.container_event(&container.record(), "attach", &[]);
                Ok(Attachment::ready(tty, attached, Counted::new(&container.attached)))
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
                let position = key.is_some().then(Position::default);
                pending.push(PendingAttach { streams, key, stream: sender });
                drop(pending);
                self.shared.container_event(&container.record(), "attach", &[]);
                Ok(Attachment {
                    tty,
                    position,
                    stream: Source::Pending(receiver),
                    reading: Counted::new(&container.attached),
                })
            }
        }
    }

    /// Goes on with a session whose connection was lost with the daemon; `received` bytes of standard output and of
    /// standard error the client has. A container that has ended meanwhile still has the rest of its output, for a while.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::Kind::NotFound) when there is no such session, or not any more.
    pub async fn resume(
        &self,
        reference: &str,
        mut streams: AttachStreams,
        key: String,
        received: [u64; 2],
    ) -> Result<Attachment> {
        let container = self.shared.registry.find(reference)?;
        let (pod, tty, open_stdin) = {
            let record = container.lock();
            (record.pod.clone(), record.options.tty, record.options.open_stdin)
        };
        streams.stdin &= open_stdin;
        let gone = || EngineError::not_found(format!("container {} has no such session", container.id));
        let shim = self.shared.registry.pod(&pod)?.shim().ok_or_else(gone)?;
        let session = Session { key, received: Some(received) };
        // Not later: what the pod was kept for is this client.
        let reading = container.expected().unwrap_or_else(|| Counted::new(&container.attached));
        let attached = podsock::attach(shim.dir(), &container.id, None, streams, Some(session)).await?;
        Ok(Attachment::ready(tty, attached, reading))
    }

    /// Forgets the session of a client that has gone for good.
    pub async fn release(&self, reference: &str, key: &str) {
        let shim = self.shared.registry.find(reference).and_then(|container| self.running_shim(&container));
        if let Ok(shim) = shim
            && let Err(error) = podsock::release(shim.dir(), reference, key).await
        {
            tracing::debug!(container = reference, error = %error.report(), "cannot release a session");
        }
    }

    /// Tells listeners that a client detached by its keys.
    pub fn detached(&self, reference: &str) {
        if let Ok(container) = self.shared.registry.find(reference) {
            self.shared.container_event(&container.record(), "detach", &[]);
        }
    }
}
