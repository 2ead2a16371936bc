//! The first command starts the daemon: once, in a session of its own, with its log shown when it fails.
//!
//! The daemon here is a script beside a copy of our program that becomes this test program.

#![allow(clippy::unwrap_used, reason = "a failed test is the message")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Notes its start, then becomes this test program's `daemon_double`.
const DAEMON: &str = r#"#!/bin/sh
echo "$$ $(cut -d" " -f6 /proc/$$/stat)" >>"$HYPER_RUN/starts"
if [ -n "$FAKE_DIES" ]; then echo "the guest kernel is missing" >&2; exit 3; fi
sleep 0.1
exec "$FAKE_DAEMON" --exact daemon_double --nocapture
"#;

/// Not a test of its own: the daemon that the others start. Answers every request with an empty list.
#[test]
fn daemon_double() {
    if std::env::var_os("FAKE_DAEMON").is_none() {
        return;
    }
    let host = std::env::var("HYPER_HOST").unwrap();
    let listener = UnixListener::bind(host.strip_prefix("unix://").unwrap()).unwrap();
    for stream in listener.incoming() {
        let mut reader = BufReader::new(stream.unwrap());
        let mut line = String::new();
        // The head of a request without a body; a connection that only looks whether we are there sends nothing.
        while reader.read_line(&mut line).is_ok_and(|count| count > 2) {
            line.clear();
        }
        let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]";
        let _ = reader.get_mut().write_all(answer.as_bytes());
    }
}

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::copy(env!("CARGO_BIN_EXE_hyper"), dir.path().join("hyper")).unwrap();
        let daemon = dir.path().join("hyperd");
        fs::write(&daemon, DAEMON).unwrap();
        fs::set_permissions(&daemon, fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir }
    }

    fn run(&self) -> std::path::PathBuf {
        self.dir.path().join("run")
    }

    fn hyper(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.dir.path().join("hyper"));
        command.args(words).env("HYPER_RUN", self.run()).env_remove("HYPER_HOST").stdin(Stdio::null());
        command.env("FAKE_DAEMON", std::env::current_exe().unwrap());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Process and session of every start.
    fn starts(&self) -> Vec<(i32, i32)> {
        let text = fs::read_to_string(self.run().join("starts")).unwrap_or_default();
        let number = |word: Option<&str>| word.unwrap().parse().unwrap();
        text.lines()
            .map(|line| line.split_whitespace())
            .map(|mut words| (number(words.next()), number(words.next())))
            .collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for (pid, _) in self.starts() {
            let ours = fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline")).unwrap_or_default();
            if text(&ours).contains("daemon_double") {
                let _ = Command::new("sh").args(["-c", "kill $0"]).arg(pid.to_string()).status();
            }
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn many_first_commands_start_one_daemon_in_its_own_session() {
    let place = Place::new();
    let commands: Vec<_> = (0..6).map(|_| place.hyper(&["ps", "-q"]).spawn().unwrap()).collect();
    let outputs: Vec<Output> = commands.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
    for output in &outputs {
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(text(&output.stdout), "");
    }
    let starts = place.starts();
    assert_eq!(starts.len(), 1, "{starts:?}");
    assert_eq!(starts[0].0, starts[0].1, "the daemon leads its session");
}

#[test]
fn a_daemon_that_fails_is_shown_with_its_log() {
    let place = Place::new();
    let output = place.hyper(&["run", "img"]).env("FAKE_DIES", "1").output().unwrap();
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{errors}");
    assert!(errors.contains("exit status: 3") && errors.contains("the guest kernel is missing"), "{errors}");
    let doctor = place.hyper(&["doctor"]).env("FAKE_DIES", "1").output().unwrap();
    assert_eq!(doctor.status.code(), Some(1));
    assert!(text(&doctor.stdout).contains("[FAIL] daemon: "), "{}", text(&doctor.stdout));
}

#[test]
fn a_missing_daemon_program_says_where_it_was_looked_for() {
    let place = Place::new();
    fs::remove_file(place.dir.path().join("hyperd")).unwrap();
    let output = place.hyper(&["ps"]).env("PATH", "/nonexistent").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("neither beside hyper nor in PATH"), "{}", text(&output.stderr));
}
