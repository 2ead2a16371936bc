//! Moving the bytes between a container's stream and our standard streams.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};

use super::DetachKeys;
use crate::client::{Hijacked, Socket};

/// Bytes read at once.
const CHUNK: usize = 64 << 10;
/// Length of a frame's header: stream type, three zeros, big-endian length (Engine API, "Attach to a container").
const HEADER: usize = 8;

/// What is connected.
pub struct Plan {
    /// The stream is a terminal's: raw bytes in both directions.
    pub tty: bool,
    /// Send our standard input.
    pub stdin: bool,
    /// Receive output.
    pub output: bool,
    /// Look for these keys in the input.
    pub detach: Option<DetachKeys>,
}

/// Why the stream ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The container closed its output.
    Finished,
    /// The user typed the detach keys.
    Detached,
}

/// A stream that broke.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The connection to the daemon.
    #[error("the container's stream broke")]
    Socket(#[source] io::Error),
    /// Our own output; a broken pipe ends the command quietly.
    #[error("cannot write the container's output")]
    Output(#[source] io::Error),
    /// A frame of an unknown stream.
    #[error("the daemon sent a frame of the unknown stream {0}")]
    Frame(u8),
    /// The daemon reports an error inside the stream.
    #[error("{0}")]
    Daemon(String),
}

impl StreamError {
    /// Our reader went away.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// Which of our streams bytes belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// An error of the daemon itself.
    Daemon,
}

/// Takes docker's stream format apart without waiting for whole frames.
#[derive(Default)]
pub struct Frames {
    current: Option<(Output, usize)>,
}

impl Frames {
    /// The next piece of payload in `input`; `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`StreamError::Frame`] for an unknown stream type.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<(Output, Bytes)>, StreamError> {
        loop {
            match &mut self.current {
                Some((_, 0)) => self.current = None,
                Some((output, left)) => {
                    let length = input.len().min(*left);
                    if length == 0 {
                        return Ok(None);
                    }
                    *left -= length;
                    return Ok(Some((*output, input.split_to(length).freeze())));
                }
                None if input.len() < HEADER => return Ok(None),
                None => {
                    let kind = match input[0] {
                        0 | 1 => Output::Stdout,
                        2 => Output::Stderr,
                        3 => Output::Daemon,
                        other => return Err(StreamError::Frame(other)),
                    };
                    let length = u32::from_be_bytes([input[4], input[5], input[6], input[7]]);
                    input.advance(HEADER);
                    self.current = Some((kind, length as usize));
                }
            }
        }
    }
}

/// Moves bytes until the container's output ends, or until all input is sent when there is no output.
///
/// `first_byte` is called once, when the first output arrives.
///
/// # Errors
/// [`StreamError`]
pub async fn pump(stream: Hijacked, plan: Plan, first_byte: impl FnOnce()) -> Result<End, StreamError> {
    let (reader, writer) = split(stream.socket);
    let output = async {
        if plan.tty {
            copy_raw(stream.first, reader, first_byte).await
        } else {
            copy_frames(stream.first, reader, first_byte).await
        }
    };
    let wants_input = plan.stdin;
    let input = async {
        if !wants_input {
            // Keeps the writing half open: closing it would be an end of input.
            let _writer = writer;
            return std::future::pending().await;
        }
        copy_input(writer, plan.detach).await
    };
    if !plan.output && wants_input {
        let (end, _writer) = input.await;
        return Ok(end);
    }
    tokio::pin!(output);
    tokio::select! {
        ended = &mut output => ended.map(|()| End::Finished),
        (end, _writer) = input => match end {
            End::Detached => Ok(End::Detached),
            End::Finished => output.await.map(|()| End::Finished),
        },
    }
}

