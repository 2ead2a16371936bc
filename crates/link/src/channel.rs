//! Resumable byte channels: stdio that survives the end of a session.
//!
//! A [`Sender`] keeps bytes until they are acknowledged, a [`Receiver`] remembers how many it has passed on.
//! Either side may serve its half on stream after stream; see [`hyper_protocol::channel`] for what crosses them.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use hyper_protocol::channel::{ACK_EVERY, MAX_DATA, WINDOW};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

/// A channel's stream ended before the channel did.
#[derive(Debug, Error)]
pub enum ChannelError {
    /// The stream failed or was closed: serve the channel on another one.
    #[error("stream of the channel broke")]
    Io(#[from] std::io::Error),
    /// The receiver asks for bytes that it has acknowledged, or acknowledges bytes that were never sent.
    #[error("offset {offset} is outside of {base}..={end}")]
    Offset {
        /// The offset named.
        offset: u64,
        /// First byte that is kept.
        base: u64,
        /// End of what was sent.
        end: u64,
    },
    /// A data frame is longer than the protocol allows.
    #[error("data frame of {length} bytes, at most {MAX_DATA} are allowed")]
    TooLong {
        /// Its length.
        length: u32,
    },
    /// Another stream serves the channel now.
    #[error("channel went over to a newer stream")]
    Superseded,
}

/// The sending half: bytes go in by [`Sender::push`], out by [`Sender::serve`].
#[derive(Debug, Default)]
pub struct Sender {
    state: Mutex<Outgoing>,
    /// Something to send, or a newer server.
    filled: Notify,
    /// Room to push, or everything acknowledged.
    drained: Notify,
}

#[derive(Debug, Default)]
struct Outgoing {
    /// Offset of the first byte kept; everything before is acknowledged.
    base: u64,
    kept: VecDeque<u8>,
    finished: bool,
    /// The receiver has acknowledged the end.
    done: bool,
    /// Counts servers; the newest counts.
    server: u64,
}

impl Outgoing {
    fn end(&self) -> u64 {
        self.base + self.kept.len() as u64
    }

    /// Takes an acknowledgement of everything before `offset`; one past the end acknowledges the end itself.
    fn acknowledge(&mut self, offset: u64) -> Result<(), ChannelError> {
        if self.finished && offset == self.end() + 1 {
            self.base = self.end();
            self.kept.clear();
            self.done = true;
            return Ok(());
        }
        let out_of_range = ChannelError::Offset { offset, base: self.base, end: self.end() };
        let bytes =
            offset.checked_sub(self.base).filter(|&n| n <= self.kept.len() as u64).ok_or(out_of_range)?;
        self.kept.drain(..bytes as usize);
        self.base = offset;
        if self.kept.is_empty() {
            self.kept.shrink_to(MAX_DATA);
        }
        Ok(())
    }
}

impl Sender {
    /// A sender with nothing to send yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes that can be pushed without waiting; waits until there is room for at least one.
    pub async fn room(&self) -> usize {
        loop {
            let drained = self.drained.notified();
            tokio::pin!(drained);
            drained.as_mut().enable();
            let room = WINDOW - self.lock().kept.len().min(WINDOW);
            if room > 0 {
                return room;
            }
            drained.await;
        }
    }

    /// Adds as many of `bytes` as there is room for now, and says how many.
    pub fn offer(&self, bytes: &[u8]) -> usize {
        let mut state = self.lock();
        let taken = bytes.len().min(WINDOW - state.kept.len().min(WINDOW));
        state.kept.extend(&bytes[..taken]);
        drop(state);
        if taken > 0 {
            self.filled.notify_waiters();
        }
        taken
    }

    /// Adds bytes, waiting for acknowledgements whenever [`WINDOW`] bytes are kept. Cancelled, it has added a
    /// beginning of them; [`Sender::room`] and [`Sender::offer`] tell how many.
    pub async fn push(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            self.room().await;
            bytes = &bytes[self.offer(bytes)..];
        }
    }

    /// Ends the channel behind what was pushed.
    pub fn finish(&self) {
        self.lock().finished = true;
        self.filled.notify_waiters();
    }

    /// Offset up to which the receiver has taken everything.
    pub fn acknowledged(&self) -> u64 {
        self.lock().base
    }

    /// The receiver has taken everything and the end.
    pub fn is_done(&self) -> bool {
        self.lock().done
    }

    /// Returns when the receiver has taken everything and the end.
    pub async fn done(&self) {
        loop {
            let drained = self.drained.notified();
            tokio::pin!(drained);
            drained.as_mut().enable();
            if self.is_done() {
                return;
            }
            drained.await;
        }
    }

