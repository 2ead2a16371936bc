//! Work on the files of a container.
//!
//! A child of the agent does it: it may wait for disks and for its peer as long as it likes, and for paths of a
//! container it enters the container's mount namespace, where a symbolic link leads no further than the container's root.
//! It speaks the whole conversation ([`hyper_protocol::files`]) itself, over a socket; the agent passes bytes on.

mod child;
mod diff;
mod stream;

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::path::PathBuf;
use std::rc::Rc;

use hyper_link::{LinkError, Stream};
use hyper_protocol::files::{FileWork, PIECE_MAX};
use hyper_sys::child::{PidNamespace, fork, kill};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{Notify, Semaphore};

use crate::failure::{Attempt, Failed};
use crate::reaper::Reaper;
use crate::session::refuse;

/// Most pieces of work at once in a guest; further ones wait.
const MAX_WORKS: usize = 16;

/// `SIGKILL`.
const KILL: i32 = 9;

/// Where a container's files are.
pub(crate) struct Place {
    /// A process in its mount namespace.
    pub(crate) process: Rc<OwnedFd>,
    /// Its root filesystem without what the container has mounted on it.
    pub(crate) root: PathBuf,
    /// What its writable layer holds.
    pub(crate) upper: PathBuf,
    /// Its read-only layers, bottom first.
    pub(crate) lower: Vec<PathBuf>,
}

/// Work that goes on in a container.
#[derive(Default)]
pub(crate) struct Works {
    count: Cell<usize>,
    ending: Cell<bool>,
    end: Notify,
    ended: Notify,
}

impl Works {
    /// Ends what goes on, and lets nothing begin: the container is being taken apart.
    pub(crate) async fn end(&self) {
        self.ending.set(true);
        self.end.notify_waiters();
        while self.count.get() > 0 {
            self.ended.notified().await;
        }
    }
}

struct Counted<'a>(&'a Works);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        self.0.ended.notify_one();
    }
}

/// How much work may go on at once.
pub(crate) fn limit() -> Semaphore {
    Semaphore::new(MAX_WORKS)
}

/// Has a child do the work and carries its conversation.
pub(crate) async fn serve(
    works: &Works,
    limit: &Semaphore,
    reaper: &Reaper,
    place: &Place,
    work: &FileWork,
    stream: Stream,
) -> Result<(), LinkError> {
    let _turn = limit.acquire().await;
    if works.ending.get() {
        let failed = Failed::wrong_state("the container is being deleted");
        return refuse(stream, failed).await;
    }
    works.count.set(works.count.get() + 1);
    let _counted = Counted(works);
    let (pid, socket) = match begin(place, work) {
        Ok(begun) => begun,
        Err(failed) => return refuse(stream, failed).await,
    };
    let ended = reaper.register(pid);
    let carried = async {
        let (mut from_host, mut to_host) = tokio::io::split(stream);
        let (mut from_child, mut to_child) = socket.into_split();
        let down = async {
            // A child that ended before it had read everything resets its socket behind its last word.
            let _ = copy_pieces(&mut from_child, &mut to_host).await;
            let _ = to_host.shutdown().await;
        };
        let up = async {
            let _ = copy_pieces(&mut from_host, &mut to_child).await;
            let _ = to_child.shutdown().await;
        };
        let both = async {
            tokio::pin!(down);
            tokio::select! {
                () = &mut down => {}
                () = up => down.await,
            }
        };
        both.await;
    };
    tokio::select! {
        () = carried => {}
        () = works.end.notified() => {}
    }
    // Its number is its own until it has been collected, and that is told by `ended`.
    let _ = kill(pid, KILL);
    let _ = ended.await;
    Ok(())
}

/// Bytes passed on at once: a piece with its length.
const CARRIED: usize = PIECE_MAX + 4;

async fn copy_pieces(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> std::io::Result<()> {
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

fn begin(place: &Place, work: &FileWork) -> Result<(u32, UnixStream), Failed> {
    let failed = || "make the socket to the child".to_owned();
    let (ours, theirs) = StdStream::pair().attempt(failed)?;
    ours.set_nonblocking(true).attempt(failed)?;
    let process: BorrowedFd<'_> = place.process.as_fd();
    let pid = fork(PidNamespace::Own, &[theirs.as_fd(), process], || child::run(place, work, &theirs))
        .attempt(|| "fork".to_owned())?;
    let ours = UnixStream::from_std(ours).attempt(failed);
    match ours {
        Ok(ours) => Ok((pid, ours)),
        Err(failed) => {
            let _ = kill(pid, KILL);
            Err(failed)
        }
    }
}
