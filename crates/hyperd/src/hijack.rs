//! Connections that become raw streams: attach and exec.

use std::future::Future;

use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper::{Response, StatusCode};
use hyper_engine::ProcessStream;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::detach::Scanner;
use crate::framing::Framing;
use crate::http::{Reply, Request, Sender, empty};

/// First API version whose clients are told whether a stream is multiplexed.
const TELLS_MULTIPLEXED: u32 = 42;

/// Bytes copied at once.
const CHUNK: usize = 32 << 10;

/// How a copy between a client and a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The process's output ended.
    Finished,
    /// The client went away.
    Left,
    /// The client typed the keys.
    Detached,
}

/// A client's connection, before it becomes a stream.
#[derive(Debug)]
pub(crate) enum Client {
    /// Asked for the upgrade: both ways, after the reply.
    Upgrade(OnUpgrade),
    /// Did not: output only, as the reply's body.
    Body(Sender),
}

/// The media type of a stream of plain bytes, or of frames.
pub(crate) fn content_type(version: u32, plain: bool) -> &'static str {
    if !plain && version >= TELLS_MULTIPLEXED {
        "application/vnd.docker.multiplexed-stream"
    } else {
        "application/vnd.docker.raw-stream"
    }
}

/// Takes a request's connection over: what to reply, and the client's end. The client takes plain bytes (`plain`) or
/// frames.
pub(crate) fn take(request: &mut Request, version: u32, plain: bool) -> (Client, Reply) {
    if !request.headers().contains_key(UPGRADE) {
        let (sender, reply) = crate::http::stream("application/vnd.docker.raw-stream");
        return (Client::Body(sender), reply);
    }
    let upgrade = hyper::upgrade::on(request);
    let mut reply: Response<_> = empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type(version, plain)));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("tcp"));
    (Client::Upgrade(upgrade), reply)
}

/// A connected client.
pub(crate) enum Connected {
    /// Both ways.
    Stream(Box<TokioIo<hyper::upgrade::Upgraded>>),
    /// Output only.
    Body(Sender),
}

impl Client {
    /// The stream, once the reply is out; `None` if the client went away before.
    pub(crate) async fn connect(self) -> Option<Connected> {
        match self {
            Self::Body(sender) => Some(Connected::Body(sender)),
            Self::Upgrade(upgrade) => match upgrade.await {
                Ok(upgraded) => Some(Connected::Stream(Box::new(TokioIo::new(upgraded)))),
                Err(error) => {
                    tracing::debug!(%error, "a client went away before its stream began");
                    None
                }
            },
        }
    }
}

impl Connected {
    /// Sends bytes to the client.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Stream(stream) => stream.write_all(bytes).await,
            Self::Body(sender) => {
                sender.send(bytes.to_vec()).await.map_err(|_| std::io::ErrorKind::BrokenPipe.into())
            }
        }
    }

    /// Copies both ways until the process's output ends, the client goes away or detaches. When the output has ended,
    /// `settle` is awaited before the client sees the end.
    pub(crate) async fn copy(
        self,
        process: ProcessStream,
        framing: Framing,
        keys: Option<Scanner>,
        settle: impl Future<Output = ()>,
    ) -> Ended {
        // The rest of it keeps the pod until the copy is over.
        let ProcessStream { stream: process, framed, .. } = process;
        let (from_process, to_process) = process.into_split();
        match self {
            Self::Stream(stream) => {
                let (from_client, to_client) = tokio::io::split(*stream);
                let to_process = Input { stream: to_process, framed };
                let streams = (from_client, to_client, from_process, to_process);
                both_ways(streams, framing, keys, settle).await
            }
            Self::Body(sender) => {
                let _keep_open = to_process;
                let ended = output_only(sender, from_process, framing).await;
                settle.await;
                ended
            }
        }
    }

    /// Ends the stream.
    pub(crate) async fn close(self) {
        if let Self::Stream(mut stream) = self {
            let _ = stream.shutdown().await;
        }
    }
}

/// The way to a process's input.
struct Input<W> {
    stream: W,
    /// Each piece has its length before it, and the end is a length of zero: the end of the stream alone would not
    /// tell a client that is done from a daemon that was ended.
    framed: bool,
}

impl<W: AsyncWrite + Unpin> Input<W> {
    async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if self.framed && !bytes.is_empty() {
            let length = u32::try_from(bytes.len()).map_err(std::io::Error::other)?;
            self.stream.write_all(&length.to_be_bytes()).await?;
        }
        self.stream.write_all(bytes).await
    }

    async fn end(&mut self) {
        let _ = if self.framed { self.stream.write_all(&[0; 4]).await } else { self.stream.shutdown().await };
    }
}

async fn output_only(
    sender: Sender,
    mut from_process: impl AsyncRead + Unpin,
    mut framing: Framing,
) -> Ended {
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = tokio::select! {
            read = from_process.read(&mut buffer) => read,
            () = sender.closed() => return Ended::Left,
        };
        match read {
            Ok(0) | Err(_) => return Ended::Finished,
            Ok(count) => {
                let bytes = framing.pass(&buffer[..count]).into_owned();
                if !bytes.is_empty() && sender.send(bytes).await.is_err() {
                    return Ended::Left;
                }
            }
        }
    }
}

