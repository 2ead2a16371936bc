//! The pod's own small service: attach, files, timeline, measurements.
//!
//! One connection is one request: a JSON line each way, and after an attach the streams. Untrusted is nobody here,
//! for the socket belongs to the owner alone; bounds are kept all the same.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper_link::Stream;
use hyper_protocol::agent::Request;
use hyper_protocol::files::Files;
use hyper_protocol::port::{PortRequest, Published};
use hyper_protocol::shim::{PodReply, PodRequest, Position, Session};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::error::ShimError;
use crate::phase::ProcessRequest;
use crate::pod::{Live, Pod};
use crate::ports::PortTaken;
use crate::process::Process;
use crate::stdio::{self, Attachment, Interest, Membership, ResumeError};
use crate::tasks;

/// Longest request.
const LINE_MAX: u64 = 8 << 20;
/// How long a client may take to send it.
const LINE_TIME: Duration = Duration::from_secs(10);
/// Connections at a time; further ones wait in the kernel.
const CONNECTIONS_MAX: usize = 512;

/// Serves connections from now on.
///
/// # Errors
/// When the listener cannot be used.
pub fn serve(pod: Arc<Pod>, listener: std::os::unix::net::UnixListener) -> io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    tokio::spawn(async move {
        while let Ok(permit) = free.clone().acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let pod = pod.clone();
                    tokio::spawn(async move {
                        if let Err(error) = answer(pod, stream).await {
                            tracing::debug!(%error, "a client of the pod's socket went away");
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: the next try will not be better at once.
                    tracing::warn!(%error, "the pod's socket does not accept");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
    Ok(())
}

async fn answer(pod: Arc<Pod>, stream: UnixStream) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let request = match timeout(LINE_TIME, read_request(&mut reader)).await {
        Ok(Ok(request)) => request,
        Ok(Err(error)) => return reply(&mut writer, &failed(ShimError::Invalid(error))).await,
        Err(_) => return Ok(()),
    };
    let answer = match request {
        PodRequest::Attach { container, exec, stdin, stdout, stderr, session } => {
            let exec = exec.unwrap_or_default();
            let interest = Interest { stdout, stderr };
            let attached = match session {
                None => attach(&pod, &container, &exec, stdin, interest).map(|attachment| (attachment, None)),
                Some(session) => join(&pod, &container, &exec, stdin, interest, &session)
                    .await
                    .map(|(attachment, position)| (attachment, Some(position))),
            };
            match attached {
                Ok((attachment, position)) => {
                    reply(&mut writer, &PodReply::Attached { tty: attachment.tty, position }).await?;
                    pod.clients.fetch_add(1, Ordering::Relaxed);
                    stdio::serve(reader, writer, attachment).await;
                    pod.clients.fetch_sub(1, Ordering::Relaxed);
                    return Ok(());
                }
                Err(error) => failed(error),
            }
        }
        PodRequest::Release { container, key } => {
            if let Ok(container) = pod.container(&container) {
                container.processes().iter().for_each(|process| process.fanout.release(&key));
            }
            PodReply::Released
        }
        PodRequest::Files(asked) => match files(&pod, asked).await {
            Ok((live, stream)) => {
                reply(&mut writer, &PodReply::Files).await?;
                carry(&live, stream, reader, writer).await;
                return Ok(());
            }
            Err(error) => failed(error),
        },
        PodRequest::Timeline => PodReply::Timeline(pod.steps().await),
        PodRequest::Inspect => PodReply::Pod(pod.inspect()),
        PodRequest::Publish { container, to, ports } => match publish(&pod, &container, to, &ports) {
            Ok(Ok(published)) => PodReply::Published(published),
            Ok(Err(taken)) => PodReply::PortTaken { what: taken.what, why: taken.why.to_string() },
            Err(error) => failed(error),
        },
        PodRequest::Interfaces(wanted) => {
            pod.set_interfaces(wanted).await.map_or_else(failed, |()| PodReply::Done)
        }
        PodRequest::Rewrite { container, files } => {
            rewrite(&pod, container, files).await.map_or_else(failed, |()| PodReply::Done)
        }
        PodRequest::Rest => pod.rest().await.map_or_else(failed, |()| PodReply::Done),
        PodRequest::Wake(identity) => pod.wake(*identity).await.map_or_else(failed, |()| PodReply::Done),
        PodRequest::Stats { container } => {
            tasks::stats(&pod, &container).await.map_or_else(failed, PodReply::Stats)
        }
        PodRequest::Processes { container } => {
            tasks::processes(&pod, &container).await.map_or_else(failed, PodReply::Processes)
        }
    };
    reply(&mut writer, &answer).await
}

/// Publishes ports of a container that there is.
fn publish(
    pod: &Pod,
    container: &str,
    to: std::net::IpAddr,
    ports: &[PortRequest],
) -> Result<Result<Vec<Published>, PortTaken>, ShimError> {
    pod.container(container)?;
    Ok(pod.ports.publish(container, to, ports))
}

/// Has the agent give text files of a container another content.
async fn rewrite(pod: &Pod, container: String, files: BTreeMap<String, String>) -> Result<(), ShimError> {
    pod.container(&container)?;
    let live = pod.live().await?;
    live.guest.repeat(&Request::Rewrite { id: container, files }).await.map(drop)
}

/// Asks the agent for work on the files of a container.
async fn files(pod: &Pod, asked: Files) -> Result<(Arc<Live>, Stream), ShimError> {
    // Only one that was made here is known to the agent by this name.
    pod.container(&asked.container)?;
    let live = pod.live().await?;
    let stream = live.guest.ask(&Request::Files(asked)).await?;
    Ok((live, stream))
}

/// Carries bytes both ways until the guest has said its last, the client has gone or the guest is.
async fn carry(
    live: &Live,
    stream: Stream,
    mut reader: BufReader<OwnedReadHalf>,
    mut writer: OwnedWriteHalf,
) {
    let (mut from_guest, mut to_guest) = tokio::io::split(stream);
    let down = async {
        let _ = copy_pieces(&mut from_guest, &mut writer).await;
        let _ = writer.shutdown().await;
    };
    let up = async {
        let _ = copy_pieces(&mut reader, &mut to_guest).await;
        let _ = to_guest.shutdown().await;
    };
    let both = async {
        tokio::pin!(down);
        tokio::select! {
            () = &mut down => {}
            () = up => down.await,
        }
    };
    tokio::select! {
        () = both => {}
        reason = live.guest.gone() => tracing::debug!(reason, "files were being copied"),
    }
}

/// Bytes carried at once: a piece with its length.
const CARRIED: usize = (64 << 10) + 4;

async fn copy_pieces(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut buffer = vec![0; CARRIED];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..count]).await?;
        to.flush().await?;
    }
}