    /// Sends on `stream`, from `offset` on, until the receiver has acknowledged the end. A newer call ends an
    /// older one with [`ChannelError::Superseded`].
    ///
    /// # Errors
    /// The stream breaks, `offset` is not kept any more or not there yet, or the receiver acknowledges nonsense.
    pub async fn serve(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        offset: u64,
    ) -> Result<(), ChannelError> {
        let server = {
            let mut state = self.lock();
            state.acknowledge(offset)?;
            state.server += 1;
            state.server
        };
        self.filled.notify_waiters();
        self.drained.notify_waiters();
        let (reader, writer) = tokio::io::split(stream);
        tokio::select! {
            outcome = self.take_acknowledgements(reader) => outcome,
            outcome = self.send(writer, server) => Err(outcome),
        }
    }

    async fn take_acknowledgements(&self, mut reader: impl AsyncRead + Unpin) -> Result<(), ChannelError> {
        while !self.is_done() {
            let mut offset = [0; 8];
            reader.read_exact(&mut offset).await?;
            self.lock().acknowledge(u64::from_be_bytes(offset))?;
            self.drained.notify_waiters();
        }
        Ok(())
    }

    /// Sends until it fails; returns why. Having sent the end, it waits to be dropped.
    async fn send(&self, mut writer: impl AsyncWrite + Unpin, server: u64) -> ChannelError {
        let mut next = self.acknowledged();
        loop {
            let filled = self.filled.notified();
            tokio::pin!(filled);
            filled.as_mut().enable();
            let (bytes, ended) = {
                let state = self.lock();
                if state.server != server {
                    return ChannelError::Superseded;
                }
                // Acknowledgements never pass what was sent, so `next` is at or behind `base` only at the start.
                next = next.max(state.base);
                let skip = (next - state.base) as usize;
                let bytes: Vec<u8> = state.kept.iter().skip(skip).take(MAX_DATA).copied().collect();
                let ended = state.finished && next + bytes.len() as u64 == state.end();
                (bytes, ended)
            };
            if let Err(error) = write_data(&mut writer, &bytes, ended).await {
                return error.into();
            }
            next += bytes.len() as u64;
            if ended {
                std::future::pending::<()>().await;
            }
            if bytes.is_empty() {
                filled.await;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Outgoing> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

async fn write_data(
    writer: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
    ended: bool,
) -> std::io::Result<()> {
    let mut frame = Vec::with_capacity(bytes.len() + 8);
    if !bytes.is_empty() {
        frame.extend((bytes.len() as u32).to_be_bytes());
        frame.extend(bytes);
    }
    if ended {
        frame.extend(0_u32.to_be_bytes());
    }
    if frame.is_empty() {
        return Ok(());
    }
    writer.write_all(&frame).await?;
    writer.flush().await
}

/// The receiving half.
#[derive(Debug, Default)]
pub struct Receiver {
    offset: u64,
    ended: bool,
}

impl Receiver {
    /// A receiver at offset 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes taken so far: where the next stream shall go on. One more once the end is taken.
    pub fn offset(&self) -> u64 {
        self.offset + u64::from(self.ended)
    }

    /// The end of the channel has been taken.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Takes bytes from `stream` and gives them to `sink` until the channel ends. A piece counts as taken, and
    /// is acknowledged, only after `sink` has returned; a piece whose `sink` fails is asked for again.
    ///
    /// # Errors
    /// The stream breaks, the sender breaks the protocol, or `sink` fails.
    pub async fn run<F>(
        &mut self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        mut sink: F,
    ) -> Result<(), ChannelError>
    where
        F: AsyncFnMut(&[u8]) -> std::io::Result<()>,
    {
        let mut unacknowledged = 0;
        let mut buffer = Vec::new();
        loop {
            let mut prefix = [0; 4];
            stream.read_exact(&mut prefix).await?;
            let length = u32::from_be_bytes(prefix);
            if length == 0 {
                self.ended = true;
                stream.write_all(&(self.offset + 1).to_be_bytes()).await?;
                stream.shutdown().await?;
                return Ok(());
            }
            if length as usize > MAX_DATA {
                return Err(ChannelError::TooLong { length });
            }
            buffer.resize(length as usize, 0);
            stream.read_exact(&mut buffer).await?;
            sink(&buffer).await?;
            self.offset += u64::from(length);
            unacknowledged += buffer.len();
            if unacknowledged >= ACK_EVERY {
                stream.write_all(&self.offset.to_be_bytes()).await?;
                stream.flush().await?;
                unacknowledged = 0;
            }
        }
    }
}
