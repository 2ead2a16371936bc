//! What a child process started by the standard library is given before it runs its program.
#![allow(unsafe_code, reason = "std offers these only through `pre_exec`")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::seccomp::Instruction;

/// Makes the child die with `SIGKILL` as soon as the thread that spawns it ends, however it ends
/// (`PR_SET_PDEATHSIG`). Spawn from the main thread, or from one that lives as long as the process.
pub fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    // SAFETY: the closure calls only prctl, getppid and _exit, which are async-signal-safe, and
    // allocates nothing.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before the line above took effect.
            if libc::getppid() as u32 != parent {
                libc::_exit(127);
            }
            Ok(())
        });
    }
}

/// Makes the child the leader of a session of its own, without a terminal.
pub fn new_session(command: &mut Command) {
    // SAFETY: setsid is async-signal-safe.
    unsafe {
        command.pre_exec(|| match libc::setsid() {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
}

/// Gives the child no-new-privileges and a system call filter, before it runs its program.
pub fn filter_system_calls(command: &mut Command, program: &[Instruction]) {
    let filter: Vec<libc::sock_filter> = program.iter().copied().map(Instruction::to_kernel).collect();
    // SAFETY: the closure calls only prctl and seccomp and allocates nothing; the instructions, which the kernel
    // copies and verifies, stay where they are as long as the closure owns them.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
                return Err(io::Error::last_os_error());
            }
            let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
            match libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &program) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
}

/// Lets the child inherit `descriptors`, under their present numbers, and nothing else beside its standard
/// streams. They are owned by the command and closed with it. Call once for a command.
pub fn inherit_only(command: &mut Command, descriptors: Vec<OwnedFd>) {
    // SAFETY: the closure calls only close_range and fcntl and allocates nothing; the descriptors stay
    // open as long as the closure owns them.
    unsafe {
        command.pre_exec(move || {
            // Without this call (before Linux 5.11) descriptors are close-on-exec as std opens them.
            libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
            for descriptor in &descriptors {
                keep(descriptor.as_raw_fd())?;
            }
            Ok(())
        });
    }
}

/// Takes over a descriptor that the parent passed by [`inherit_only`]. `None` when `number` is no open
/// descriptor, one of the standard streams, or one that this process opened itself.
pub fn inherited(number: RawFd) -> Option<OwnedFd> {
    if number < 3 {
        return None;
    }
    // SAFETY: fcntl on a number that is no descriptor fails and changes nothing.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    // What std opens is close-on-exec; a descriptor that came through exec is not.
    if flags < 0 || flags & libc::FD_CLOEXEC != 0 {
        return None;
    }
    // SAFETY: sets a flag of an open descriptor; from then on a second call for it answers `None`.
    unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    // SAFETY: the descriptor is open and, not having been close-on-exec, came through exec: nobody here owns it.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

fn keep(descriptor: RawFd) -> io::Result<()> {
    // SAFETY: fcntl on an open descriptor with a plain number.
    match unsafe { libc::fcntl(descriptor, libc::F_SETFD, 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn child_has_exactly_the_descriptors_named() {
        let meant = OwnedFd::from(File::open("/dev/null").unwrap());
        let number = meant.as_raw_fd();
        let other = File::open("/dev/zero").unwrap();
        keep(other.as_raw_fd()).unwrap();
        let mut command = Command::new("/bin/ls");
        command.arg("-l").arg("/proc/self/fd");
        inherit_only(&mut command, vec![meant]);
        let listing = String::from_utf8(command.output().unwrap().stdout).unwrap();
        assert!(listing.contains(&format!(" {number} -> /dev/null")), "{listing}");
        assert!(!listing.contains("/dev/zero"), "{listing}");
    }

    #[test]
    fn filtered_child_cannot_punch_holes_and_can_do_the_rest() {
        let file = std::env::temp_dir().join(format!("hyper-sys-holes-{}", std::process::id()));
        std::fs::write(&file, vec![1; 1 << 16]).unwrap();
        let run = |words: &[&str], filtered: bool| {
            let mut command = Command::new("fallocate");
            command.args(words).arg(&file).stderr(std::process::Stdio::null());
            if filtered {
                filter_system_calls(&mut command, &crate::seccomp::without_holes());
            }
            command.status().unwrap().success()
        };
        assert!(!run(&["--punch-hole", "--length", "4096"], true));
        assert!(run(&["--length", "131072"], true));
        assert!(run(&["--punch-hole", "--length", "4096"], false));
        std::fs::remove_file(file).unwrap();
    }

    #[test]
    fn session_leader_has_its_own_session() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "cut -d' ' -f1,6 /proc/$$/stat"]);
        new_session(&mut command);
        let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let (pid, session) = text.trim().split_once(' ').unwrap();
        assert_eq!(pid, session);
    }

    #[test]
    fn closed_and_own_descriptors_are_not_taken_over() {
        let own = File::open("/dev/null").unwrap();
        assert!(inherited(own.as_raw_fd()).is_none());
        assert!(inherited(1_000_000).is_none());
        assert!(inherited(1).is_none());
    }
}
