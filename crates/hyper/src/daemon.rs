//! Starting hyperd when nobody listens on its socket.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use tokio::net::UnixStream;

use crate::client::run_dir;

/// Name of the daemon's program.
const PROGRAM: &str = "hyperd";
/// How long hyperd may take until it accepts connections: it restores its pods first.
const DEADLINE: Duration = Duration::from_secs(20);
/// How long we wait for another starter before we give up.
const LOCK_DEADLINE: Duration = Duration::from_secs(30);
/// Between two looks at the socket; it bounds what starting costs beyond the daemon's own time.
const POLL: Duration = Duration::from_millis(3);
/// How much of the daemon's log an error shows, in bytes.
const LOG_TAIL: u64 = 4096;
/// Lines of the log that an error shows.
const LOG_LINES: usize = 12;
/// First argument that makes this program the daemon's starter; see [`become_daemon`].
pub const DETACH: &str = "__start-daemon";

/// Why hyperd could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its program is neither beside ours nor in `PATH`.
    #[error("the daemon is not running and its program {PROGRAM} was found neither beside hyper nor in PATH")]
    NotFound,
    /// Its runtime directory cannot be made or written.
    #[error("cannot use the runtime directory {}", path.display())]
    RunDir {
        /// The directory or file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The process could not be made.
    #[error("cannot start {}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It ended before it listened.
    #[error("{PROGRAM} ended ({status}) before it listened on {socket}{log}")]
    Ended {
        /// How it ended.
        status: String,
        /// Where it should have listened.
        socket: String,
        /// The end of its log.
        log: String,
    },
    /// It runs and does not listen.
    #[error("{PROGRAM} does not listen on {socket} after {} s{log}", DEADLINE.as_secs())]
    Deadline {
        /// Where it should have listened.
        socket: String,
        /// The end of its log.
        log: String,
    },
    /// Another command is starting it and does not finish.
    #[error("another command has been starting {PROGRAM} for {} s", LOCK_DEADLINE.as_secs())]
    Locked,
}

impl StartError {
    /// What the user can do next.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound => Some(format!("put {PROGRAM} beside hyper or into PATH")),
            Self::RunDir { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("run as root, or set HYPER_RUN and HYPER_ROOT to directories of your own".into())
            }
            Self::Ended { .. } | Self::Deadline { .. } => Some("`hyper doctor` checks this machine".into()),
            _ => None,
        }
    }
}

/// Starts hyperd for `socket` unless somebody else just did, and waits until it accepts connections.
///
/// # Errors
/// [`StartError`]; for a daemon that failed it carries the end of its log.
pub async fn start(socket: &Path, endpoint: &str, log_level: Option<&str>) -> Result<(), StartError> {
    let run = run_dir();
    fs::create_dir_all(&run).map_err(|source| StartError::RunDir { path: run.clone(), source })?;
    let _lock = lock(&run.join("hyperd.lock")).await?;
    if connect(socket).await.is_ok() {
        return Ok(());
    }
    let program = find_program().ok_or(StartError::NotFound)?;
    let log_path = run.join("hyperd.log");
    let log_error = |source| StartError::RunDir { path: log_path.clone(), source };
    let log = OpenOptions::new().create(true).append(true).open(&log_path).map_err(log_error)?;
    let log_start = log.metadata().map_err(log_error)?.len();
    let child =
        spawn(&program, endpoint, log_level, log).map_err(|source| StartError::Spawn { program, source })?;
    wait_until_listening(child, socket, endpoint, || log_tail(&log_path, log_start)).await
}

/// Connects to a unix socket; a full queue of a daemon that is busy is waited for, not taken for its absence.
///
/// # Errors
/// What the system says.
pub async fn connect(socket: &Path) -> io::Result<UnixStream> {
    let began = Instant::now();
    loop {
        match UnixStream::connect(socket).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && began.elapsed() < DEADLINE => {
                tokio::time::sleep(POLL).await;
            }
            answer => return answer,
        }
    }
}