/// From the client and to it, from the process and to it.
type Streams<CR, CW, PR, PW> = (CR, CW, PR, Input<PW>);

async fn both_ways<CR, CW, PR, PW>(
    (from_client, mut to_client, mut from_process, to_process): Streams<CR, CW, PR, PW>,
    mut framing: Framing,
    keys: Option<Scanner>,
    settle: impl Future<Output = ()>,
) -> Ended
where
    CR: AsyncRead + Unpin,
    CW: AsyncWrite + Unpin,
    PR: AsyncRead + Unpin,
    PW: AsyncWrite + Unpin,
{
    let output = async {
        let mut buffer = vec![0; CHUNK];
        let ended = loop {
            let count = match from_process.read(&mut buffer).await {
                Ok(0) | Err(_) => break Ended::Finished,
                Ok(count) => count,
            };
            let bytes = framing.pass(&buffer[..count]);
            if to_client.write_all(&bytes).await.is_err() || to_client.flush().await.is_err() {
                break Ended::Left;
            }
        };
        settle.await;
        let _ = to_client.shutdown().await;
        ended
    };
    let input = input(from_client, to_process, keys);
    tokio::pin!(output, input);
    tokio::select! {
        ended = &mut output => ended,
        (detached, _to_process) = &mut input => match detached {
            true => Ended::Detached,
            // The input is over; the output may go on. Closing the way to the process would end it as well.
            false => output.await,
        },
    }
}

/// Copies input until its end, which is passed on, or the keys; tells whether it was these.
async fn input<W: AsyncWrite + Unpin>(
    mut from_client: impl AsyncRead + Unpin,
    mut to_process: Input<W>,
    mut keys: Option<Scanner>,
) -> (bool, Input<W>) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = match from_client.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        let (pass, detached) = match &mut keys {
            Some(scanner) => scanner.push(&buffer[..count]),
            None => (buffer[..count].to_vec(), false),
        };
        if to_process.write(&pass).await.is_err() {
            break;
        }
        if detached {
            return (true, to_process);
        }
    }
    to_process.end().await;
    (false, to_process)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::duplex;

    #[tokio::test]
    async fn end_of_input_is_passed_on_and_output_goes_on() {
        let (client, daemon_client) = duplex(64);
        let (process, daemon_process) = duplex(64);
        let copy = tokio::spawn(async move {
            let (from_client, to_client) = tokio::io::split(daemon_client);
            let (from_process, to_process) = tokio::io::split(daemon_process);
            let to_process = Input { stream: to_process, framed: false };
            let streams = (from_client, to_client, from_process, to_process);
            both_ways(streams, Framing::default(), None, std::future::ready(())).await
        });
        let (mut client_read, mut client_write) = tokio::io::split(client);
        let (mut process_read, mut process_write) = tokio::io::split(process);
        client_write.write_all(b"in").await.unwrap();
        client_write.shutdown().await.unwrap();
        let mut input = Vec::new();
        process_read.read_to_end(&mut input).await.unwrap();
        assert_eq!(input, b"in");
        process_write.write_all(b"out").await.unwrap();
        process_write.shutdown().await.unwrap();
        let mut output = Vec::new();
        client_read.read_to_end(&mut output).await.unwrap();
        assert_eq!(output, b"out");
        assert_eq!(copy.await.unwrap(), Ended::Finished);
    }

    #[tokio::test]
    async fn framed_input_has_lengths_and_an_end() {
        let (to_process, mut process) = duplex(64);
        let client: &[u8] = b"some input";
        let copied = input(client, Input { stream: to_process, framed: true }, None).await;
        assert!(!copied.0);
        drop(copied);
        let mut input = Vec::new();
        process.read_to_end(&mut input).await.unwrap();
        assert_eq!(input, b"\0\0\0\x0asome input\0\0\0\0");
    }

    #[tokio::test]
    async fn keys_detach_while_the_process_goes_on() {
        let (mut client, daemon_client) = duplex(64);
        let (mut process, daemon_process) = duplex(64);
        let copy = tokio::spawn(async move {
            let (from_client, to_client) = tokio::io::split(daemon_client);
            let (from_process, to_process) = tokio::io::split(daemon_process);
            let keys = Scanner::new("").unwrap();
            let to_process = Input { stream: to_process, framed: false };
            let streams = (from_client, to_client, from_process, to_process);
            both_ways(streams, Framing::default(), Some(keys), std::future::ready(())).await
        });
        client.write_all(b"ab\x10\x11").await.unwrap();
        assert_eq!(copy.await.unwrap(), Ended::Detached);
        let mut typed = [0; 2];
        process.read_exact(&mut typed).await.unwrap();
        assert_eq!(&typed, b"ab");
    }
}