async fn read_request(reader: &mut BufReader<OwnedReadHalf>) -> Result<PodRequest, String> {
    let mut line = Vec::new();
    let read = (&mut *reader).take(LINE_MAX).read_until(b'\n', &mut line).await;
    read.map_err(|error| format!("the request cannot be read: {error}"))?;
    if line.last() != Some(&b'\n') {
        return Err(format!("a request is a line of at most {LINE_MAX} bytes"));
    }
    serde_json::from_slice(&line).map_err(|error| format!("the request is not valid: {error}"))
}

fn attach(
    pod: &Pod,
    container: &str,
    exec: &str,
    stdin: bool,
    interest: Interest,
) -> Result<Attachment, ShimError> {
    let process = pod.container(container)?.process(exec)?;
    process.admit(ProcessRequest::Attach)?;
    let pieces = process.fanout.attach(of_process(&process, interest));
    let pieces = pieces.ok_or_else(|| closed(&process))?;
    Ok(Attachment {
        tty: process.streams.tty,
        past: Vec::new(),
        pieces: Some(pieces),
        input: (stdin && process.input.is_open()).then(|| process.input.clone()),
        input_once: process.input_once,
        membership: None,
    })
}

/// Attaches a client that can come back, or that does. One that does is served after the end of the process as well:
/// it may lack the last of the output.
async fn join(
    pod: &Pod,
    container: &str,
    exec: &str,
    stdin: bool,
    interest: Interest,
    session: &Session,
) -> Result<(Attachment, Position), ShimError> {
    if !stdio::is_key(&session.key) {
        return Err(ShimError::Invalid(format!("{:?} is no key of a session", session.key)));
    }
    let process = pod.container(container)?.process(exec)?;
    let interest = of_process(&process, interest);
    let joined = match session.received {
        None => {
            process.admit(ProcessRequest::Attach)?;
            process.fanout.join(interest, &session.key).ok_or_else(|| closed(&process))?
        }
        Some(received) => {
            process.fanout.resume(interest, &session.key, received).map_err(|error| match error {
                ResumeError::Unknown => ShimError::NotFound(format!("{}: {error}", process.name())),
                other => ShimError::WrongState(format!("{}: {other}", process.name())),
            })?
        }
    };
    let position = Position { output: joined.position, input: joined.session.take_over().await };
    let membership =
        Membership { fanout: process.fanout.clone(), session: joined.session, connection: joined.connection };
    let attachment = Attachment {
        tty: process.streams.tty,
        past: joined.past,
        pieces: joined.pieces,
        input: (stdin && process.input.is_open()).then(|| process.input.clone()),
        input_once: process.input_once,
        membership: Some(membership),
    };
    Ok((attachment, position))
}

/// With a terminal there is one output.
fn of_process(process: &Process, interest: Interest) -> Interest {
    Interest { stderr: interest.stderr && !process.streams.tty, ..interest }
}

fn closed(process: &Process) -> ShimError {
    ShimError::WrongState(format!(
        "{} cannot be attached to: it has ended or has too many clients",
        process.name()
    ))
}

fn failed(error: ShimError) -> PodReply {
    let not_found = matches!(error, ShimError::NotFound(_));
    PodReply::Failed { message: error.to_string(), not_found }
}

async fn reply(writer: &mut OwnedWriteHalf, reply: &PodReply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    writer.write_all(&line).await
}