/// One starter at a time; released when the file is closed, also by a crash.
async fn lock(path: &Path) -> Result<File, StartError> {
    let failed = |source| StartError::RunDir { path: path.to_owned(), source };
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(failed)?;
    let began = Instant::now();
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if began.elapsed() < LOCK_DEADLINE => {
                tokio::time::sleep(POLL).await;
            }
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(StartError::Locked),
            Err(error) => return Err(failed(error.into())),
        }
    }
}

/// The daemon beside our own program, else in `PATH`.
pub fn find_program() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(PROGRAM)));
    if let Some(path) = beside.filter(|path| path.is_file()) {
        return Some(path);
    }
    let search = std::env::var_os("PATH")?;
    std::env::split_paths(&search).map(|dir| dir.join(PROGRAM)).find(|path| path.is_file())
}

/// Runs ourselves as [`DETACH`]: a session of its own needs a process that is no group leader, made without `fork`.
fn spawn(program: &Path, endpoint: &str, log_level: Option<&str>, log: File) -> io::Result<Child> {
    let stdout = log.try_clone()?;
    let mut command = Command::new("/proc/self/exe");
    if let Some(level) = log_level {
        // `fatal` is docker's name; the daemon's filter knows no level above error.
        command.env("RUST_LOG", if level == "fatal" { "error" } else { level });
    }
    // The daemon's working directory is another one.
    for name in ["HYPER_ROOT", "HYPER_RUN", "HYPER_GUEST"] {
        if let Some(path) = std::env::var_os(name).filter(|path| !path.is_empty()) {
            command.env(name, std::path::absolute(path)?);
        }
    }
    command
        .arg0("hyper")
        .arg(DETACH)
        .arg(program)
        .env("HYPER_HOST", endpoint)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(log)
        .spawn()
}

/// The second half of `spawn`, in the new process: leaves the terminal's session and becomes `program`.
///
/// Returns only when that failed; the text goes to the daemon's log.
pub fn become_daemon(program: &Path) -> io::Error {
    if let Err(error) = rustix::process::setsid() {
        return error.into();
    }
    Command::new(program).exec()
}

async fn wait_until_listening(
    mut child: Child,
    socket: &Path,
    endpoint: &str,
    log: impl Fn() -> String,
) -> Result<(), StartError> {
    let began = Instant::now();
    loop {
        if connect(socket).await.is_ok() {
            return Ok(());
        }
        if let Ok(Some(status)) = child.try_wait() {
            // A daemon that lost a race against another one may end although the socket is served now.
            if connect(socket).await.is_ok() {
                return Ok(());
            }
            return Err(StartError::Ended {
                status: status.to_string(),
                socket: endpoint.into(),
                log: log(),
            });
        }
        if began.elapsed() > DEADLINE {
            return Err(StartError::Deadline { socket: endpoint.into(), log: log() });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The last lines that were logged after `start`, each indented, or nothing.
fn log_tail(path: &Path, start: u64) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(start.max(length.saturating_sub(LOG_TAIL))))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let shown = &lines[lines.len().saturating_sub(LOG_LINES)..];
    if shown.is_empty() {
        return String::new();
    }
    format!("; its log {} ends:\n    {}", path.display(), shown.join("\n    "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logs_tail_shows_only_this_starts_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hyperd.log");
        let old = "old line\n";
        let new: String = (0..20).map(|n| format!("new {n}\n")).collect();
        fs::write(&path, format!("{old}{new}")).unwrap();
        let tail = log_tail(&path, old.len() as u64);
        assert!(tail.contains("\n    new 8\n") && tail.ends_with("new 19"), "{tail}");
        assert!(!tail.contains("old") && !tail.contains("new 7\n"), "{tail}");
        assert_eq!(log_tail(&dir.path().join("none"), 0), "");
    }
}
