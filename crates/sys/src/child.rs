//! Processes: fork into a PID namespace, exec, signals by number, and collecting what has ended.
#![allow(unsafe_code, reason = "fork, execve and signal dispositions have no safe interface")]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Exit code of a forked child that panicked.
const PANICKED: i32 = 254;

/// Greatest signal number of Linux (`SIGRTMAX`, `_NSIG` in `asm/signal.h`).
pub const SIGNAL_MAX: i32 = 64;

/// In which PID namespace a forked child lives.
#[derive(Debug, Clone, Copy)]
pub enum PidNamespace<'a> {
    /// The caller's own.
    Own,
    /// A new one, of which the child is process 1.
    New,
    /// That of the process behind this PID descriptor, which must still live.
    Of(BorrowedFd<'a>),
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this code (0 to 255).
    Exited(i32),
    /// This signal killed it.
    Killed(i32),
}

/// Forks; runs `child` in the new process and exits with the code it returns. Returns the child's number in
/// the caller's PID namespace.
///
/// In the child every descriptor from 3 on that is not in `keep` is closed before `child` runs, destructors
/// of the caller's values never run, and a panic ends the child alone. The child has only the calling
/// thread: where the process has others, `child` must not wait for a lock that one of them may hold.
/// (Allocating is fine: glibc's fork leaves its allocator usable.)
///
/// # Errors
/// The PID namespace cannot be made or joined, or no process can be made.
pub fn fork(
    namespace: PidNamespace<'_>,
    keep: &[BorrowedFd<'_>],
    child: impl FnOnce() -> u8,
) -> io::Result<u32> {
    let mut kept: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).filter(|&fd| fd > 2).collect();
    kept.sort_unstable();
    kept.dedup();
    let own = match namespace {
        PidNamespace::Own => None,
        PidNamespace::New | PidNamespace::Of(_) => Some(File::open("/proc/thread-self/ns/pid")?),
    };
    match namespace {
        PidNamespace::Own => {}
        // SAFETY: unshare with CLONE_NEWPID changes only where this thread's next children live.
        PidNamespace::New => check(unsafe { libc::unshare(libc::CLONE_NEWPID) })?,
        PidNamespace::Of(process) => join(process, libc::CLONE_NEWPID)?,
    }
    // SAFETY: the child runs `child` with the one thread it has, as documented, and leaves by _exit.
    let pid = match unsafe { libc::fork() } {
        0 => {
            close_all_but(&kept);
            let code = catch_unwind(AssertUnwindSafe(child)).map_or(PANICKED, i32::from);
            // SAFETY: ends this process at once, without destructors or exit handlers.
            unsafe { libc::_exit(code) }
        }
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(pid.cast_unsigned()),
    };
    if let Some(own) = own {
        // SAFETY: setns takes a descriptor and flags, no memory.
        check(unsafe { libc::setns(own.as_raw_fd(), libc::CLONE_NEWPID) })
            .expect("a task may always return to its own active PID namespace");
    }
    pid
}

/// Closes every descriptor from 3 on except `kept`, which is sorted.
fn close_all_but(kept: &[RawFd]) {
    let mut first = 3;
    for &fd in kept.iter().chain(std::iter::once(&RawFd::MAX)) {
        if fd > first {
            // SAFETY: only the forked child calls this, and its caller's values are never dropped there, so
            // nobody relies on the closed descriptors.
            unsafe { libc::close_range(first.cast_unsigned(), (fd - 1).cast_unsigned(), 0) };
        }
        first = fd.saturating_add(1);
    }
}

