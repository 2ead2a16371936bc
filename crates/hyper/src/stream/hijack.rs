//! Moving the bytes between a container's stream and our standard streams.

use std::collections::VecDeque;
use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, Stdin, WriteHalf, split};

use super::DetachKeys;
use crate::client::{Hijacked, Position, Socket};

/// Bytes read at once.
const CHUNK: usize = 64 << 10;
/// Length of a frame's header: stream type, three zeros, big-endian length (Engine API, "Attach to a container").
const HEADER: usize = 8;

/// Bytes of sent input that are kept to be sent again: more than can be on the way to the container. That is the
/// buffers of two sockets (`net.core.wmem_default`, 208 KiB each), the daemon's and the shim's own (32 and 64 KiB).
const INPUT_KEPT: usize = 1 << 20;

/// Longest payload that is kept until it is whole: far above a line of a log, which has 16 KiB.
const WHOLE_MAX: usize = 16 << 20;

/// What is connected.
pub struct Plan {
    /// The stream is a terminal's: raw bytes in both directions.
    pub tty: bool,
    /// Send our standard input.
    pub stdin: bool,
    /// Receive output.
    pub output: bool,
}

/// What has gone over a container's streams, over as many connections as it takes.
pub struct Traffic {
    /// Bytes of standard output and of standard error that we have shown, since the process began.
    received: [u64; 2],
    input: Input,
    first_byte: FirstByte,
}

/// Our standard input on its way.
struct Input {
    stdin: Stdin,
    /// Look for these keys in it.
    detach: Option<DetachKeys>,
    /// What may have to be sent again, and what is not sent yet.
    kept: VecDeque<u8>,
    /// Offset of the first byte kept.
    start: u64,
    /// Offset of the next byte to send.
    next: u64,
    /// Bytes kept after they are sent; none without a session.
    keep: usize,
    /// There is no more to read.
    ended: bool,
    /// The user has typed the keys.
    detached: bool,
}

impl Traffic {
    /// Nothing yet. `first_byte` is called at the first output; `detach` are the keys looked for in the input.
    pub fn new(detach: Option<DetachKeys>, first_byte: impl FnOnce() + 'static) -> Self {
        let input = Input {
            stdin: tokio::io::stdin(),
            detach,
            kept: VecDeque::new(),
            start: 0,
            next: 0,
            keep: 0,
            ended: false,
            detached: false,
        };
        Self { received: [0; 2], input, first_byte: Some(Box::new(first_byte)) }
    }

    /// Begins where a new session is.
    pub fn begin(&mut self, position: Position) {
        self.received = position.output;
        let input = &mut self.input;
        let sent = usize::try_from(input.next - input.start).expect("what is kept fits into memory");
        input.kept.drain(..sent);
        input.start = position.input;
        input.next = position.input;
        input.keep = INPUT_KEPT;
    }

    /// Bytes of standard output and of standard error that we have shown.
    pub fn received(&self) -> [u64; 2] {
        self.received
    }

    /// Goes on where the session is; `false` when it wants input that we have no more.
    pub fn go_on(&mut self, position: Position) -> bool {
        let input = &mut self.input;
        let possible = (input.start..=input.end()).contains(&position.input);
        if possible {
            input.next = position.input;
        }
        possible
    }
}

impl Input {
    fn end(&self) -> u64 {
        self.start + self.kept.len() as u64
    }

    /// The next bytes to send, at most [`CHUNK`].
    fn unsent(&self) -> Vec<u8> {
        let skip = usize::try_from(self.next - self.start).expect("what is kept fits into memory");
        self.kept.iter().skip(skip).take(CHUNK).copied().collect()
    }

    /// Notes that bytes were sent, and forgets those that need not be kept.
    fn sent(&mut self, count: usize) {
        self.next += count as u64;
        let sent = usize::try_from(self.next - self.start).expect("what is kept fits into memory");
        let forgotten = sent.saturating_sub(self.keep);
        self.kept.drain(..forgotten);
        self.start += forgotten as u64;
    }

