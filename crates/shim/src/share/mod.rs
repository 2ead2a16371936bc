//! Files of the host that containers of a pod see: by a virtio-fs device whose root directory has an entry for each.
//!
//! There is one device and one server ([`server`]) for a pod: a microvm has no place for many devices and cannot be given
//! one while it runs. What a container shares is put into the server's mount namespace when the container is made, and
//! taken out with it ([`tree`]): what is not there the server cannot reach, whatever the guest asks of it.

mod server;
mod tree;

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;
use tokio::sync::Mutex;

use crate::error::ShimError;

pub use server::{Program, Server};
use tree::Tree;

/// A part of a file tree: device and inode, and whether it cannot be written.
type Key = (u64, u64, bool);

/// What of the host is shared with the guest, and with how many containers.
pub struct Shares {
    server: Server,
    tree: Arc<Tree>,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    known: HashMap<Key, Entry>,
    // Names are not used twice: a guest may remember what was behind one.
    next: u64,
}

struct Entry {
    name: String,
    uses: usize,
}

/// A file or directory of the host, open.
#[derive(Debug)]
pub struct Source {
    file: OwnedFd,
    directory: bool,
    key: Key,
}

/// What a container has been given; to be given back.
#[derive(Debug)]
pub struct Shared {
    key: Key,
    /// Its name in the root directory of the device.
    pub name: String,
}

impl Shares {
    /// Starts the server; the VM is to be launched with the socket. `dir` is the pod's directory.
    ///
    /// # Errors
    /// There is no server, or it does not start.
    pub fn start(dir: &Path) -> Result<(Self, OwnedFd), ShimError> {
        let tree = Tree::new().map_err(|error| ShimError::failed("cannot make the pod's share", &error))?;
        let (server, socket) = Server::start(dir, tree.root())?;
        Ok((Self { server, tree: Arc::new(tree), entries: Mutex::default() }, socket))
    }

    /// The server.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Shows a file or directory to the guest, which must have been launched.
    ///
    /// # Errors
    /// Nothing more is shown then.
    pub async fn add(&self, source: Source) -> Result<Shared, ShimError> {
        let mut entries = self.entries.lock().await;
        // One that is shown for writing serves readers as well: the guest has it already, and both see each other's
        // changes at once.
        let (device, inode, _) = source.key;
        let same = [source.key, (device, inode, false)];
        for key in same {
            if let Some(entry) = entries.known.get_mut(&key) {
                entry.uses += 1;
                return Ok(Shared { key, name: entry.name.clone() });
            }
        }
        let name = entries.next.to_string();
        entries.next += 1;
        let key = source.key;
        let server = self.server.inside()?;
        let (tree, at) = (self.tree.clone(), name.clone());
        let put = move || tree.put(&server, &at, source.file.as_fd(), source.directory, key.2);
        within_thread(put)
            .await
            .map_err(|error| ShimError::failed("cannot share a file of the host", &error))?;
        entries.known.insert(key, Entry { name: name.clone(), uses: 1 });
        Ok(Shared { key, name })
    }

    /// Takes back what a container was given.
    pub async fn remove(&self, shared: &[Shared]) {
        let mut entries = self.entries.lock().await;
        for Shared { key, name } in shared {
            let Some(entry) = entries.known.get_mut(key) else { continue };
            entry.uses -= 1;
            if entry.uses > 0 {
                continue;
            }
            entries.known.remove(key);
            // Without a server there is nothing to take it out of.
            let Ok(server) = self.server.inside() else { continue };
            let (tree, at) = (self.tree.clone(), name.clone());
            if let Err(error) = within_thread(move || tree.take(&server, &at)).await {
                tracing::warn!(name, %error, "a share stays until the pod's end");
            }
        }
    }
}

/// Namespaces belong to threads.
async fn within_thread(work: impl FnOnce() -> std::io::Result<()> + Send + 'static) -> std::io::Result<()> {
    let (done, outcome) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("share".into()).stack_size(256 << 10).spawn(move || {
        let _ = done.send(work());
    })?;
    outcome.await.unwrap_or_else(|_| Err(std::io::Error::other("the thread ended early")))
}

impl Source {
    /// Opens a file or directory, or a part of a directory that is looked up without leaving it.
    ///
    /// # Errors
    /// It does not exist, or is neither a directory nor a regular file.
    pub fn open(path: &Path, subpath: &str, read_only: bool) -> Result<Self, ShimError> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let missing = |shown: &Path, error: Errno| {
            let words =
                if error == Errno::NOENT { "no such file or directory".into() } else { error.to_string() };
            ShimError::Invalid(format!("cannot access path {}: {words}", shown.display()))
        };
        let opened = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS);
        let mut file = opened.map_err(|error| missing(path, error))?;
        let shown = path.join(subpath);
        if !subpath.is_empty() {
            let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            let part = openat2(&file, subpath, flags, Mode::empty(), within);
            file = part.map_err(|error| missing(&shown, error))?;
        }
        let status = fstat(&file).map_err(|error| missing(&shown, error))?;
        let kind = FileType::from_raw_mode(status.st_mode);
        let what = match kind {
            FileType::Directory | FileType::RegularFile => {
                let key = (status.st_dev, status.st_ino, read_only);
                return Ok(Self { file, directory: kind == FileType::Directory, key });
            }
            FileType::Socket => "a socket: who listens on it is not in the VM",
            FileType::Fifo => "a named pipe: who is at its other end is not in the VM",
            FileType::BlockDevice => "a block device: use --device, which makes it a disk of the VM",
            _ => "a device: the VM has its own",
        };
        let shown = shown.display();
        Err(ShimError::Unsupported(format!("bind mount of {shown} is not supported: it is {what}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_of_a_volume_is_looked_up_within_it() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        std::fs::create_dir_all(volume.join("a/b")).unwrap();
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        std::os::unix::fs::symlink("/a", volume.join("link")).unwrap();
        std::os::unix::fs::symlink("../../outside", volume.join("escape")).unwrap();
        let inode = |subpath: &str| Source::open(&volume, subpath, false).map(|source| source.key.1);
        use std::os::unix::fs::MetadataExt as _;
        let meant = std::fs::metadata(volume.join("a/b")).unwrap().ino();
        assert_eq!(inode("a/b").unwrap(), meant);
        assert_eq!(inode("link/b").unwrap(), meant, "a link is followed as if the volume were the root");
        assert!(inode("escape").unwrap_err().to_string().ends_with("no such file or directory"));
        assert!(inode("nosuch").is_err());
        assert_eq!(inode("..").unwrap(), std::fs::metadata(&volume).unwrap().ino());
    }

    #[test]
    fn what_makes_no_sense_across_the_wall_of_a_vm_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for (path, words) in
            [(socket.as_path(), "it is a socket"), (Path::new("/dev/null"), "it is a device")]
        {
            let error = Source::open(path, "", false).unwrap_err();
            assert!(matches!(&error, ShimError::Unsupported(text) if text.contains(words)), "{error}");
        }
        let missing = Source::open(&dir.path().join("nosuch"), "", false).unwrap_err();
        assert!(matches!(missing, ShimError::Invalid(_)));
    }
}
