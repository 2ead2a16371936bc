//! `virtiofsd`: the process that carries out what a guest asks of shared files.
//!
//! It is the one program of the host that a guest speaks to beside the VMM. It sees nothing but the pod's share
//! ([`super::tree`]), has no network, no other processes, a system call filter and few capabilities; it makes no device
//! nodes. It ends with its VM, and with the shim.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, ChildStderr};
use tokio::sync::watch;

use super::tree::c_path;
use crate::error::ShimError;

/// Directory in the pod's on which the share lies in the server's namespace; for all others it stays empty.
const POINT: &str = "share";
/// Socket in the pod's directory, for a moment.
const SOCKET: &str = "share.sock";
/// Bytes of the server's standard error that are kept.
const LAST_WORDS: usize = 2 << 10;

/// Which server there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// The one of its own project, in Rust.
    Rust(PathBuf),
    /// The one that came with QEMU up to version 7.2.
    Qemu(PathBuf),
}

impl Program {
    /// What to do when there is none.
    pub const REMEDY: &'static str =
        "install virtiofsd: apt install virtiofsd (Debian 12: qemu-system-common)";

    /// Looks where distributions put them.
    pub fn find() -> Option<Self> {
        let there = |path: &str| Some(PathBuf::from(path)).filter(|path| path.is_file());
        let rust = ["/usr/libexec/virtiofsd", "/usr/lib/virtiofsd", "/usr/bin/virtiofsd"];
        rust.into_iter()
            .find_map(there)
            .map(Self::Rust)
            .or_else(|| there("/usr/lib/qemu/virtiofsd").map(Self::Qemu))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        match self {
            Self::Rust(path) | Self::Qemu(path) => path,
        }
    }

    /// Its command line, for a listening socket and the directory to share.
    fn arguments(&self, socket: i32, directory: &str) -> Vec<String> {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        match self {
            Self::Rust(_) => {
                let mut all = words(&[
                    "--sandbox=namespace",
                    "--seccomp=kill",
                    "--cache=auto",
                    "--xattr",
                    "--announce-submounts",
                    "--inode-file-handles=never",
                    "--modcaps=-mknod",
                    "--log-level=warn",
                ]);
                all.extend([format!("--fd={socket}"), format!("--shared-dir={directory}")]);
                all
            }
            Self::Qemu(_) => {
                let mut all = vec![format!("--fd={socket}"), "--rlimit-nofile=0".to_owned()];
                let options = [
                    "sandbox=namespace",
                    "cache=auto",
                    "xattr",
                    "announce_submounts",
                    "modcaps=-mknod",
                    "log_level=warn",
                ];
                for option in options {
                    all.extend(["-o".to_owned(), option.to_owned()]);
                }
                all.extend(["-o".to_owned(), format!("source={directory}")]);
                all
            }
        }
    }
}

/// The running server.
pub struct Server {
    pid: u32,
    end: watch::Receiver<Option<String>>,
}

impl Server {
    /// Starts it over the filesystem at `root`. The connected socket is the VMM's alone: when it closes, the server ends.
    ///
    /// # Errors
    /// There is no such program, or it cannot be started.
    pub fn start(dir: &Path, root: BorrowedFd<'_>) -> Result<(Self, OwnedFd), ShimError> {
        let program = Program::find().ok_or_else(|| {
            let (what, remedy) =
                ("directories of the host cannot be shared: there is no virtiofsd", Program::REMEDY);
            ShimError::Unsupported(format!("{what}\nhint: {remedy}"))
        })?;
        let attempt = format!("cannot start {}", program.path().display());
        Self::spawn(&program, dir, root).map_err(|error| ShimError::failed(&attempt, &error))
    }

    fn spawn(program: &Program, dir: &Path, root: BorrowedFd<'_>) -> io::Result<(Self, OwnedFd)> {
        let point = dir.join(POINT);
        match fs::DirBuilder::new().mode(0o700).create(&point) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        // Commas would begin another option.
        let directory = point.to_str().filter(|path| !path.contains(','));
        let directory =
            directory.ok_or_else(|| io::Error::other("the pod's directory has a comma in its name"))?;
        let (listener, socket) = connected(dir)?;
        let mut command = std::process::Command::new(program.path());
        command
            .args(program.arguments(listener.as_raw_fd(), directory))
            .env_clear()
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        hyper_sys::spawn::die_with_parent(&mut command);
        hyper_sys::spawn::with_most_files(&mut command);
        hyper_sys::spawn::inherit_only(&mut command, vec![listener]);
        hyper_sys::spawn::with_mount(&mut command, root.try_clone_to_owned()?, c_path(&point)?);
        let child = tokio::process::Command::from(command).kill_on_drop(true).spawn()?;
        let pid = child.id().ok_or_else(|| io::Error::other("it ended at once"))?;
        let (ended, end) = watch::channel(None);
        tokio::spawn(hold(child, ended));
        Ok((Self { pid, end }, socket))
    }

    /// Waits until it has ended, and says how.
    pub async fn ended(&self) -> String {
        let mut end = self.end.clone();
        match end.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(how)) => how.clone(),
            _ => "it is not known how".to_owned(),
        }
    }

    /// The process of it that is in the sandbox; there is one as soon as the VM has been launched.
    ///
    /// # Errors
    /// It has ended.
    pub fn inside(&self) -> Result<OwnedFd, ShimError> {
        if let Some(how) = &*self.end.borrow() {
            return Err(ShimError::Failed(format!("the server of shared files has ended: {how}")));
        }
        let found = child_of(self.pid).and_then(|pid| Ok(pidfd_open(pid, PidfdFlags::empty())?));
        found.map_err(|error| ShimError::failed("cannot find the server of shared files", &error))
    }
}

/// A listening socket and one connected to it; nobody else can connect.
fn connected(dir: &Path) -> io::Result<(OwnedFd, OwnedFd)> {
    let name = dir.join(SOCKET);
    let _ = fs::remove_file(&name);
    let bound = UnixListener::bind(&name);
    let both = bound.and_then(|listener| Ok((listener, UnixStream::connect(&name)?)));
    let _ = fs::remove_file(&name);
    let (listener, stream) = both?;
    Ok((listener.into(), stream.into()))
}

/// Both servers fork once, for a process in namespaces of its own.
fn child_of(pid: u32) -> io::Result<Pid> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    let child = children.split_whitespace().next().and_then(|word| word.parse().ok());
    child.and_then(Pid::from_raw).ok_or_else(|| io::Error::other("it has no process in a sandbox"))
}

/// Collects its end.
async fn hold(mut child: Child, ended: watch::Sender<Option<String>>) {
    let words = Arc::new(Mutex::new(Vec::new()));
    let reader = child.stderr.take().map(|pipe| tokio::spawn(read(pipe, words.clone())));
    let how = tokio::select! {
        status = child.wait() => status.map_or_else(|error| error.to_string(), |status| status.to_string()),
        // Nobody asks any more.
        () = ended.closed() => {
            let _ = child.kill().await;
            return;
        }
    };
    if let Some(reader) = reader {
        let _ = tokio::time::timeout(std::time::Duration::from_millis(200), reader).await;
    }
    let words = words.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let words = String::from_utf8_lossy(&words).trim().replace('\n', "; ");
    let how = if words.is_empty() { how } else { format!("{how}: {words}") };
    ended.send_replace(Some(how));
}

async fn read(mut pipe: ChildStderr, kept: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = vec![0; LAST_WORDS];
    while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(&buffer[..read]);
        let excess = kept.len().saturating_sub(LAST_WORDS);
        kept.drain(..excess);
    }
}
