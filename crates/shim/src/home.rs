//! The shim's files: those in the pod's directory, and the note in the bundle by which `delete` finds them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper_protocol::shim::files;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::error::ShimError;
use crate::pod::Pod;
use crate::service_socket;

/// The note in the bundle.
const NOTE: &str = "hyper-shim.json";

/// What `delete` must know of a shim that is dead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    /// Path of the socket of containerd's API.
    pub socket: PathBuf,
    /// The pod's directory, once there is one.
    pub dir: Option<PathBuf>,
    /// The pod's name.
    pub pod: String,
}

impl Note {
    /// Writes the note.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn write(&self, bundle: &Path) -> io::Result<()> {
        let temporary = bundle.join(format!("{NOTE}.tmp"));
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        fs::rename(temporary, bundle.join(NOTE))
    }

    /// Reads the note of a bundle, if there is a sensible one.
    pub fn read(bundle: &Path) -> Option<Self> {
        let path = bundle.join(NOTE);
        let length = fs::symlink_metadata(&path).ok().filter(|metadata| metadata.is_file())?.len();
        if length > 64 << 10 {
            return None;
        }
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// Removes the note.
    pub fn remove(bundle: &Path) {
        let _ = fs::remove_file(bundle.join(NOTE));
    }
}

/// Makes the pod's directory this shim's own: log, process number, address, socket.
///
/// # Errors
/// When a file cannot be made.
pub fn open(pod: &Arc<Pod>, dir: &Path) -> Result<(), ShimError> {
    let failed = |error: io::Error| ShimError::failed(&format!("cannot use {}", dir.display()), &error);
    log_to(&dir.join(files::SHIM_LOG)).map_err(failed)?;
    write(&dir.join(files::SHIM_PID), &format!("{}\n", std::process::id())).map_err(failed)?;
    if let Some(mut note) = Note::read(&pod.bundle) {
        note.dir = Some(dir.to_owned());
        note.write(&pod.bundle).map_err(failed)?;
        write(&dir.join(files::ADDRESS), &format!("unix://{}", note.socket.display())).map_err(failed)?;
    }
    let listener = bind(dir, files::POD_SOCKET).map_err(failed)?;
    service_socket::serve(pod.clone(), listener).map_err(failed)
}

/// Removes what only a living shim has. Exit records, console and log stay.
pub fn close(dir: &Path) {
    for name in [files::SHIM_PID, files::ADDRESS, files::POD_SOCKET] {
        let _ = fs::remove_file(dir.join(name));
    }
}

/// Binds a socket for the owner alone, by way of a descriptor of the directory: a socket's address has room for 107
/// bytes, and paths can be longer.
///
/// # Errors
/// When the directory does not take it.
pub fn bind(dir: &Path, name: &str) -> io::Result<UnixListener> {
    match fs::remove_file(dir.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let directory = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let listener = UnixListener::bind(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))?;
    fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Sends what goes to standard error, the log and last words alike, to a file.
fn log_to(path: &Path) -> io::Result<()> {
    let file = File::options().append(true).create(true).mode(0o600).open(path)?;
    rustix::stdio::dup2_stderr(&file)?;
    Ok(())
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}
