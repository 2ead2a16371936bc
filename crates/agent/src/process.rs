//! A process that the agent has made or will make: its phases, its streams and its end.

use std::cell::{Cell, RefCell};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use hyper_protocol::agent::{Exit, Failure};
use hyper_sys::child::{PidNamespace, fork, kill};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags, SocketType,
    recvmsg, socketpair,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::spawn_local;

use crate::cgroup::Cgroup;
use crate::container::launch::{FAILED, Launch, MAX_MESSAGE, Marks, Place, READY, Streams};
use crate::failure::{Attempt, Failed};
use crate::reaper::{End as Ended, Reaper};
use crate::stdio::{End, Input, Output, Pipes};
use crate::steps;

/// How long the way to the program may take: mounts of a container on a slow disk, but not forever.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the agent knows of a process.
#[derive(Debug)]
pub(crate) struct Process {
    launch: Launch,
    cgroup: Rc<Cgroup>,
    phase: RefCell<Phase>,
    exit: watch::Sender<Option<Exit>>,
    /// It is a container's first process in a PID namespace that is not the container's: the kernel does not end the others
    /// with it.
    leader: Cell<bool>,
    /// When its program began, by [`steps::now`].
    executed_ns: Cell<u64>,
    pub(crate) stdout: Output,
    /// `None` with a terminal.
    pub(crate) stderr: Option<Output>,
    /// `None` when standard input is not kept open.
    pub(crate) stdin: Option<Input>,
    terminal: RefCell<Option<End>>,
}

#[derive(Debug)]
enum Phase {
    /// Nothing has been made.
    Defined,
    /// The child is on its way to being ready.
    Preparing,
    /// The child waits for the word to execute.
    Ready { child: Child, socket: Socket },
    /// The child has the word; whether it has executed is not known yet.
    Starting { child: Child },
    /// The program runs.
    Running { child: Child },
    /// The child ended while it was not known yet whether it had executed.
    EndedEarly { exit: Exit },
    /// It has ended, or its way to the program has failed.
    Over,
}

/// A child that has not been collected, so that its number is its own.
#[derive(Debug)]
struct Child {
    pid: u32,
    pidfd: Rc<OwnedFd>,
}

type Socket = AsyncFd<OwnedFd>;

impl Process {
    /// A process of the container of `cgroup`, with standard input kept open if `stdin`.
    pub(crate) fn new(launch: Launch, cgroup: Rc<Cgroup>, stdin: bool) -> Process {
        let terminal = launch.terminal();
        Process {
            launch,
            cgroup,
            phase: RefCell::new(Phase::Defined),
            exit: watch::Sender::new(None),
            leader: Cell::new(false),
            executed_ns: Cell::new(0),
            stdout: Output::default(),
            stderr: (!terminal).then(Output::default),
            stdin: stdin.then(Input::new),
            terminal: RefCell::default(),
        }
    }

    /// Forks the child and waits until it is ready to execute.
    pub(crate) async fn prepare(
        self: &Rc<Self>,
        place: Place<'_>,
        namespace: PidNamespace<'_>,
        reaper: &Reaper,
    ) -> Result<(), Failed> {
        if !matches!(*self.phase.borrow(), Phase::Defined) {
            return Err(Failed::wrong_state("the process has been started already"));
        }
        self.leader.set(matches!((&place, &namespace), (Place::New { .. }, PidNamespace::Of(_))));
        self.phase.replace(Phase::Preparing);
        let outcome = self.prepare_child(&place, namespace, reaper).await;
        if outcome.is_err() {
            self.give_up();
        }
        outcome
    }

