//! A session: many streams over one, opened by the host.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::poll_fn;
use hyper_protocol::agent::{Reply, Request};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};
use yamux::{Config, Connection, Mode};

use crate::{CallError, LinkError, hello, read_frame, write_frame};

/// Most streams at once in a session. A container takes about five (three of stdio, a wait, a call); beyond
/// the bound the host's next stream waits or the guest's session ends, and no memory grows with it.
const MAX_STREAMS: usize = 2048;

/// A stream of a session. Dropping it resets it; shutting it down ends this direction only.
#[derive(Debug)]
pub struct Stream(Compat<yamux::Stream>);

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The host's end of a session. Clones share it; it ends when the last is dropped or the link closes.
#[derive(Debug, Clone)]
pub struct HostLink {
    open: mpsc::Sender<oneshot::Sender<yamux::Stream>>,
    closed: watch::Receiver<bool>,
}

impl HostLink {
    /// Opens a session, waiting for the guest without bound; callers set their own deadline.
    ///
    /// # Errors
    /// The byte stream fails or is closed, or the guest speaks another version.
    pub async fn open(
        mut io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<HostLink, LinkError> {
        hello::host(&mut io).await?;
        let connection = Connection::new(io.compat(), config(), Mode::Client);
        let (open, requests) = mpsc::channel(16);
        let (ended, closed) = watch::channel(false);
        tokio::spawn(async move {
            drive_host(connection, requests).await;
            let _ = ended.send(true);
        });
        Ok(HostLink { open, closed })
    }

    /// Opens a stream.
    ///
    /// # Errors
    /// The session has ended.
    pub async fn stream(&self) -> Result<Stream, LinkError> {
        let (answer, stream) = oneshot::channel();
        self.open.send(answer).await.map_err(|_| LinkError::Closed)?;
        let stream = stream.await.map_err(|_| LinkError::Closed)?;
        Ok(Stream(stream.compat()))
    }

    /// Makes a call and ends its stream.
    ///
    /// # Errors
    /// The session ends before the answer, or the agent reports a failure.
    pub async fn call(&self, request: &Request) -> Result<Reply, CallError> {
        let (reply, mut stream) = self.start_call(request).await?;
        // The answer is here: a session that ends now changes nothing.
        let _ = stream.shutdown().await;
        Ok(reply)
    }

    /// Makes a call whose stream goes on after the answer as a [`crate::channel`].
    ///
    /// # Errors
    /// As [`HostLink::call`].
    pub async fn start_call(&self, request: &Request) -> Result<(Reply, Stream), CallError> {
        let mut stream = self.stream().await?;
        write_frame(&mut stream, request).await?;
        match read_frame(&mut stream).await?.ok_or(LinkError::Closed)? {
            Reply::Failed(failure) => Err(CallError::Failed(failure)),
            reply => Ok((reply, stream)),
        }
    }

    /// Returns when the session has ended.
    pub async fn closed(&self) {
        let mut closed = self.closed.clone();
        // An error means that the session's task is gone, which is the same.
        let _ = closed.wait_for(|&ended| ended).await;
    }

    /// Ends the session, unless there are other clones of it, and returns when it has ended.
    pub async fn end(self) {
        let HostLink { open, mut closed } = self;
        drop(open);
        let _ = closed.wait_for(|&ended| ended).await;
    }

    /// The session has ended.
    pub fn is_closed(&self) -> bool {
        *self.closed.borrow() || self.open.is_closed()
    }
}

/// The guest's end of a session.
#[derive(Debug)]
pub struct GuestLink {
    streams: mpsc::Receiver<yamux::Stream>,
}

impl GuestLink {
    /// Waits for a host to open a session.
    ///
    /// # Errors
    /// The byte stream fails or is closed, or the host speaks another version.
    pub async fn accept(
        mut io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<GuestLink, LinkError> {
        hello::guest(&mut io).await?;
        let mut connection = Connection::new(io.compat(), config(), Mode::Server);
        let (sender, streams) = mpsc::channel(MAX_STREAMS);
        tokio::spawn(async move {
            // Ends with the session, or when nobody takes streams any more. The connection must be polled all
            // the time for its streams to move, so it never waits for the taker.
            loop {
                let stream = tokio::select! {
                    stream = poll_fn(|cx| connection.poll_next_inbound(cx)) => stream,
                    () = sender.closed() => break,
                };
                let Some(Ok(stream)) = stream else { break };
                if sender.try_send(stream).is_err() {
                    break;
                }
            }
        });
        Ok(GuestLink { streams })
    }

    /// The next stream that the host opens; `None` when the session has ended.
    pub async fn next(&mut self) -> Option<Stream> {
        self.streams.recv().await.map(|stream| Stream(stream.compat()))
    }
}

fn config() -> Config {
    let mut config = Config::default();
    config.set_max_num_streams(MAX_STREAMS);
    // The least that yamux allows for so many streams: every stream keeps its first window of 256 KiB.
    config.set_max_connection_receive_window(Some(MAX_STREAMS * (256 << 10)));
    config
}

/// Runs a host's session until it ends or the last [`HostLink`] is gone.
async fn drive_host<T>(
    mut connection: Connection<T>,
    mut requests: mpsc::Receiver<oneshot::Sender<yamux::Stream>>,
) where
    T: futures::AsyncRead + futures::AsyncWrite + Unpin,
{
    let mut waiting: Option<oneshot::Sender<yamux::Stream>> = None;
    poll_fn(|cx| {
        loop {
            if waiting.is_none() {
                match requests.poll_recv(cx) {
                    Poll::Ready(Some(request)) => waiting = Some(request),
                    Poll::Ready(None) => return Poll::Ready(()),
                    Poll::Pending => {}
                }
            }
            if waiting.is_some() {
                match connection.poll_new_outbound(cx) {
                    Poll::Ready(Ok(stream)) => {
                        if let Some(answer) = waiting.take() {
                            // A caller that has gone away drops, and so resets, its stream.
                            let _ = answer.send(stream);
                        }
                        continue;
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => {}
                }
            }
            return match connection.poll_next_inbound(cx) {
                // The guest opens no streams; one that it opens all the same is reset by being dropped.
                Poll::Ready(Some(Ok(_))) => continue,
                Poll::Ready(Some(Err(_)) | None) => Poll::Ready(()),
                Poll::Pending => Poll::Pending,
            };
        }
    })
    .await;
    let _ = poll_fn(|cx| connection.poll_close(cx)).await;
}
