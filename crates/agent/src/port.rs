//! The port of the virtio console that is the link to the host.
//!
//! While the host's end is closed the port reads as ended and polls as hung up, for as long as that lasts. The
//! runtime takes a hang-up for final, so the port is watched through an epoll instance of its own for each
//! direction, edge by edge: those instances are readable when something has changed, and never hang up.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

use crate::failure::{Attempt, Failed};
use crate::uevent::until;

/// Name that the host gives the port.
const NAME: &str = "hyper.link";

/// How long the port may take to appear after boot.
const PATIENCE: Duration = Duration::from_secs(30);

/// The open port. Clones share it; one session at a time should use it.
#[derive(Debug, Clone)]
pub(crate) struct Port {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    port: OwnedFd,
    readable: AsyncFd<OwnedFd>,
    writable: AsyncFd<OwnedFd>,
}

impl Port {
    /// Waits for the port to appear and opens it.
    pub(crate) async fn open() -> Result<Port, Failed> {
        let mut node = None;
        until(PATIENCE, || {
            node = find();
            node.is_some()
        })
        .await;
        let node = node.ok_or_else(|| Failed::not_found(format!("no virtio port is named {NAME}")))?;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let port = open(&node, flags, Mode::empty()).attempt(|| format!("open {}", node.display()))?;
        Port::watch(port).attempt(|| "watch the link's port".to_owned())
    }

    fn watch(port: OwnedFd) -> io::Result<Port> {
        let readable = watch(&port, EventFlags::IN)?;
        let writable = watch(&port, EventFlags::OUT)?;
        Ok(Port { shared: Arc::new(Shared { port, readable, writable }) })
    }

    /// Waits until the host has opened its end and sent something.
    pub(crate) async fn connected(&self) -> io::Result<()> {
        loop {
            let mut guard = self.shared.readable.readable().await?;
            drain(&self.shared.readable)?;
            let mut state = [PollFd::new(&self.shared.port, PollFlags::IN)];
            poll(&mut state, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
            let events = state[0].revents();
            if events.contains(PollFlags::IN) && !events.contains(PollFlags::HUP) {
                return Ok(());
            }
            guard.clear_ready();
        }
    }
}

/// An epoll instance that is readable whenever the port's state for one direction has changed for the better.
fn watch(port: &OwnedFd, direction: EventFlags) -> io::Result<AsyncFd<OwnedFd>> {
    let watcher = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&watcher, port, EventData::new_u64(0), direction | EventFlags::ET)?;
    hyper_sys::watch::watch(watcher, Interest::READABLE)
}

/// Takes the change that made the instance readable, so that the next one does so again. Must come before
/// the attempt to read or write, or a change between the two would be lost.
fn drain(watcher: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let mut events = Vec::with_capacity(1);
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    epoll::wait(watcher.get_ref().as_fd(), rustix::buffer::spare_capacity(&mut events), Some(&now))?;
    Ok(())
}

/// Tries until it does not block, waiting for changes.
fn attempt<T>(
    watcher: &AsyncFd<OwnedFd>,
    cx: &mut Context<'_>,
    mut operation: impl FnMut() -> Result<T, Errno>,
) -> Poll<io::Result<T>> {
    loop {
        let mut guard = ready!(watcher.poll_read_ready(cx))?;
        drain(watcher)?;
        match operation() {
            Err(Errno::AGAIN) => guard.clear_ready(),
            Err(Errno::INTR) => {}
            outcome => return Poll::Ready(outcome.map_err(io::Error::from)),
        }
    }
}

impl AsyncRead for Port {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let shared = &self.shared;
        let count = ready!(attempt(&shared.readable, cx, || {
            rustix::io::read(&shared.port, buffer.initialize_unfilled())
        }))?;
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Port {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let shared = &self.shared;
        attempt(&shared.writable, cx, || rustix::io::write(&shared.port, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Device node of the port with our name.
fn find() -> Option<PathBuf> {
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?;
    ports
        .flatten()
        .find(|port| fs::read_to_string(port.path().join("name")).is_ok_and(|name| name.trim() == NAME))
        .map(|port| Path::new("/dev").join(port.file_name()))
        .filter(|node| node.exists())
}
