//! Standard streams of a process, between its pipes or terminal and channels on the link.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use hyper_link::Stream;
use hyper_link::channel::{Receiver, Sender};
use hyper_protocol::channel::MAX_DATA;
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinHandle, spawn_local};

use crate::failure::{Attempt, Failed};

/// Bytes read from a process at once: what an emulated serial port takes in a breath, and small enough for many
/// streams.
const PIECE: usize = 16 << 10;

/// One end of a pipe or terminal, non-blocking, in the runtime's care.
#[derive(Debug, Clone)]
pub(crate) struct End(Rc<AsyncFd<OwnedFd>>);

impl End {
    pub(crate) fn new(fd: OwnedFd, interest: Interest) -> Result<End, Failed> {
        let failed = || "watch a stream of the process".to_owned();
        rustix::io::ioctl_fionbio(&fd, true).attempt(failed)?;
        Ok(End(Rc::new(hyper_sys::watch::watch(fd, interest).attempt(failed)?)))
    }

    pub(crate) fn descriptor(&self) -> &OwnedFd {
        self.0.get_ref()
    }

    async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut *buffer)?)).await
    }

    async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.async_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, bytes)?)).await
    }
}

/// Output of a process: kept until the shim has it, read no faster than the shim takes it.
#[derive(Debug, Default)]
pub(crate) struct Output {
    sender: Rc<Sender>,
    pump: RefCell<Option<AbortHandle>>,
}

impl Output {
    /// Begins to read.
    pub(crate) fn connect(&self, end: End) {
        let sender = Rc::clone(&self.sender);
        let pump = spawn_local(async move {
            let mut buffer = vec![0; PIECE];
            loop {
                // No byte leaves the pipe before there is room for it.
                let room = sender.room().await.min(PIECE);
                match end.read(&mut buffer[..room]).await {
                    Ok(count @ 1..) => sender.push(&buffer[..count]).await,
                    // A terminal ends with EIO when its last process has closed it.
                    Ok(0) | Err(_) => break,
                }
            }
            sender.finish();
        });
        *self.pump.borrow_mut() = Some(pump.abort_handle());
    }

    /// There will be no output: the process was never started.
    pub(crate) fn finish(&self) {
        self.sender.finish();
    }

    /// The channel that the shim reads.
    pub(crate) fn sender(&self) -> Rc<Sender> {
        Rc::clone(&self.sender)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(pump) = self.pump.get_mut() {
            pump.abort();
        }
        self.sender.finish();
    }
}

/// Input of a process. What the shim sends is taken into a queue of at most [`MAX_DATA`] bytes, which outlives
/// sessions, and written from it as the process reads.
#[derive(Debug)]
pub(crate) struct Input {
    receiver: Rc<tokio::sync::Mutex<Receiver>>,
    queue: Rc<Queue>,
    /// The newest session's reader and the writer into the process.
    reader: RefCell<Option<JoinHandle<()>>>,
    writer: RefCell<Option<AbortHandle>>,
}

#[derive(Debug, Default)]
struct Queue {
    state: RefCell<Queued>,
    /// One notification wakes enough: the reader waits only while there are bytes, the writer only while there
    /// are none.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Queued {
    bytes: VecDeque<u8>,
    ended: bool,
    /// The process reads no more: what comes is dropped, as a broken pipe would.
    broken: bool,
}

impl Queue {
    /// Takes a piece as a whole, when the queue is empty: cancelled before, it has taken nothing.
    async fn push(&self, piece: &[u8]) {
        loop {
            {
                let mut state = self.state.borrow_mut();
                if state.broken {
                    return;
                }
                if state.bytes.is_empty() {
                    state.bytes.extend(piece);
                    break;
                }
            }
            self.changed.notified().await;
        }
        self.changed.notify_one();
    }

    /// Waits for bytes and copies some; `None` at the end.
    async fn peek(&self) -> Option<Vec<u8>> {
        loop {
            {
                let state = self.state.borrow();
                if !state.bytes.is_empty() {
                    return Some(state.bytes.iter().take(PIECE).copied().collect());
                }
                if state.ended {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }

    fn change(&self, change: impl FnOnce(&mut Queued)) {
        change(&mut self.state.borrow_mut());
        self.changed.notify_one();
    }
}

impl Input {
    pub(crate) fn new() -> Input {
        Input {
            receiver: Rc::default(),
            queue: Rc::default(),
            reader: RefCell::default(),
            writer: RefCell::default(),
        }
    }

    /// Begins to write into the process. The end of input closes a pipe; a terminal has no such end and stays
    /// open, as with containerd.
    pub(crate) fn connect(&self, end: End) {
        let queue = Rc::clone(&self.queue);
        let writer = spawn_local(async move {
            while let Some(piece) = queue.peek().await {
                let mut rest = piece.as_slice();
                while !rest.is_empty() {
                    match end.write(rest).await {
                        Ok(count) => {
                            rest = &rest[count..];
                            queue.change(|state| drop(state.bytes.drain(..count)));
                        }
                        Err(error) if error.kind() == ErrorKind::Interrupted => {}
                        Err(_) => {
                            queue.change(|state| {
                                state.broken = true;
                                state.bytes.clear();
                            });
                            return;
                        }
                    }
                }
            }
        });
        *self.writer.borrow_mut() = Some(writer.abort_handle());
    }

    /// The process has ended or will never start: input goes nowhere from now on.
    pub(crate) fn discard(&self) {
        if let Some(writer) = self.writer.borrow_mut().take() {
            writer.abort();
        }
        self.queue.change(|state| {
            state.broken = true;
            state.bytes.clear();
        });
    }

    /// Ends the reading of an older session and tells where a newer one goes on.
    pub(crate) async fn offset(&self) -> u64 {
        let older = self.reader.borrow_mut().take();
        if let Some(older) = older {
            older.abort();
            // Aborted or ended, either is fine.
            let _ = older.await;
        }
        self.receiver.lock().await.offset()
    }

    /// Takes input from `stream`, to be called right after [`Input::offset`].
    pub(crate) fn read(&self, stream: Stream) {
        let (receiver, queue) = (Rc::clone(&self.receiver), Rc::clone(&self.queue));
        let reader = spawn_local(async move {
            let mut receiver = receiver.lock().await;
            let sink = async |piece: &[u8]| {
                queue.push(piece).await;
                Ok(())
            };
            // A stream that breaks is followed by another one, which asks for the offset.
            let _ = receiver.run(stream, sink).await;
            if receiver.is_ended() {
                queue.change(|state| state.ended = true);
            }
        });
        if let Some(older) = self.reader.borrow_mut().replace(reader) {
            older.abort();
        }
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        if let Some(reader) = self.reader.get_mut() {
            reader.abort();
        }
        if let Some(writer) = self.writer.get_mut() {
            writer.abort();
        }
    }
}

/// The three streams of a process before it has them: the agent's ends, and the process's.
pub(crate) struct Pipes {
    pub(crate) stdin: Option<(OwnedFd, OwnedFd)>,
    pub(crate) stdout: (OwnedFd, OwnedFd),
    pub(crate) stderr: (OwnedFd, OwnedFd),
}

impl Pipes {
    /// Makes pipes; of each pair the first is the reading end.
    pub(crate) fn new(stdin: bool) -> Result<Pipes, Failed> {
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
        let make = || -> Result<Pipes, Errno> {
            Ok(Pipes { stdin: if stdin { Some(pipe()?) } else { None }, stdout: pipe()?, stderr: pipe()? })
        };
        make().attempt(|| "make the pipes of the process".to_owned())
    }
}

const _: () = assert!(PIECE <= MAX_DATA);
