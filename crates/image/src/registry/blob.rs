//! Layers as streams: an asynchronous download at one end, a blocking reader at the other.

use std::io::{self, Read};
use std::time::Duration;

use bytes::Bytes;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE};
use tokio::sync::mpsc;

use crate::digest::Digest;

use super::client::{Session, shown};
use super::error::RegistryError;

/// Pieces on their way. A piece is what one read of the socket gave, some tens of KiB at most.
const PIECES: usize = 64;
/// The first pause before another attempt; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// A piece of a download.
pub enum Sent {
    /// Bytes.
    Bytes(Bytes),
    /// That was all.
    End,
}

/// The reading end.
pub struct BlobStream {
    pieces: mpsc::Receiver<Sent>,
    /// What is left of the piece being read.
    piece: Bytes,
    ended: bool,
}

/// What a download tells while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DownloadEvent {
    /// Bytes so far.
    Bytes(u64),
    /// The connection broke; the next attempt comes after this.
    Pause(Duration),
}

impl BlobStream {
    /// The two ends.
    pub fn channel() -> (mpsc::Sender<Sent>, Self) {
        let (sender, pieces) = mpsc::channel(PIECES);
        (sender, Self { pieces, piece: Bytes::new(), ended: false })
    }
}

impl Read for BlobStream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Sent::Bytes(piece)) => self.piece = piece,
                Some(Sent::End) => self.ended = true,
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "download ended early")),
            }
        }
        let length = self.piece.len().min(out.len());
        out[..length].copy_from_slice(&self.piece.split_to(length));
        Ok(length)
    }
}

impl Session<'_> {
    /// Downloads a blob into `pieces`, from its byte `from` on, going on where a connection broke.
    ///
    /// # Errors
    /// It fails as often in a row as the settings allow, or in a way that does not mend.
    pub async fn download(
        &self,
        digest: Digest,
        size: u64,
        from: u64,
        pieces: &mpsc::Sender<Sent>,
        event: &(dyn Fn(DownloadEvent) + Sync),
    ) -> Result<(), RegistryError> {
        let (mut offset, mut failures, mut pause) = (from, 0, FIRST_PAUSE);
        if from > 0 {
            event(DownloadEvent::Bytes(from));
        }
        while offset < size {
            let before = offset;
            let Err(error) = self.attempt(digest, size, &mut offset, pieces, event).await else { break };
            if offset > before {
                (failures, pause) = (0, FIRST_PAUSE);
            }
            failures += 1;
            if !error.is_transient() || failures >= self.client().config().attempts {
                return Err(error);
            }
            let asked = error.refusal().and_then(|refusal| refusal.retry_after).unwrap_or_default();
            let wait = pause.max(asked).min(LONGEST_PAUSE);
            tracing::debug!(%digest, offset, failures, ?wait, %error, "download broke off");
            event(DownloadEvent::Pause(wait));
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        pieces.send(Sent::End).await.map_err(|_| RegistryError::Abandoned)
    }

    /// One connection's worth of a download.
    async fn attempt(
        &self,
        digest: Digest,
        size: u64,
        offset: &mut u64,
        pieces: &mpsc::Sender<Sent>,
        event: &(dyn Fn(DownloadEvent) + Sync),
    ) -> Result<(), RegistryError> {
        let mut answer = self.open_blob(digest, *offset).await?;
        let url = shown(answer.url().as_str());
        let content = |problem: String| RegistryError::Content { url: url.clone(), problem };
        let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let mut skip = 0;
        if answer.status() == StatusCode::PARTIAL_CONTENT {
            let range = header(CONTENT_RANGE).unwrap_or_default();
            if !range.starts_with(&format!("bytes {offset}-")) {
                return Err(content(format!("asked for bytes from {offset}, got {range:?}")));
            }
        } else {
            skip = *offset;
        }
        let expected = size - *offset + skip;
        let length: Option<u64> = header(CONTENT_LENGTH).and_then(|text| text.parse().ok());
        if let Some(length) = length.filter(|length| *length != expected) {
            return Err(content(format!("expected {expected} bytes, the answer has {length}")));
        }
        while let Some(chunk) = self.client().chunk(&mut answer).await? {
            let mut chunk = chunk;
            let mut length = chunk.len() as u64;
            if skip > 0 {
                let now = skip.min(length);
                skip -= now;
                length -= now;
                if length == 0 {
                    continue;
                }
                chunk = chunk.slice(now as usize..);
            }
            *offset += length;
            if *offset > size {
                return Err(content(format!("more than the {size} bytes of the manifest")));
            }
            let sent = pieces.send(Sent::Bytes(chunk)).await;
            sent.map_err(|_| RegistryError::Abandoned)?;
            event(DownloadEvent::Bytes(*offset));
        }
        if *offset < size {
            // Without a length the end of a broken connection looks like the end of the content.
            let problem = format!("connection ended after {offset} of {size} bytes");
            return Err(RegistryError::Broken { url, problem });
        }
        Ok(())
    }
}
