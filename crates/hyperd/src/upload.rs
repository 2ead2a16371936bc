//! A request's body, piece by piece: for who waits, and for who may block.

use std::io::{self, Read};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::mpsc;

/// Pieces that may wait for who takes them.
pub(crate) const BACKLOG: usize = 8;

/// What is still taken of a body that was refused, so that its client comes to read why.
const DRAINED_MAX: usize = 64 << 20;

/// How long that may take.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);

/// A body's pieces; an error among them is the client's, who has gone.
pub(crate) type Pieces = mpsc::Receiver<io::Result<Bytes>>;

/// A body piece by piece. What nobody takes any more is read on for a while.
pub(crate) fn receive(mut body: Incoming) -> Pieces {
    let (sender, pieces) = mpsc::channel(BACKLOG);
    tokio::spawn(async move {
        while let Some(frame) = body.frame().await {
            let piece = match frame {
                Ok(frame) => match frame.into_data() {
                    Ok(data) => Ok(data),
                    Err(_) => continue,
                },
                Err(error) => Err(io::Error::other(error)),
            };
            let broken = piece.is_err();
            if sender.send(piece).await.is_err() {
                let _ = tokio::time::timeout(DRAIN_PATIENCE, drain(&mut body)).await;
                return;
            }
            if broken {
                return;
            }
        }
    });
    pieces
}

async fn drain(body: &mut Incoming) {
    let mut left = DRAINED_MAX;
    while let Some(Ok(frame)) = body.frame().await {
        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        if left == 0 {
            return;
        }
    }
}

/// A body to read from where blocking is allowed.
#[derive(Debug)]
pub(crate) struct Upload {
    /// Of the piece that was taken last.
    pub(crate) current: Bytes,
    pub(crate) pieces: Pieces,
}

impl Upload {
    pub(crate) fn of(body: Incoming) -> Self {
        Self { current: Bytes::new(), pieces: receive(body) }
    }
}

impl Read for Upload {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.current = piece?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.current.len());
        buffer[..count].copy_from_slice(&self.current.split_to(count));
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_read_in_order_and_an_error_is_told() {
        let (sender, pieces) = mpsc::channel(BACKLOG);
        for piece in [Ok(Bytes::from_static(b"cd")), Ok(Bytes::new()), Ok(Bytes::from_static(b"e"))] {
            sender.blocking_send(piece).unwrap();
        }
        sender.blocking_send(Err(io::ErrorKind::BrokenPipe.into())).unwrap();
        let mut upload = Upload { current: Bytes::from_static(b"ab"), pieces };
        let mut read = Vec::new();
        let error = upload.read_to_end(&mut read).unwrap_err();
        assert_eq!((read.as_slice(), error.kind()), (&b"abcde"[..], io::ErrorKind::BrokenPipe));
    }
}
