//! What a child process started by the standard library is given before it runs its program.
#![allow(unsafe_code, reason = "std offers these only through `pre_exec`")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

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

/// Gives the child no transparent huge pages, whatever it asks for (`PR_SET_THP_DISABLE`); its children neither. Memory
/// comes to it page by page as it is touched, instead of 2 MiB being cleared for the first byte in them.
pub fn without_huge_pages(command: &mut Command) {
    // SAFETY: prctl is async-signal-safe.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
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

/// Gives the child a mount namespace of its own, in which `tree`, mounted nowhere yet, lies on the directory `at`, where it
/// cannot be written to; by `tree` it can. What is mounted or unmounted by others later is so for the child, too; what
/// is mounted in its namespace nobody else sees.
pub fn with_mount(command: &mut Command, tree: OwnedFd, at: CString) {
    // SAFETY: the closure makes system calls on memory and descriptors that it owns, and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            check(libc::unshare(libc::CLONE_NEWNS).into())?;
            let flags = libc::MS_SLAVE | libc::MS_REC;
            let none = std::ptr::null::<libc::c_char>();
            check(libc::mount(none, c"/".as_ptr(), none, flags, std::ptr::null()).into())?;
            let put = |tree: libc::c_int| {
                let flags = libc::MOVE_MOUNT_F_EMPTY_PATH;
                check(libc::syscall(
                    libc::SYS_move_mount,
                    tree,
                    c"".as_ptr(),
                    libc::AT_FDCWD,
                    at.as_ptr(),
                    flags,
                ))
            };
            put(tree.as_raw_fd())?;
            // On top of it the same without the right to write. Closed on execution, as `inherit_only` has it.
            let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
            let view =
                check(libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, at.as_ptr(), flags))? as libc::c_int;
            let attributes = libc::mount_attr {
                attr_set: libc::MOUNT_ATTR_RDONLY,
                attr_clr: 0,
                propagation: 0,
                userns_fd: 0,
            };
            check(libc::syscall(
                libc::SYS_mount_setattr,
                view,
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                &attributes,
                size_of_val(&attributes),
            ))?;
            put(view)?;
            Ok(())
        });
    }
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Lets the child open as many files as its hard limit allows.
pub fn with_most_files(command: &mut Command) {
    // SAFETY: both calls are async-signal-safe and write to a variable of the closure's own.
    unsafe {
        command.pre_exec(|| {
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) != 0 {
                return Err(io::Error::last_os_error());
            }
            limit.rlim_cur = limit.rlim_max;
            match libc::setrlimit(libc::RLIMIT_NOFILE, &limit) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
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
    fn child_has_no_huge_pages() {
        let mut command = Command::new("/bin/grep");
        command.args(["THP_enabled", "/proc/self/status"]);
        without_huge_pages(&mut command);
        let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
        assert_eq!(text.split_whitespace().last(), Some("0"), "{text}");
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
