//! Clients from before `Upgrade`: they take the connection over after a plain 200.
//!
//! Such a client asks to attach without the header, and then expects the connection itself to carry the stream both
//! ways, which HTTP has no words for. So its request is given the header that it lacks, and the reply loses what the
//! client would not understand. Only the first request of a connection is looked at: these clients use one for each.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

/// Most bytes of a head that is looked at; longer ones go on as they are.
const HEAD_MAX: usize = 16 << 10;

/// What a reply to an upgrade begins with.
const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\n";

/// What such a client expects instead.
const OK: &[u8] = b"HTTP/1.1 200 OK\r\n";

/// A connection whose first head has been read.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    /// Bytes to be read before the stream's.
    ahead: Vec<u8>,
    position: usize,
    reply: Reply,
}

/// What is done to the first reply.
#[derive(Debug)]
enum Reply {
    /// Nothing.
    Plain,
    /// Its head is gathered, to be changed when it is complete.
    Gathering(Vec<u8>),
    /// The changed head is being sent; the caller's bytes count as written already.
    Sending(Vec<u8>, usize),
}

impl Connection {
    /// Reads the first head, as far as it is needed to tell what client this is.
    ///
    /// # Errors
    /// The client sends nothing within `patience`, or goes away.
    pub(crate) async fn accept(mut stream: UnixStream, patience: Duration) -> io::Result<Self> {
        let mut ahead = Vec::with_capacity(1024);
        let read = async {
            loop {
                let searched = ahead.len().saturating_sub(3);
                if stream.read_buf(&mut ahead).await? == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
                }
                if ahead[searched..].windows(4).any(|end| end == b"\r\n\r\n") || ahead.len() > HEAD_MAX {
                    return Ok(());
                }
                if !may_take_over(&ahead) {
                    return Ok(());
                }
            }
        };
        tokio::time::timeout(patience, read)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let reply = match lacks_upgrade(&ahead) {
            true => {
                let line_end =
                    ahead.windows(2).position(|end| end == b"\r\n").map_or(ahead.len(), |at| at + 2);
                ahead.splice(line_end..line_end, *b"Connection: Upgrade\r\nUpgrade: tcp\r\n");
                Reply::Gathering(Vec::new())
            }
            false => Reply::Plain,
        };
        Ok(Self { stream, ahead, position: 0, reply })
    }
}

/// Whether a request that begins so can be one that takes the connection over.
fn may_take_over(head: &[u8]) -> bool {
    const METHOD: &[u8] = b"POST ";
    let length = head.len().min(METHOD.len());
    head[..length] == METHOD[..length]
}

/// Whether a complete head asks to attach and has no `Upgrade`.
fn lacks_upgrade(head: &[u8]) -> bool {
    let Some(end) = head.windows(4).position(|end| end == b"\r\n\r\n") else { return false };
    let Ok(text) = std::str::from_utf8(&head[..end]) else { return false };
    let mut lines = text.split("\r\n");
    let Some(target) = lines.next().and_then(|line| line.strip_prefix("POST ")) else { return false };
    let path = target.split([' ', '?']).next().unwrap_or_default();
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let parts = match parts.as_slice() {
        [version, rest @ ..] if version.starts_with("v1.") => rest,
        all => all,
    };
    matches!(parts, ["containers", _, "attach"] | ["exec", _, "start"])
        && !lines.any(|line| line.split(':').next().is_some_and(|name| name.eq_ignore_ascii_case("upgrade")))
}

/// The reply's head as the client expects it; what follows the head stays.
fn without_upgrade(reply: &[u8]) -> Vec<u8> {
    let Some(rest) = reply.strip_prefix(SWITCHING) else { return reply.to_vec() };
    let mut changed = OK.to_vec();
    let end = rest.windows(4).position(|end| end == b"\r\n\r\n").map_or(rest.len(), |at| at + 2);
    for line in rest[..end].split_inclusive(|byte| *byte == b'\n') {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        if !name.eq_ignore_ascii_case(b"connection") && !name.eq_ignore_ascii_case(b"upgrade") {
            changed.extend_from_slice(line);
        }
    }
    changed.extend_from_slice(&rest[end..]);
    changed
}

