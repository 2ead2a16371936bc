//! A program that asks before it punches a hole into a file: its system calls to do so wait until somebody says
//! whether they are carried out or only said to have been.
#![allow(unsafe_code, reason = "seccomp's notifications are ioctls with structures of the kernel")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::seccomp::{Instruction, for_holes, without_holes};

/// `SECCOMP_IOCTL_NOTIF_RECV` and `SECCOMP_IOCTL_NOTIF_SEND` of `linux/seccomp.h`: `_IOWR('!', 0, struct seccomp_notif)`
/// and `_IOWR('!', 1, struct seccomp_notif_resp)`.
const RECEIVE: libc::c_ulong = 0xc050_2100;
const SEND: libc::c_ulong = 0xc018_2101;

/// A hole that a thread wants to punch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hole {
    id: u64,
    /// The thread, by its number; it waits.
    pub thread: u32,
    /// Its number for the file.
    pub descriptor: RawFd,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The file gets the hole.
    Punch,
    /// The file stays as it is, and the thread is told that it has the hole.
    Pretend,
}

/// The parent's side before there is a child.
#[derive(Debug)]
pub struct Asked {
    ours: OwnedFd,
    // Kept open until the child has sent what it has to.
    theirs: OwnedFd,
}

/// Where a program's questions come in. Questions asked when this is gone get `ENOSYS`.
#[derive(Debug)]
pub struct Questions(OwnedFd);

/// Makes the child ask, from before it runs its program on; it gets no-new-privileges. Where nobody can be asked (the
/// child's ancestors are asked for already) it cannot punch holes at all. Call [`Asked::questions`] when it has been
/// spawned.
///
/// # Errors
/// No sockets can be made.
pub fn ask(command: &mut Command) -> io::Result<Asked> {
    let mut pair = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: `pair` has room for the two descriptors.
    if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made both for us.
    let (ours, theirs) = unsafe { (OwnedFd::from_raw_fd(pair[0]), OwnedFd::from_raw_fd(pair[1])) };
    let socket = theirs.as_raw_fd();
    let kernel = |program: Vec<Instruction>| -> Vec<libc::sock_filter> {
        program.into_iter().map(Instruction::to_kernel).collect()
    };
    let (asking, refusing) = (kernel(for_holes(libc::SECCOMP_RET_USER_NOTIF)), kernel(without_holes()));
    // SAFETY: the closure calls only prctl, seccomp, sendmsg and close and allocates nothing; the instructions stay
    // where they are as long as the closure owns them, and the socket is open until the parent drops `Asked`.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
                return Err(io::Error::last_os_error());
            }
            let listener = install(&asking, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
            if listener < 0 {
                return match install(&refusing, 0) {
                    0 => Ok(()),
                    _ => Err(io::Error::last_os_error()),
                };
            }
            let sent = send(socket, listener as RawFd);
            libc::close(listener as RawFd);
            sent
        });
    }
    Ok(Asked { ours, theirs })
}

/// Installs a filter on the calling thread.
fn install(program: &[libc::sock_filter], flags: libc::c_ulong) -> libc::c_long {
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // SAFETY: `program` points at `len` instructions, which the kernel copies and verifies.
    unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &program) }
}

/// Room for one descriptor in a control message, aligned as `struct cmsghdr`.
#[repr(C)]
struct Control {
    header: libc::cmsghdr,
    descriptor: RawFd,
    padding: u32,
}

impl Control {
    fn new(descriptor: RawFd) -> Self {
        let header = libc::cmsghdr {
            cmsg_len: size_of::<libc::cmsghdr>() + size_of::<RawFd>(),
            cmsg_level: libc::SOL_SOCKET,
            cmsg_type: libc::SCM_RIGHTS,
        };
        Self { header, descriptor, padding: 0 }
    }
}

