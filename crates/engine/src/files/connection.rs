//! A conversation about files with an agent, through its pod's shim.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper_protocol::agent::{FailureKind, Reply};
use hyper_protocol::files::{Files, PIECE_MAX};
use hyper_protocol::frame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;

use crate::error::{EngineError, Kind, Result};
use crate::podsock;

/// Keeps a helper for the one who works with it.
#[derive(Debug)]
pub(crate) struct Lease {
    /// Dropped with the lease, which tells that it is over.
    pub(super) _over: oneshot::Sender<()>,
    /// Counts what moves.
    pub(super) moved: Arc<AtomicU64>,
}

/// The conversation.
#[derive(Debug)]
pub(crate) struct Connection {
    receiving: Receiving,
    sending: Sending,
    _lease: Option<Lease>,
}

#[derive(Debug)]
pub(super) struct Receiving {
    stream: BufReader<OwnedReadHalf>,
    moved: Arc<AtomicU64>,
}

#[derive(Debug)]
pub(super) struct Sending {
    stream: OwnedWriteHalf,
    moved: Arc<AtomicU64>,
}

impl Connection {
    /// Asks, and waits for the first answer.
    pub(super) async fn open(dir: &Path, asked: &Files, lease: Option<Lease>) -> Result<(Reply, Self)> {
        let stream: UnixStream = podsock::files(dir, asked).await?;
        let moved = lease.as_ref().map(|lease| lease.moved.clone()).unwrap_or_default();
        let (reader, writer) = stream.into_split();
        let stream = BufReader::with_capacity(PIECE_MAX, reader);
        let mut connection = Self {
            receiving: Receiving { stream, moved: moved.clone() },
            sending: Sending { stream: writer, moved },
            _lease: lease,
        };
        let reply = connection.reply().await?;
        Ok((reply, connection))
    }

    pub(super) fn split(&mut self) -> (&mut Receiving, &mut Sending) {
        (&mut self.receiving, &mut self.sending)
    }

    pub(super) async fn reply(&mut self) -> Result<Reply> {
        self.receiving.reply().await
    }

    pub(super) async fn piece(&mut self) -> Result<Option<Vec<u8>>> {
        self.receiving.piece().await
    }
}

impl Receiving {
    /// An answer; one that tells a failure is that failure.
    pub(super) async fn reply(&mut self) -> Result<Reply> {
        let mut prefix = [0; frame::PREFIX];
        self.stream.read_exact(&mut prefix).await.map_err(cut_off)?;
        let length = frame::body_length(prefix).map_err(nonsense)?;
        let mut body = Vec::with_capacity(length.min(PIECE_MAX));
        (&mut self.stream).take(length as u64).read_to_end(&mut body).await.map_err(cut_off)?;
        match frame::decode(&body).map_err(nonsense)? {
            Reply::Failed(failure) => {
                let kind = match failure.kind {
                    FailureKind::NotFound => Kind::NotFound,
                    FailureKind::Invalid | FailureKind::NoSuchUser => Kind::Invalid,
                    FailureKind::WrongState | FailureKind::AlreadyExists => Kind::Conflict,
                    FailureKind::Unsupported => Kind::Unsupported,
                    _ => Kind::System,
                };
                Err(EngineError::new(kind, failure.message))
            }
            reply => Ok(reply),
        }
    }

    /// The next piece; `None` behind the last.
    pub(super) async fn piece(&mut self) -> Result<Option<Vec<u8>>> {
        let length = self.stream.read_u32().await.map_err(cut_off)? as usize;
        if length > PIECE_MAX {
            return Err(nonsense(io::Error::other("a piece is too long")));
        }
        if length == 0 {
            return Ok(None);
        }
        let mut piece = vec![0; length];
        self.stream.read_exact(&mut piece).await.map_err(cut_off)?;
        self.moved.fetch_add(1, Ordering::Relaxed);
        Ok(Some(piece))
    }
}

impl Sending {
    pub(super) async fn piece(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let length = (bytes.len() as u32).to_be_bytes();
        self.stream.write_all(&length).await.map_err(cut_off)?;
        self.stream.write_all(bytes).await.map_err(cut_off)?;
        self.moved.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    pub(super) async fn end(&mut self) -> Result<()> {
        self.stream.write_all(&[0; 4]).await.map_err(cut_off)
    }
}

fn cut_off(error: io::Error) -> EngineError {
    EngineError {
        kind: Kind::Unavailable,
        message: "the work on the container's files was cut off".to_owned(),
        source: Some(Box::new(error)),
        hint: None,
    }
}

fn nonsense(error: impl std::error::Error + Send + Sync + 'static) -> EngineError {
    EngineError::system("the guest's answer about files cannot be read", error)
}

pub(super) fn unexpected() -> EngineError {
    EngineError::new(Kind::System, "the guest answered something else than asked")
}
