//! Where everything lives: root, runtime directory, programs, guest.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use sha2::{Digest as _, Sha256};

use crate::error::{EngineError, Kind, Result};

/// Root of an instance that was told none.
pub const DEFAULT_ROOT: &str = "/var/lib/hyper";

/// Runtime directory of an instance that was told none.
pub const DEFAULT_RUN: &str = "/run/hyper";

/// How long a daemon that was killed may still hold its root: its threads end one by one, and one of them may have a
/// write to finish.
const DYING: Duration = Duration::from_secs(5);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// Guest files beside no binary.
const INSTALLED_GUEST: &str = "/usr/lib/hyper/guest";

/// Name of the shim, as containerd wants it for the runtime `io.containerd.hyper.v2`.
const SHIM: &str = "containerd-shim-hyper-v2";

/// Most bytes of a socket's path (`sun_path` in `unix(7)`, less the NUL).
const SOCKET_PATH_MAX: usize = 107;

/// What [`Places::pod`] and the longest socket name in it add to the runtime directory.
const POD_SOCKET_SUFFIX: usize = "/pods/0123456789abcdef/pod.sock".len();

/// Directories and programs of one instance.
#[derive(Debug, Clone)]
pub struct Places {
    /// State that survives reboots.
    pub root: PathBuf,
    /// Sockets and pids.
    pub run: PathBuf,
    /// Directory with `vmlinux` and `initramfs.cpio`; `None` for the usual places.
    pub guest: Option<PathBuf>,
}

impl Places {
    /// The state database, shared with the image store.
    pub fn database(&self) -> PathBuf {
        self.root.join("hyper.db")
    }

    /// The image store's directory.
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// Things that can be made again.
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// A container's own directory.
    pub fn container(&self, id: &str) -> PathBuf {
        self.root.join("containers").join(id)
    }

    /// The volumes' directory.
    pub fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    /// A container's log.
    pub fn log(&self, id: &str) -> PathBuf {
        self.container(id).join(format!("{id}-json.log"))
    }

    /// A pod's runtime directory, which is its shim's.
    pub fn pod(&self, id: &str) -> PathBuf {
        self.run.join("pods").join(id)
    }

    /// First six hexadecimal digits of the SHA-256 of the root's path: tells instances apart in names that
    /// the whole host sees.
    pub fn instance_id(&self) -> String {
        let digest = Sha256::digest(self.root.as_os_str().as_encoded_bytes());
        digest.iter().take(3).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether this is the instance with the short global names.
    pub fn is_default_root(&self) -> bool {
        self.root == Path::new(DEFAULT_ROOT)
    }

    /// The shim: beside this program, else in `PATH`.
    ///
    /// # Errors
    /// It is in neither.
    pub fn shim(&self) -> Result<PathBuf> {
        let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(SHIM)));
        let in_path = std::env::var_os("PATH")
            .map(|path| std::env::split_paths(&path).map(|dir| dir.join(SHIM)).collect::<Vec<_>>())
            .unwrap_or_default();
        beside.into_iter().chain(in_path).find(|path| path.is_file()).ok_or_else(|| {
            EngineError::new(Kind::System, format!("{SHIM} is neither beside hyperd nor in PATH"))
                .with_hint("build it with `make build`, or install the whole package")
        })
    }

    /// A file of the guest (`vmlinux`, `initramfs.cpio`).
    ///
    /// # Errors
    /// It is in none of the places.
    pub fn guest_file(&self, name: &str) -> Result<PathBuf> {
        let candidates: Vec<PathBuf> = match &self.guest {
            Some(dir) => vec![dir.clone()],
            None => {
                let exe = std::env::current_exe().ok();
                let beside = exe.as_deref().and_then(Path::parent).map(|dir| dir.join("guest"));
                beside.into_iter().chain([PathBuf::from(INSTALLED_GUEST)]).collect()
            }
        };
        candidates.iter().map(|dir| dir.join(name)).find(|path| path.is_file()).ok_or_else(|| {
            let dirs: Vec<_> = candidates.iter().map(|dir| dir.display().to_string()).collect();
            EngineError::new(Kind::System, format!("guest file {name} is not in {}", dirs.join(" or ")))
                .with_hint("build it with `make build`, or set HYPER_GUEST to the directory that has it")
        })
    }

    /// Makes the directories, private to the daemon, and takes the root's lock.
    ///
    /// # Errors
    /// A directory cannot be made, another daemon has the lock, or the runtime directory's path is too long
    /// for sockets.
    pub fn prepare(&self) -> Result<RootLock> {
        let longest = self.run.as_os_str().len() + POD_SOCKET_SUFFIX;
        if longest > SOCKET_PATH_MAX {
            return Err(EngineError::invalid(format!(
                "runtime directory {} is too long by {} bytes for the sockets in it",
                self.run.display(),
                longest - SOCKET_PATH_MAX
            ))
            .with_hint("choose a shorter HYPER_RUN"));
        }
        for (dir, mode) in [
            (self.root.clone(), 0o700),
            (self.root.join("containers"), 0o700),
            (self.cache(), 0o700),
            (self.volumes(), 0o711),
            (self.run.clone(), 0o711),
            (self.run.join("pods"), 0o700),
        ] {
            make_dir(&dir, mode).map_err(|source| {
                EngineError::system(format!("cannot make directory {}", dir.display()), source)
            })?;
        }
        RootLock::take(&self.root)
    }
}

fn make_dir(dir: &Path, mode: u32) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    match fs::DirBuilder::new().mode(mode).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }?;
    fs::set_permissions(dir, fs::Permissions::from_mode(mode))
}

/// The right to use a root; ends when dropped or when the process ends, however it does.
#[derive(Debug)]
pub struct RootLock {
    _file: File,
}

impl RootLock {
    /// Blocks for a moment when another has it, which may be about to be gone.
    fn take(root: &Path) -> Result<Self> {
        let path = root.join("engine.lock");
        let file =
            File::options().create(true).truncate(false).write(true).open(&path).map_err(|source| {
                EngineError::system(format!("cannot open lock file {}", path.display()), source)
            })?;
        let began = Instant::now();
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { _file: file }),
                Err(rustix::io::Errno::WOULDBLOCK) if began.elapsed() < DYING => {
                    std::thread::sleep(LOOK);
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(EngineError::conflict(format!("another hyperd uses {}", root.display()))
                        .with_hint("stop it, or choose another HYPER_ROOT"));
                }
                Err(errno) => {
                    let text = format!("cannot lock {}", path.display());
                    return Err(EngineError::system(text, io::Error::from(errno)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(dir: &Path) -> Places {
        Places { root: dir.join("root"), run: dir.join("run"), guest: None }
    }

    #[test]
    fn second_daemon_on_a_root_is_refused_until_the_first_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        let lock = places.prepare().unwrap();
        let refused = places.prepare().unwrap_err();
        assert_eq!(refused.kind, Kind::Conflict);
        drop(lock);
        places.prepare().unwrap();
    }

    #[test]
    fn runtime_directory_too_long_for_sockets_is_refused() {
        let places = Places {
            root: "/nonexistent/root".into(),
            run: PathBuf::from("/").join("x".repeat(90)),
            guest: None,
        };
        assert_eq!(places.prepare().unwrap_err().kind, Kind::Invalid);
    }

    #[test]
    fn instance_id_is_the_start_of_the_roots_hash() {
        let places = Places { root: "/var/lib/hyper".into(), run: "/run/hyper".into(), guest: None };
        assert_eq!(places.instance_id().len(), 6);
        assert!(places.is_default_root());
    }
}