    async fn prepare_child(
        self: &Rc<Self>,
        place: &Place<'_>,
        namespace: PidNamespace<'_>,
        reaper: &Reaper,
    ) -> Result<(), Failed> {
        let (socket, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .attempt(|| "make the socket to the process".to_owned())?;
        let cgroup = self.cgroup.entry()?;
        let pipes = if self.launch.terminal() { None } else { Some(Pipes::new(self.stdin.is_some())?) };
        let start = steps::now();
        let pid = self.fork(place, namespace, &cgroup, &theirs, pipes.as_ref())?;
        drop(theirs);
        steps::since("fork", start);
        self.watch(pid, reaper);
        let child = Child { pid, pidfd: Rc::new(open_pidfd(pid)?) };
        let socket = watch_socket(socket)?;
        let message = tokio::time::timeout(PATIENCE, receive(&socket)).await;
        let terminal = match message {
            Ok(Ok(Message::Ready(terminal, marks))) => {
                marks.tell();
                terminal
            }
            Ok(Ok(Message::Failed(failure))) => return Err(failure.into()),
            Ok(Ok(Message::Closed)) => return Err(Failed::wrong_state("the child ended without a word")),
            Ok(Err(failed)) => return Err(failed),
            Err(_) => {
                let _ = kill(pid, KILL);
                return Err(Failed::wrong_state("the child was not ready in time"));
            }
        };
        self.connect(pipes, terminal)?;
        if matches!(*self.phase.borrow(), Phase::Preparing) {
            self.phase.replace(Phase::Ready { child, socket });
            Ok(())
        } else {
            Err(Failed::wrong_state("the child ended before its start"))
        }
    }

    fn fork(
        &self,
        place: &Place<'_>,
        namespace: PidNamespace<'_>,
        cgroup: &OwnedFd,
        parent: &OwnedFd,
        pipes: Option<&Pipes>,
    ) -> Result<u32, Failed> {
        let streams = match pipes {
            None => Streams::Terminal,
            Some(pipes) => Streams::Pipes {
                stdin: pipes.stdin.as_ref().map(|(reading, _)| reading.as_fd()),
                stdout: pipes.stdout.1.as_fd(),
                stderr: pipes.stderr.1.as_fd(),
            },
        };
        let mut keep: Vec<BorrowedFd<'_>> = vec![cgroup.as_fd(), parent.as_fd()];
        if let Streams::Pipes { stdin, stdout, stderr } = &streams {
            keep.extend([*stdin, Some(*stdout), Some(*stderr)].into_iter().flatten());
        }
        if let Place::Beside(process) = place {
            keep.push(*process);
        }
        fork(namespace, &keep, || self.launch.run(place, &streams, cgroup.as_fd(), parent))
            .attempt(|| "fork".to_owned())
    }

    /// Follows the child to its end.
    fn watch(self: &Rc<Self>, pid: u32, reaper: &Reaper) {
        let ended = reaper.register(pid);
        let process = Rc::clone(self);
        let kills = self.cgroup.oom_kills();
        spawn_local(async move {
            if let Ok(ended) = ended.await {
                process.ended(ended, kills);
            }
        });
    }

    fn ended(&self, ended: Ended, kills_before: u64) {
        if let Some(stdin) = &self.stdin {
            stdin.discard();
        }
        if self.leader.get() {
            // One that cannot be killed now is when the container is deleted.
            let _ = self.cgroup.kill();
        }
        let oom_killed = self.cgroup.oom_kills() > kills_before;
        let exit = Exit { code: ended.code, unix_time_ns: ended.unix_time_ns, oom_killed };
        match self.phase.replace(Phase::Over) {
            Phase::Running { .. } => {
                steps::since("program", self.executed_ns.get());
                self.exit.send_replace(Some(exit));
            }
            Phase::Starting { .. } => {
                self.phase.replace(Phase::EndedEarly { exit });
            }
            _ => self.give_up(),
        }
    }

    /// It will never run, and whoever waits for its output or its end is told so.
    fn give_up(&self) {
        self.phase.replace(Phase::Over);
        self.finish_outputs();
        if let Some(stdin) = &self.stdin {
            stdin.discard();
        }
        self.exit.send_modify(|_| {});
    }

    fn finish_outputs(&self) {
        self.stdout.finish();
        if let Some(stderr) = &self.stderr {
            stderr.finish();
        }
    }

    fn connect(&self, pipes: Option<Pipes>, terminal: Option<OwnedFd>) -> Result<(), Failed> {
        match (pipes, terminal) {
            (Some(pipes), _) => {
                self.stdout.connect(End::new(pipes.stdout.0, Interest::READABLE)?);
                if let Some(stderr) = &self.stderr {
                    stderr.connect(End::new(pipes.stderr.0, Interest::READABLE)?);
                }
                if let (Some(stdin), Some((_, writing))) = (&self.stdin, pipes.stdin) {
                    stdin.connect(End::new(writing, Interest::WRITABLE)?);
                }
            }
            (None, Some(terminal)) => {
                let end = End::new(terminal, Interest::READABLE | Interest::WRITABLE)?;
                self.stdout.connect(end.clone());
                if let Some(stdin) = &self.stdin {
                    stdin.connect(end.clone());
                }
                *self.terminal.borrow_mut() = Some(end);
            }
            (None, None) => return Err(Failed::wrong_state("the child sent no terminal")),
        }
        Ok(())
    }

    /// Gives the word to execute; returns the process's number when its program runs.
    pub(crate) async fn start(&self) -> Result<u32, Failed> {
        let (child, socket) = match self.phase.replace(Phase::Preparing) {
            Phase::Ready { child, socket } => (child, socket),
            other => {
                let words = match &other {
                    Phase::Over => "the process has ended",
                    Phase::Running { .. } => "the process is running already",
                    _ => "the process is not ready to start",
                };
                self.phase.replace(other);
                return Err(Failed::wrong_state(words));
            }
        };
        let pid = child.pid;
        let start = steps::now();
        self.phase.replace(Phase::Starting { child });
        let message = match rustix::net::send(&socket, &[READY], SendFlags::NOSIGNAL) {
            Ok(_) => receive(&socket).await,
            Err(error) => Err(error).attempt(|| "give the word to start".to_owned()),
        };
        let failed = match message {
            Ok(Message::Closed) => {
                self.executed_ns.set(steps::since("execute program", start));
                self.executed();
                return Ok(pid);
            }
            Ok(Message::Failed(failure)) => failure.into(),
            Ok(Message::Ready(..)) => Failed::wrong_state("the child spoke out of turn"),
            Err(failed) => failed,
        };
        self.give_up();
        Err(failed)
    }

    /// The program runs, or has even ended already.
    fn executed(&self) {
        match self.phase.replace(Phase::Over) {
            Phase::Starting { child } => {
                self.phase.replace(Phase::Running { child });
            }
            Phase::EndedEarly { exit } => {
                self.exit.send_replace(Some(exit));
            }
            _ => {}
        }
    }

    /// The process's number while it is there to be signalled: ready or running.
    pub(crate) fn pid(&self) -> Option<u32> {
        match &*self.phase.borrow() {
            Phase::Ready { child, .. } | Phase::Starting { child } | Phase::Running { child } => {
                Some(child.pid)
            }
            _ => None,
        }
    }

    /// Its program runs, or is about to.
    pub(crate) fn is_running(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Starting { .. } | Phase::Running { .. })
    }