/// Runs `transfer` with a message of one byte and room for one descriptor.
fn with_message(
    control: &mut Control,
    transfer: impl FnOnce(*mut libc::msghdr) -> libc::ssize_t,
) -> io::Result<()> {
    let mut byte = [0_u8];
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // SAFETY: `msghdr` is plain data, for which zeros are valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    message.msg_control = std::ptr::from_mut(control).cast();
    message.msg_controllen = size_of::<Control>();
    match transfer(&mut message) {
        1 => Ok(()),
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn send(socket: RawFd, descriptor: RawFd) -> io::Result<()> {
    let mut control = Control::new(descriptor);
    // SAFETY: the message points at memory that outlives the call.
    with_message(&mut control, |message| unsafe { libc::sendmsg(socket, message, libc::MSG_NOSIGNAL) })
}

impl Asked {
    /// Where the questions of the child come in, once it has been spawned; `None` when it asks none.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn questions(self) -> io::Result<Option<Questions>> {
        drop(self.theirs);
        let mut control = Control::new(-1);
        let socket = self.ours.as_raw_fd();
        let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
        // SAFETY: the message points at memory that outlives the call.
        match with_message(&mut control, |message| unsafe { libc::recvmsg(socket, message, flags) }) {
            // What it had to send was sent before it ran its program. Its end of the socket may still be open in another
            // child of this process that is on its way to a program of its own.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::WouldBlock) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
            Ok(()) if control.descriptor < 0 => return Ok(None),
            Ok(()) => {}
        }
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(Some(Questions(unsafe { OwnedFd::from_raw_fd(control.descriptor) })))
    }
}

/// `struct seccomp_notif`.
#[repr(C)]
#[derive(Default)]
struct Notification {
    id: u64,
    thread: u32,
    flags: u32,
    number: i32,
    architecture: u32,
    instruction: u64,
    arguments: [u64; 6],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

impl Questions {
    /// Waits for the next question; `None` when nobody is left to ask one.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn next(&self) -> io::Result<Option<Hole>> {
        loop {
            let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: `poll` is one entry.
            if unsafe { libc::poll(&mut poll, 1, -1) } < 0 {
                match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => continue,
                    error => return Err(error),
                }
            }
            if poll.revents & libc::POLLIN == 0 {
                return Ok(None);
            }
            let mut asked = Notification::default();
            // SAFETY: the kernel fills a structure of the size that the request's number tells.
            if unsafe { libc::ioctl(self.0.as_raw_fd(), RECEIVE, &mut asked) } == 0 {
                // The kernel itself takes the lower half as the number.
                let descriptor = asked.arguments[0] as RawFd;
                return Ok(Some(Hole { id: asked.id, thread: asked.thread, descriptor }));
            }
            match io::Error::last_os_error() {
                // Who asked was killed meanwhile.
                error if error.raw_os_error() == Some(libc::ENOENT) => {}
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            }
        }
    }

    /// Answers a question; whoever asked may have been killed meanwhile.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn answer(&self, hole: Hole, answer: Answer) -> io::Result<()> {
        let flags = match answer {
            Answer::Punch => libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
            Answer::Pretend => 0,
        };
        let response = Response { id: hole.id, value: 0, error: 0, flags };
        // SAFETY: the kernel reads a structure of the size that the request's number tells.
        if unsafe { libc::ioctl(self.0.as_raw_fd(), SEND, &response) } == 0 {
            return Ok(());
        }
        match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            error => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn holes_are_punched_or_pretended_as_answered() {
        for (answer, blocks_left) in [(Answer::Punch, false), (Answer::Pretend, true)] {
            let file = std::env::temp_dir().join(format!("hyper-sys-{answer:?}-{}", std::process::id()));
            std::fs::write(&file, vec![1; 1 << 16]).unwrap();
            let mut command = Command::new("fallocate");
            command.args(["--punch-hole", "--length", "65536"]).arg(&file);
            let asked = ask(&mut command).unwrap();
            let mut child = command.spawn().unwrap();
            let questions = asked.questions().unwrap().unwrap();
            let hole = questions.next().unwrap().unwrap();
            let named = format!("/proc/{}/fd/{}", hole.thread, hole.descriptor);
            assert_eq!(std::fs::read_link(named).unwrap(), file);
            questions.answer(hole, answer).unwrap();
            assert!(child.wait().unwrap().success());
            assert_eq!(questions.next().unwrap(), None);
            assert_eq!(std::fs::metadata(&file).unwrap().blocks() > 0, blocks_left, "{answer:?}");
            std::fs::remove_file(file).unwrap();
        }
    }

    #[test]
    fn a_child_whose_questions_go_elsewhere_cannot_punch_holes_and_can_do_the_rest() {
        let file = std::env::temp_dir().join(format!("hyper-sys-elsewhere-{}", std::process::id()));
        std::fs::write(&file, vec![1; 1 << 16]).unwrap();
        let run = |words: &[&str], filtered: bool| {
            let mut command = Command::new("fallocate");
            command.args(words).arg(&file).stderr(std::process::Stdio::null());
            if !filtered {
                return command.status().unwrap().success();
            }
            // The kernel lets a process have one listener, and that is the first.
            let asked = [ask(&mut command).unwrap(), ask(&mut command).unwrap()];
            let done = command.status().unwrap().success();
            let [first, second] = asked.map(|asked| asked.questions().unwrap());
            assert!(first.is_some() && second.is_none());
            done
        };
        assert!(!run(&["--punch-hole", "--length", "4096"], true));
        assert!(run(&["--length", "131072"], true));
        assert!(run(&["--punch-hole", "--length", "4096"], false));
        std::fs::remove_file(file).unwrap();
    }

    #[test]
    fn a_child_that_was_not_spawned_asks_nothing() {
        let asked = ask(&mut Command::new("/nosuch")).unwrap();
        assert!(asked.questions().unwrap().is_none());
    }
}