/// Sends standard input; a daemon that closed its side only ends our sending.
async fn copy_input(
    mut writer: WriteHalf<Box<dyn Socket>>,
    mut detach: Option<DetachKeys>,
) -> (End, WriteHalf<Box<dyn Socket>>) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = BytesMut::with_capacity(CHUNK);
    loop {
        buffer.clear();
        buffer.reserve(CHUNK);
        let ended = !matches!(stdin.read_buf(&mut buffer).await, Ok(1..));
        let (bytes, detached) = match (&mut detach, ended) {
            (Some(keys), true) => (keys.rest(), false),
            (Some(keys), false) => keys.filter(&buffer),
            (None, _) => (buffer.to_vec(), false),
        };
        if writer.write_all(&bytes).await.and(writer.flush().await).is_err() {
            return (End::Finished, writer);
        }
        if detached {
            return (End::Detached, writer);
        }
        if ended {
            let _ = writer.shutdown().await;
            return (End::Finished, writer);
        }
    }
}

async fn copy_raw(
    first: Bytes,
    mut reader: ReadHalf<Box<dyn Socket>>,
    first_byte: impl FnOnce(),
) -> Result<(), StreamError> {
    let mut first_byte = Some(first_byte);
    let mut stdout = tokio::io::stdout();
    let mut buffer = BytesMut::from(&first[..]);
    loop {
        if !buffer.is_empty() {
            if let Some(tell) = first_byte.take() {
                tell();
            }
            put(&mut stdout, &buffer).await?;
            buffer.clear();
        }
        if fill(&mut reader, &mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

async fn copy_frames(
    first: Bytes,
    mut reader: ReadHalf<Box<dyn Socket>>,
    first_byte: impl FnOnce(),
) -> Result<(), StreamError> {
    let mut first_byte = Some(first_byte);
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    let mut frames = Frames::default();
    let mut buffer = BytesMut::from(&first[..]);
    loop {
        while let Some((output, bytes)) = frames.next(&mut buffer)? {
            if let Some(tell) = first_byte.take() {
                tell();
            }
            match output {
                Output::Stdout => put(&mut stdout, &bytes).await?,
                Output::Stderr => put(&mut stderr, &bytes).await?,
                Output::Daemon => {
                    return Err(StreamError::Daemon(String::from_utf8_lossy(&bytes).into_owned()));
                }
            }
        }
        if fill(&mut reader, &mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

async fn fill(reader: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> Result<usize, StreamError> {
    buffer.reserve(CHUNK);
    match reader.read_buf(buffer).await {
        Ok(count) => Ok(count),
        // A daemon that ends the stream by closing the socket with our input unread.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(0),
        Err(error) => Err(StreamError::Socket(error)),
    }
}

/// Writes and flushes, so that nothing waits in our buffer when the process ends.
async fn put(output: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<(), StreamError> {
    output.write_all(bytes).await.map_err(StreamError::Output)?;
    output.flush().await.map_err(StreamError::Output)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind, 0, 0, 0];
        bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn frames_come_apart_at_every_cut() {
        let wire = [frame(1, b"out"), frame(2, b""), frame(2, b"err\x01\x02"), frame(1, b"!")].concat();
        for cut in 0..=wire.len() {
            let mut frames = Frames::default();
            let mut input = BytesMut::new();
            let (mut out, mut err) = (Vec::new(), Vec::new());
            for part in [&wire[..cut], &wire[cut..]] {
                input.extend_from_slice(part);
                while let Some((output, bytes)) = frames.next(&mut input).unwrap() {
                    if output == Output::Stdout {
                        out.extend_from_slice(&bytes)
                    } else {
                        err.extend_from_slice(&bytes)
                    }
                }
            }
            assert_eq!((&out[..], &err[..]), (&b"out!"[..], &b"err\x01\x02"[..]), "cut at {cut}");
        }
    }

    #[test]
    fn an_unknown_stream_is_an_error() {
        let mut input = BytesMut::from(&frame(9, b"x")[..]);
        assert!(matches!(Frames::default().next(&mut input), Err(StreamError::Frame(9))));
    }
}
