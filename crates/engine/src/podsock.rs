//! The shim's small service of its own, on the pod's socket.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use hyper_protocol::agent::{Process, Stats};
use hyper_protocol::files::Files;
use hyper_protocol::port::{PortRequest, Published};
use hyper_protocol::shim::{
    Identity, Phase, PodReply, PodRequest, PodState, Position, Session, TapInterface, files,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::error::{EngineError, Kind, Result};

/// How long a shim may take to answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How long a resting VM may take to be another pod: measured 8 to 54 ms. A start waits for it, and can do without.
const WAKING: Duration = Duration::from_secs(10);

/// Most bytes of an answer.
const REPLY_MAX: usize = 4 << 20;

/// Which streams of a process to attach to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AttachStreams {
    /// Send input.
    pub stdin: bool,
    /// Receive standard output, or all of the terminal.
    pub stdout: bool,
    /// Receive standard error.
    pub stderr: bool,
}

/// Attaches to a process; the stream then carries its output and, the other way, its input, which is framed with a
/// session.
pub(crate) async fn attach(
    dir: &Path,
    container: &str,
    exec: Option<&str>,
    streams: AttachStreams,
    session: Option<Session>,
) -> Result<(UnixStream, Option<Position>)> {
    let request = PodRequest::Attach {
        container: container.to_owned(),
        exec: exec.map(str::to_owned),
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
        session,
    };
    match ask(dir, &request).await? {
        (PodReply::Attached { position, .. }, stream) => Ok((stream, position)),
        _ => Err(unexpected()),
    }
}

/// Has the shim forget a session.
pub(crate) async fn release(dir: &Path, container: &str, key: &str) -> Result<()> {
    let request = PodRequest::Release { container: container.to_owned(), key: key.to_owned() };
    match ask(dir, &request).await? {
        (PodReply::Released, _) => Ok(()),
        _ => Err(unexpected()),
    }
}

/// When the pod's steps began and ended.
pub(crate) async fn timeline(dir: &Path) -> Result<Vec<Phase>> {
    match ask(dir, &PodRequest::Timeline).await? {
        (PodReply::Timeline(phases), _) => Ok(phases),
        _ => Err(unexpected()),
    }
}

/// What a container uses.
pub(crate) async fn stats(dir: &Path, container: &str) -> Result<Stats> {
    match ask(dir, &PodRequest::Stats { container: container.to_owned() }).await? {
        (PodReply::Stats(stats), _) => Ok(*stats),
        _ => Err(unexpected()),
    }
}

/// The processes of a container.
pub(crate) async fn processes(dir: &Path, container: &str) -> Result<Vec<Process>> {
    match ask(dir, &PodRequest::Processes { container: container.to_owned() }).await? {
        (PodReply::Processes(processes), _) => Ok(processes),
        _ => Err(unexpected()),
    }
}

/// Has the agent asked to work on files; its answer and what follows come on the stream.
pub(crate) async fn files(dir: &Path, asked: &Files) -> Result<UnixStream> {
    match ask(dir, &PodRequest::Files(asked.clone())).await? {
        (PodReply::Files, stream) => Ok(stream),
        _ => Err(unexpected()),
    }
}

/// The pod's VM.
pub(crate) async fn inspect(dir: &Path) -> Result<PodState> {
    match ask(dir, &PodRequest::Inspect).await? {
        (PodReply::Pod(state), _) => Ok(state),
        _ => Err(unexpected()),
    }
}

/// Publishes ports of a container that lead to the pod at `to`; else which is not to be had, and why.
pub(crate) async fn publish(
    dir: &Path,
    container: &str,
    to: std::net::IpAddr,
    ports: Vec<PortRequest>,
) -> Result<Result<Vec<Published>, (Published, String)>> {
    let request = PodRequest::Publish { container: container.to_owned(), to, ports };
    match ask(dir, &request).await? {
        (PodReply::Published(published), _) => Ok(Ok(published)),
        (PodReply::PortTaken { what, why }, _) => Ok(Err((what, why))),
        _ => Err(unexpected()),
    }
}

/// Stops a pod's processors until it is woken.
pub(crate) async fn rest(dir: &Path) -> Result<()> {
    match ask(dir, &PodRequest::Rest).await? {
        (PodReply::Done, _) => Ok(()),
        _ => Err(unexpected()),
    }
}

/// Lets a resting pod run, as another one.
pub(crate) async fn wake(dir: &Path, identity: Identity) -> Result<()> {
    let request = PodRequest::Wake(Box::new(identity));
    let answer = tokio::time::timeout(WAKING, ask(dir, &request)).await;
    match answer.map_err(|_| EngineError::new(Kind::System, "a resting VM does not wake up"))?? {
        (PodReply::Done, _) => Ok(()),
        _ => Err(unexpected()),
    }
}

/// Makes these the interfaces of a running pod.
pub(crate) async fn set_interfaces(dir: &Path, interfaces: Vec<TapInterface>) -> Result<()> {
    match ask(dir, &PodRequest::Interfaces(interfaces)).await? {
        (PodReply::Done, _) => Ok(()),
        _ => Err(unexpected()),
    }
}

/// Gives text files of a container another content, where it has not changed them.
pub(crate) async fn rewrite(dir: &Path, container: &str, files: BTreeMap<String, String>) -> Result<()> {
    match ask(dir, &PodRequest::Rewrite { container: container.to_owned(), files }).await? {
        (PodReply::Done, _) => Ok(()),
        _ => Err(unexpected()),
    }
}

fn unexpected() -> EngineError {
    EngineError::new(Kind::System, "the shim answered something else than asked")
}

/// Sends a request and reads the line that answers it; what comes after the line stays in the stream.
async fn ask(dir: &Path, request: &PodRequest) -> Result<(PodReply, UnixStream)> {
    let path = dir.join(files::POD_SOCKET);
    let talk = async {
        let mut stream = UnixStream::connect(&path).await?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let reply = read_line(&mut stream).await?;
        std::io::Result::Ok((reply, stream))
    };
    let (line, stream) = tokio::time::timeout(TIMEOUT, talk)
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
        .map_err(|error| EngineError::system(format!("cannot ask the shim at {}", path.display()), error))?;
    match serde_json::from_slice(&line) {
        Ok(PodReply::Failed { message, not_found }) => {
            Err(EngineError::new(if not_found { Kind::NotFound } else { Kind::System }, message))
        }
        Ok(reply) => Ok((reply, stream)),
        Err(error) => Err(EngineError::system("the shim's answer cannot be read", error)),
    }
}

/// Reads up to a newline and not a byte more: looks at what has come, then takes what belongs to the line.
async fn read_line(stream: &mut UnixStream) -> std::io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut window = [0_u8; 4096];
    loop {
        let seen = {
            let peek = || {
                rustix::net::recv(&*stream, &mut window[..], rustix::net::RecvFlags::PEEK)
                    .map_err(std::io::Error::from)
            };
            stream.async_io(tokio::io::Interest::READABLE, peek).await?.1
        };
        if seen == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let end = window[..seen].iter().position(|byte| *byte == b'\n');
        let take = end.map_or(seen, |at| at + 1);
        stream.read_exact(&mut window[..take]).await?;
        line.extend_from_slice(&window[..take]);
        if end.is_some() {
            return Ok(line);
        }
        if line.len() > REPLY_MAX {
            return Err(std::io::Error::other("the answer is too long"));
        }
    }
}