    /// A descriptor of the process, while it runs.
    pub(crate) fn pidfd(&self) -> Result<Rc<OwnedFd>, Failed> {
        match &*self.phase.borrow() {
            Phase::Starting { child } | Phase::Running { child } => Ok(Rc::clone(&child.pidfd)),
            _ => Err(Failed::wrong_state("the process is not running")),
        }
    }

    /// A descriptor of the process from when it is ready to start: its namespaces are the container's.
    pub(crate) fn inside(&self) -> Result<Rc<OwnedFd>, Failed> {
        match &*self.phase.borrow() {
            Phase::Ready { child, .. } => Ok(Rc::clone(&child.pidfd)),
            _ => self.pidfd(),
        }
    }

    /// How it ended, once it has.
    pub(crate) fn exit(&self) -> Option<Exit> {
        self.exit.borrow().clone()
    }

    /// Waits for its end.
    pub(crate) async fn wait(&self) -> Result<Exit, Failed> {
        let mut exit = self.exit.subscribe();
        loop {
            if let Some(exit) = exit.borrow_and_update().clone() {
                return Ok(exit);
            }
            if matches!(*self.phase.borrow(), Phase::Over) {
                return Err(Failed::wrong_state("the process was never started"));
            }
            if exit.changed().await.is_err() {
                return Err(Failed::not_found("the process has been forgotten"));
            }
        }
    }

    /// Ends a child that waits for its start.
    pub(crate) fn abandon(&self) {
        if let Some(pid) = self.pid() {
            // One that has just ended needs no signal.
            let _ = kill(pid, KILL);
        }
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: i32) -> Result<(), Failed> {
        let pid = self.pid().ok_or_else(|| Failed::wrong_state("the process is not running"))?;
        kill(pid, signal).attempt(|| format!("send signal {signal}"))
    }

    /// Sets the size of its terminal.
    pub(crate) fn resize(&self, width: u16, height: u16) -> Result<(), Failed> {
        let terminal = self.terminal.borrow();
        let terminal = terminal.as_ref().ok_or_else(|| Failed::wrong_state("the process has no terminal"))?;
        let size = Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(terminal.descriptor(), size).attempt(|| "set the terminal's size".to_owned())
    }
}

/// `SIGKILL`.
const KILL: i32 = 9;

/// Opens a child that has not been collected.
pub(crate) fn open_pidfd(pid: u32) -> Result<OwnedFd, Failed> {
    let failed = || "open the child".to_owned();
    let pid = Pid::from_raw(pid.cast_signed()).ok_or_else(|| Failed::invalid("process 0"))?;
    pidfd_open(pid, PidfdFlags::empty()).attempt(failed)
}

fn watch_socket(socket: OwnedFd) -> Result<Socket, Failed> {
    let failed = || "watch the socket to the process".to_owned();
    rustix::io::ioctl_fionbio(&socket, true).attempt(failed)?;
    hyper_sys::watch::watch(socket, Interest::READABLE).attempt(failed)
}

enum Message {
    Ready(Option<OwnedFd>, Marks),
    Failed(Failure),
    /// The child has executed, or died.
    Closed,
}

async fn receive(socket: &Socket) -> Result<Message, Failed> {
    let mut bytes = [0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let received = socket
        .async_io(Interest::READABLE, |fd| {
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut bytes)];
            let received = recvmsg(fd, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
            let descriptor = ancillary.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
                _ => None,
            });
            Ok((received.bytes, descriptor))
        })
        .await;
    match received {
        Ok((0, _)) => Ok(Message::Closed),
        Ok((count, descriptor)) if bytes[0] == READY => {
            Ok(Message::Ready(descriptor, Marks::decode(&bytes[1..count])))
        }
        Ok((count, _)) if bytes[0] == FAILED => serde_json::from_slice(&bytes[1..count])
            .map(Message::Failed)
            .attempt(|| "understand the child's failure".to_owned()),
        Ok(_) => Err(Failed::wrong_state("the child said something unknown")),
        Err(error) => Err(error).attempt(|| "hear from the child".to_owned()),
    }
}
