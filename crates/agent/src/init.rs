//! The init of a container that asked for one: starts the container's program as its child, hands signals on to it, and
//! collects whatever else has ended, as process 1 must. Docker's is `tini`; this is the agent's own program, executed by
//! the descriptor that it has of itself, so that nothing of the agent's memory comes along.

use std::ffi::CString;
use std::process::ExitCode;

use hyper_protocol::agent::FailureKind;
use hyper_sys::child::{self, Ended, PidNamespace};
use rustix::process::getpid;

use crate::container::program;
use crate::failure::{Attempt, Failed};

/// The name that it is executed by: docker's.
pub const NAME: &str = "/sbin/docker-init";

/// `SIGCHLD` of Linux on x86-64.
const CHILD: i32 = 17;

/// What the init is executed with to start the program of `arguments`.
pub(crate) fn arguments(arguments: &[CString]) -> Vec<CString> {
    [NAME, "--"]
        .into_iter()
        .map(|word| CString::new(word).expect("a word without NUL"))
        .chain(arguments.iter().cloned())
        .collect()
}

/// Runs the program that the command line names, to its end; the exit code is the program's.
pub fn run() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(2).collect();
    let environment: Vec<String> = std::env::vars().map(|(name, value)| format!("{name}={value}")).collect();
    let _ = rustix::thread::set_name(c"docker-init");
    if !getpid().is_init() {
        // In the PID namespace of another container: its orphans are its own affair.
        let _ = rustix::process::set_child_subreaper(Some(getpid()));
    }
    // They are already, unless somebody else has executed it.
    child::block_signals();
    match child::fork(PidNamespace::Own, &[], || start(&words, &environment)) {
        Ok(program) => ExitCode::from(serve(program)),
        Err(error) => {
            eprintln!("docker-init: cannot start the program: {error}");
            ExitCode::from(126)
        }
    }
}

/// Hands signals on until the program has ended.
fn serve(program: u32) -> u8 {
    loop {
        let signal = child::next_signal();
        if signal != CHILD {
            // One that has ended needs no signal.
            let _ = child::kill(program, signal);
            continue;
        }
        while let Ok(Some((pid, ended))) = child::collect(None) {
            if pid == program {
                let code = match ended {
                    Ended::Exited(code) => code,
                    Ended::Killed(signal) => 128 + signal,
                };
                return u8::try_from(code).unwrap_or(u8::MAX);
            }
        }
    }
}

/// Becomes the program; returns the exit code of the failure.
fn start(words: &[String], environment: &[String]) -> u8 {
    // A group of its own: what the terminal sends to it does not come a second time by way of the init. All signals are
    // still blocked, so taking the terminal does not stop us.
    let _ = rustix::process::setpgid(None, None);
    if rustix::termios::isatty(rustix::stdio::stdin()) {
        let _ = rustix::termios::tcsetpgrp(rustix::stdio::stdin(), getpid());
    }
    child::reset_signals();
    let failed = execute(words, environment).to_failure();
    eprintln!("docker-init: {}", failed.message);
    if failed.kind == FailureKind::ProgramNotFound { 127 } else { 126 }
}

fn execute(words: &[String], environment: &[String]) -> Failed {
    let strings = |words: &[String]| {
        words
            .iter()
            .map(|word| CString::new(word.as_str()).invalid(|| "an argument contains a NUL byte".to_owned()))
            .collect::<Result<Vec<_>, _>>()
    };
    let path = program::find(words.first().map_or("", String::as_str), environment);
    match (path, strings(words), strings(environment)) {
        (Ok(path), Ok(words), Ok(environment)) => program::execute(&path, &words, &environment),
        (Err(failed), ..) | (_, Err(failed), _) | (.., Err(failed)) => failed,
    }
}