    /// Reads more. Cancelled, it has lost nothing.
    async fn read(&mut self) {
        let mut buffer = BytesMut::with_capacity(CHUNK);
        self.ended = !matches!(self.stdin.read_buf(&mut buffer).await, Ok(1..));
        match (&mut self.detach, self.ended) {
            (Some(keys), true) => self.kept.extend(keys.rest()),
            (Some(keys), false) => {
                let (bytes, detached) = keys.filter(&buffer);
                self.kept.extend(bytes);
                self.detached = detached;
            }
            (None, _) => self.kept.extend(&buffer),
        }
    }
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
    /// A frame longer than we keep in memory.
    #[error("the daemon sent a frame of {0} bytes")]
    TooLong(usize),
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
    /// The next whole payload in `input`; `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`StreamError::Frame`] for an unknown stream type, [`StreamError::TooLong`].
    pub fn next_whole(&mut self, input: &mut BytesMut) -> Result<Option<(Output, Bytes)>, StreamError> {
        if let Some(length) = input.get(4..HEADER) {
            let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
            if length > WHOLE_MAX {
                return Err(StreamError::TooLong(length));
            }
            if input.len() >= HEADER + length {
                if length == 0 {
                    input.advance(HEADER);
                    return self.next_whole(input);
                }
                return self.next(input);
            }
        }
        Ok(None)
    }

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
/// # Errors
/// [`StreamError`]
pub async fn pump(stream: Hijacked, plan: &Plan, traffic: &mut Traffic) -> Result<End, StreamError> {
    let (reader, mut writer) = split(stream.socket);
    let Traffic { received, input, first_byte } = traffic;
    let output = async {
        if plan.tty {
            copy_raw(stream.first, reader, received, first_byte).await
        } else {
            copy_frames(stream.first, reader, received, first_byte).await
        }
    };
    // The writing half stays open in any case: closing it would be an end of input.
    let input = async {
        if !plan.stdin {
            return std::future::pending().await;
        }
        copy_input(&mut writer, input).await
    };
    if !plan.output && plan.stdin {
        return Ok(input.await);
    }
    tokio::pin!(output);
    tokio::select! {
        ended = &mut output => ended.map(|()| End::Finished),
        end = input => match end {
            End::Detached => Ok(End::Detached),
            End::Finished => output.await.map(|()| End::Finished),
        },
    }
}

/// Sends standard input; a daemon that closed its side only ends our sending.
async fn copy_input(writer: &mut WriteHalf<Box<dyn Socket>>, input: &mut Input) -> End {
    loop {
        while input.next < input.end() {
            let bytes = input.unsent();
            if writer.write_all(&bytes).await.and(writer.flush().await).is_err() {
                return End::Finished;
            }
            input.sent(bytes.len());
        }
        if input.detached {
            return End::Detached;
        }
        if input.ended {
            let _ = writer.shutdown().await;
            return End::Finished;
        }
        input.read().await;
    }
}

/// Called at the first output.
type FirstByte = Option<Box<dyn FnOnce()>>;

async fn copy_raw(
    first: Bytes,
    mut reader: ReadHalf<Box<dyn Socket>>,
    received: &mut [u64; 2],
    first_byte: &mut FirstByte,
) -> Result<(), StreamError> {
    let mut stdout = tokio::io::stdout();
    let mut buffer = BytesMut::from(&first[..]);
    loop {
        if !buffer.is_empty() {
            if let Some(tell) = first_byte.take() {
                tell();
            }
            put(&mut stdout, &buffer).await?;
            received[0] += buffer.len() as u64;
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
    received: &mut [u64; 2],
    first_byte: &mut FirstByte,
) -> Result<(), StreamError> {
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
            received[usize::from(output == Output::Stderr)] += bytes.len() as u64;
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

    #[tokio::test]
    async fn input_is_kept_until_it_cannot_be_on_the_way_any_more() {
        let mut traffic = Traffic::new(None, || ());
        traffic.begin(Position { output: [0; 2], input: 0 });
        let typed: Vec<u8> = (0..3 * INPUT_KEPT).map(|n| n as u8).collect();
        for piece in typed.chunks(CHUNK) {
            traffic.input.kept.extend(piece);
            while traffic.input.next < traffic.input.end() {
                let count = traffic.input.unsent().len();
                traffic.input.sent(count);
            }
        }
        assert_eq!(traffic.input.kept.len(), INPUT_KEPT);
        let taken = typed.len() - INPUT_KEPT + 5;
        let position = |input: usize| Position { output: [0; 2], input: input as u64 };
        assert!(
            !traffic.go_on(position(typed.len() - INPUT_KEPT - 1))
                && !traffic.go_on(position(typed.len() + 1))
        );
        assert!(traffic.go_on(position(taken)));
        assert_eq!(traffic.input.unsent(), typed[taken..taken + CHUNK]);
    }

    #[test]
    fn an_unknown_stream_is_an_error() {
        let mut input = BytesMut::from(&frame(9, b"x")[..]);
        assert!(matches!(Frames::default().next(&mut input), Err(StreamError::Frame(9))));
    }
}
