//! The root directory of a pod's share: a small filesystem in memory, whose entries are bind mounts.
//!
//! The guest cannot write to it, only to what is mounted on its entries. All mounts are the server's alone: on the host
//! nothing is mounted, so that no cleaning up can ever run into the shared files.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hyper_sys::mount::{self, Change};
use hyper_sys::namespace::{self, Namespaces};
use rustix::fs::{AtFlags, CWD, FileType, Mode, fstat, mkdirat, mknodat, stat, unlinkat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};

/// Most entries, and some for the directory itself: entries are all there is in it.
const INODES_MAX: &str = "4096";

/// What holds for every mount in the server's namespace: nothing in it is ever executed or opened as a device by the
/// server, also when it does not do what it should.
const GUARDED: u64 = mount::NO_DEVICES | mount::NO_SUID | mount::NO_EXEC;

/// The filesystem.
pub struct Tree(OwnedFd);

impl Tree {
    /// An empty one, mounted nowhere.
    pub fn new() -> io::Result<Self> {
        let filesystem = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (name, value) in [("source", "hyper-share"), ("mode", "0755"), ("nr_inodes", INODES_MAX)] {
            fsconfig_set_string(&filesystem, name, value)?;
        }
        fsconfig_create(&filesystem)?;
        let flags = MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        Ok(Self(fsmount(&filesystem, FsMountFlags::FSMOUNT_CLOEXEC, flags)?))
    }

    /// Its root, by which it can be written to.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Puts a file or directory of the host, with what is mounted below it, into the namespace of the server. For a thread
    /// of its own.
    pub fn put(
        &self,
        server: &OwnedFd,
        name: &str,
        file: BorrowedFd<'_>,
        directory: bool,
        read_only: bool,
    ) -> io::Result<()> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE
            | OpenTreeFlags::AT_EMPTY_PATH;
        let tree = open_tree(file, "", flags)?;
        let set = GUARDED | if read_only { mount::READ_ONLY } else { 0 };
        let propagation = u64::from(MountPropagationFlags::PRIVATE.bits());
        mount::change(tree.as_fd(), c"", true, Change { set, propagation, ..Change::default() })?;
        if directory {
            mkdirat(&self.0, name, Mode::from_raw_mode(0o755))?;
        } else {
            mknodat(&self.0, name, FileType::RegularFile, Mode::from_raw_mode(0o644), 0)?;
        }
        let put = self.enter(server).and_then(|()| {
            Ok(move_mount(&tree, "", CWD, format!("/{name}"), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
        });
        if put.is_err() {
            self.forget(name);
        }
        put
    }

    /// Takes it out again. For a thread of its own.
    pub fn take(&self, server: &OwnedFd, name: &str) -> io::Result<()> {
        self.enter(server)?;
        unmount(format!("/{name}"), UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
        self.forget(name);
        Ok(())
    }

    fn forget(&self, name: &str) {
        if unlinkat(&self.0, name, AtFlags::empty()).is_err() {
            let _ = unlinkat(&self.0, name, AtFlags::REMOVEDIR);
        }
    }

    /// Moves the calling thread into the mount namespace of the server, whose root directory this is.
    fn enter(&self, server: &OwnedFd) -> io::Result<()> {
        let mounts = Namespaces { mount: true, ..Namespaces::default() };
        // Its root and working directory are the thread's own from here on.
        namespace::leave(mounts)?;
        namespace::join(server.as_fd(), mounts)?;
        let (there, ours) = (stat("/")?, fstat(&self.0)?);
        if (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino) {
            return Err(io::Error::other("the server is not in its sandbox"));
        }
        Ok(())
    }
}

/// A path as `execve` and `mount` take it.
pub fn c_path(path: &std::path::Path) -> io::Result<CString> {
    use std::os::unix::ffi::OsStrExt as _;
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}