impl Connection {
    /// Sends what is left of a changed head.
    fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Reply::Sending(bytes, sent) = &mut self.reply {
            if *sent == bytes.len() {
                self.reply = Reply::Plain;
                break;
            }
            match Pin::new(&mut self.stream).poll_write(cx, &bytes[*sent..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => *sent += count,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.position < self.ahead.len() {
            let count = buffer.remaining().min(self.ahead.len() - self.position);
            buffer.put_slice(&self.ahead[self.position..self.position + count]);
            self.position += count;
            if self.position == self.ahead.len() {
                self.ahead = Vec::new();
                self.position = 0;
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Reply::Gathering(gathered) = &mut self.reply {
            gathered.extend_from_slice(bytes);
            if gathered.windows(4).any(|end| end == b"\r\n\r\n") || gathered.len() > HEAD_MAX {
                self.reply = Reply::Sending(without_upgrade(gathered), 0);
                // What cannot be sent at once is sent by the next write or flush.
                if let Poll::Ready(Err(error)) = self.poll_changed(cx) {
                    return Poll::Ready(Err(error));
                }
            }
            return Poll::Ready(Ok(bytes.len()));
        }
        std::task::ready!(self.poll_changed(cx))?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_changed(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_changed(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt as _;

    #[test]
    fn only_attaching_without_the_header_is_changed() {
        for head in [
            "POST /containers/a/attach?stream=1 HTTP/1.1\r\nHost: d\r\n\r\n",
            "POST /v1.24/exec/a/start HTTP/1.1\r\n\r\n{}",
        ] {
            assert!(lacks_upgrade(head.as_bytes()), "{head:?}");
        }
        for head in [
            "POST /containers/a/attach HTTP/1.1\r\nupgrade: tcp\r\n\r\n",
            "POST /containers/a/start HTTP/1.1\r\n\r\n",
            "GET /containers/a/attach HTTP/1.1\r\n\r\n",
            "POST /containers/a/attach HTTP/1.1\r\nHost: d",
            "\u{0}\u{1}\r\n\r\n",
        ] {
            assert!(!lacks_upgrade(head.as_bytes()), "{head:?}");
        }
    }

    #[test]
    fn reply_becomes_a_plain_one() {
        let reply = b"HTTP/1.1 101 Switching Protocols\r\ncontent-type: x\r\nconnection: Upgrade\r\nupgrade: tcp\r\n\r\nOUT";
        assert_eq!(without_upgrade(reply), b"HTTP/1.1 200 OK\r\ncontent-type: x\r\n\r\nOUT");
        let refused = b"HTTP/1.1 404 Not Found\r\n\r\n{}";
        assert_eq!(without_upgrade(refused), refused);
    }

    #[tokio::test]
    async fn both_ways_go_on_after_the_heads() {
        let (mut client, server) = UnixStream::pair().unwrap();
        client.write_all(b"POST /containers/a/attach HTTP/1.1\r\nHost: d\r\n\r\nearly").await.unwrap();
        let mut connection = Connection::accept(server, Duration::from_secs(5)).await.unwrap();
        let expected = b"POST /containers/a/attach HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nHost: d\r\n\r\nearly";
        let mut seen = vec![0; expected.len()];
        connection.read_exact(&mut seen).await.unwrap();
        assert_eq!(seen, expected);
        connection.write_all(b"HTTP/1.1 101 Switching Protocols\r\nupg").await.unwrap();
        connection.write_all(b"rade: tcp\r\n\r\n").await.unwrap();
        connection.write_all(b"output").await.unwrap();
        connection.shutdown().await.unwrap();
        let mut reply = Vec::new();
        client.read_to_end(&mut reply).await.unwrap();
        assert_eq!(reply, b"HTTP/1.1 200 OK\r\n\r\noutput");
    }
}
