//! Finding and executing a program, with errors in the words of Go's `exec.LookPath` as runc passes them on:
//! Docker's clients tell exit codes 126 and 127 by those words.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use hyper_protocol::agent::FailureKind;
use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags, accessat, open, stat};
use rustix::io::Errno;

use crate::failure::{Attempt, Failed};

/// Text of an error number as Go writes it: the C library's, in lower case.
fn words(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| {
        let mut lowered = first.to_lowercase().to_string();
        lowered.push_str(characters.as_str());
        lowered
    })
}

fn kind(errno: i32) -> FailureKind {
    match Errno::from_raw_os_error(errno) {
        Errno::NOENT | Errno::NOTDIR => FailureKind::ProgramNotFound,
        Errno::ACCESS | Errno::PERM | Errno::ISDIR | Errno::NOEXEC => FailureKind::ProgramNotExecutable,
        _ => FailureKind::System,
    }
}

/// Why the file at `path` is not executable for the caller: which call said so, and its error.
fn executable(path: &str) -> Result<(), (&'static str, Errno)> {
    let status = stat(path).map_err(|e| ("stat", e))?;
    if FileType::from_raw_mode(status.st_mode) == FileType::Directory {
        return Err(("", Errno::ISDIR));
    }
    accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).map_err(|e| ("", e))
}

/// Path of the program that `name` stands for: itself when it has a slash, else the first executable of that
/// name in the directories of `PATH` in `environment`.
pub(crate) fn find(name: &str, environment: &[String]) -> Result<String, Failed> {
    if name.contains('/') {
        return match executable(name) {
            Ok(()) => Ok(name.to_owned()),
            Err((call, errno)) => {
                let errno = errno.raw_os_error();
                let call = if call.is_empty() { String::new() } else { format!("{call} {name}: ") };
                Err(Failed::new(kind(errno), format!("exec: {name:?}: {call}{}", words(errno))))
            }
        };
    }
    let path = environment.iter().rev().find_map(|e| e.strip_prefix("PATH=")).unwrap_or_default();
    path.split(':')
        .filter(|directory| directory.starts_with('/'))
        .map(|directory| format!("{}/{name}", directory.trim_end_matches('/')))
        .find(|candidate| !name.is_empty() && executable(candidate).is_ok())
        .ok_or_else(|| {
            Failed::new(
                FailureKind::ProgramNotFound,
                format!("exec: {name:?}: executable file not found in $PATH"),
            )
        })
}

/// Executes the program at `path`; returns only the failure.
pub(crate) fn execute(path: &str, arguments: &[CString], environment: &[CString]) -> Failed {
    let failed = || format!("exec {path}");
    let program = match CString::new(path).invalid(failed) {
        Ok(program) => program,
        Err(failed) => return failed,
    };
    let error = hyper_sys::child::exec(&program, arguments, environment);
    let errno = error.raw_os_error().unwrap_or_default();
    Failed::new(kind(errno), format!("exec {path}: {}", words(errno)))
}

/// Executes the agent's own program as a container's init; returns only the failure.
pub(crate) fn execute_init(init: &OwnedFd, arguments: &[CString], environment: &[CString]) -> Failed {
    // What comes before the init is ready waits for it, instead of being lost on a process 1 without handlers.
    hyper_sys::child::block_signals();
    let error = hyper_sys::child::exec_descriptor(init.as_fd(), arguments, environment);
    Failed::new(
        FailureKind::System,
        format!("exec of the init: {}", words(error.raw_os_error().unwrap_or(0))),
    )
}

/// Moves into the working directory; `Err` holds the failure in runc's words.
pub(crate) fn enter(directory: &str) -> Result<(), Failed> {
    let entered = open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .and_then(rustix::process::fchdir);
    entered.map_err(|errno| {
        let words = words(errno.raw_os_error());
        Failed::new(
            FailureKind::System,
            format!("chdir to cwd ({directory:?}) set in config.json failed: {words}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(name: &str, path: &str) -> (FailureKind, String) {
        let failure = find(name, &[format!("PATH={path}")]).unwrap_err().to_failure();
        (failure.kind, failure.message)
    }

    #[test]
    fn failures_have_the_words_that_docker_clients_look_for() {
        use FailureKind::{ProgramNotExecutable, ProgramNotFound};
        let cases = [
            ("nosuch", ProgramNotFound, "exec: \"nosuch\": executable file not found in $PATH"),
            ("/x/y", ProgramNotFound, "exec: \"/x/y\": stat /x/y: no such file or directory"),
            ("/etc/passwd", ProgramNotExecutable, "exec: \"/etc/passwd\": permission denied"),
            ("/etc", ProgramNotExecutable, "exec: \"/etc\": is a directory"),
            ("", ProgramNotFound, "exec: \"\": executable file not found in $PATH"),
        ];
        for (name, kind, message) in cases {
            assert_eq!(failure(name, "/usr/bin:/bin"), (kind, message.to_owned()));
        }
    }

    #[test]
    fn programs_are_found_in_the_last_path_of_the_environment() {
        let environment = ["PATH=/nosuch".to_owned(), "A=b".to_owned(), "PATH=:.:/bin/".to_owned()];
        assert_eq!(find("sh", &environment).unwrap(), "/bin/sh");
    }
}