/// Replaces the program of this process. Returns only when that fails, with the reason.
pub fn exec(path: &CStr, arguments: &[CString], environment: &[CString]) -> io::Error {
    let (argv, envp) = (pointers(arguments), pointers(environment));
    // SAFETY: both arrays end with a null pointer and their strings outlive the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}

/// As [`exec`], of the program behind a descriptor.
pub fn exec_descriptor(program: BorrowedFd<'_>, arguments: &[CString], environment: &[CString]) -> io::Error {
    let (argv, envp) = (pointers(arguments), pointers(environment));
    // SAFETY: both arrays end with a null pointer and their strings outlive the call.
    unsafe { libc::fexecve(program.as_raw_fd(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}

/// The strings' addresses and a null pointer.
fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
}

/// Gives every signal its default action and unblocks all, as a new program expects to find them.
pub fn reset_signals() {
    for signal in 1..=SIGNAL_MAX {
        // SAFETY: SIG_DFL is a valid disposition; for signals that have none to change the call fails.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: `set` is a plain bit set, initialised by sigemptyset before use.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
    }
}

/// Blocks every signal, so that [`next_signal`] can take them one by one.
pub fn block_signals() {
    // SAFETY: `set` is a plain bit set, initialised by sigfillset before use.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
    }
}

/// Waits for a signal, after [`block_signals`], and takes it.
pub fn next_signal() -> i32 {
    let mut signal = 0;
    // SAFETY: `set` is a plain bit set, initialised by sigfillset before use; `signal` is one int that is filled.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut set);
        libc::sigwait(&set, &mut signal);
    }
    signal
}

/// Sends a signal by its number to a process.
///
/// # Errors
/// `ESRCH`: no such process; `EINVAL`: no such signal; `EPERM`.
pub fn kill(pid: u32, signal: i32) -> io::Result<()> {
    if pid == 0 || pid > i32::MAX as u32 {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    // SAFETY: kill takes two numbers.
    check(unsafe { libc::kill(pid.cast_signed(), signal) })
}

/// Collects one child that has ended, if there is one: `child`, or any when it is `None`.
///
/// # Errors
/// Never for having no children: that is `Ok(None)`.
pub fn collect(child: Option<u32>) -> io::Result<Option<(u32, Ended)>> {
    let which = child.map_or(-1, u32::cast_signed);
    let mut status = 0;
    loop {
        // SAFETY: `status` is one int that the kernel fills.
        let pid = unsafe { libc::waitpid(which, &mut status, libc::WNOHANG) };
        if pid == -1 {
            match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::ECHILD) => return Ok(None),
                error if error.kind() == io::ErrorKind::Interrupted => continue,
                error => return Err(error),
            }
        }
        if pid == 0 {
            return Ok(None);
        }
        let ended = if libc::WIFSIGNALED(status) {
            Ended::Killed(libc::WTERMSIG(status))
        } else {
            Ended::Exited(libc::WEXITSTATUS(status))
        };
        return Ok(Some((pid.cast_unsigned(), ended)));
    }
}

/// Moves this thread into namespaces (`CLONE_NEW*` in `flags`) of the process behind a PID descriptor.
pub(crate) fn join(process: BorrowedFd<'_>, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: setns takes a descriptor and flags, no memory.
    check(unsafe { libc::setns(process.as_raw_fd(), flags) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::time::{Duration, Instant};

    fn wait(pid: u32) -> Ended {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            if let Some((_, ended)) = collect(Some(pid)).unwrap() {
                return ended;
            }
            assert!(Instant::now() < deadline, "child {pid} does not end");
            std::thread::yield_now();
        }
    }

    #[test]
    fn child_exits_with_the_code_returned() {
        let pid = fork(PidNamespace::Own, &[], || 7).unwrap();
        assert_eq!(wait(pid), Ended::Exited(7));
    }

    #[test]
    fn child_has_only_the_descriptors_kept() {
        let (mut reader, writer) = io::pipe().unwrap();
        let other = File::open("/dev/null").unwrap();
        let raw = other.as_raw_fd();
        let pid = fork(PidNamespace::Own, &[writer.as_fd()], || {
            // SAFETY: fcntl(F_GETFD) only asks.
            let open = unsafe { libc::fcntl(raw, libc::F_GETFD) } != -1;
            let _ = (&writer).write_all(if open { b"open" } else { b"closed" });
            0
        })
        .unwrap();
        drop(writer);
        let mut said = String::new();
        reader.read_to_string(&mut said).unwrap();
        assert_eq!(wait(pid), Ended::Exited(0));
        assert_eq!(said, "closed");
    }

    #[test]
    fn signal_that_kills_a_child_is_told() {
        let (reader, writer) = io::pipe().unwrap();
        let pid = fork(PidNamespace::Own, &[reader.as_fd()], || {
            let _ = (&reader).read(&mut [0]);
            0
        })
        .unwrap();
        kill(pid, libc::SIGKILL).unwrap();
        assert_eq!(wait(pid), Ended::Killed(libc::SIGKILL));
        drop(writer);
    }

    #[test]
    fn exec_of_a_missing_program_returns_the_reason() {
        assert_eq!(exec(c"/nosuch", &[], &[]).raw_os_error(), Some(libc::ENOENT));
    }
}
