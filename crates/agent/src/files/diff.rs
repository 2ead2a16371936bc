//! What a writable layer changes.
//!
//! The writable layer says where to look; what is there is read from the union and compared with the layers below it, so
//! that whiteouts, opaque and redirected directories are what the kernel makes of them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use hyper_protocol::files::ChangeKind;
use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fgetxattr, fstat, open, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};

use super::Place;
use crate::failure::{Attempt, Failed};

/// What the agent makes in a container that has no such path, for something to be mounted on.
const MOUNT_POINTS: [&[u8]; 10] = [
    b"dev",
    b"dev/console",
    b"dev/mqueue",
    b"dev/pts",
    b"dev/shm",
    b"etc/hostname",
    b"etc/hosts",
    b"etc/resolv.conf",
    b"proc",
    b"sys",
];

/// A container's root filesystem, taken apart.
pub(super) struct Trees {
    /// The union.
    pub(super) merged: OwnedFd,
    upper: OwnedFd,
    /// The layers below; `None` where there are none.
    lower: Option<OwnedFd>,
}

/// Takes a change.
type Tell<'a> = dyn FnMut(&[u8], ChangeKind) -> io::Result<()> + 'a;

/// A directory on the way, and whether it has been told.
struct Above {
    path: Vec<u8>,
    told: bool,
}

impl Trees {
    pub(super) fn open(place: &Place) -> Result<Self, Failed> {
        let directory = |path: &Path| {
            open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .attempt(|| format!("open {}", path.display()))
        };
        let lower = match place.lower.as_slice() {
            [] => None,
            [one] => Some(directory(one)?),
            several => Some(united(several).attempt(|| "unite the layers below".to_owned())?),
        };
        Ok(Self { merged: directory(&place.root)?, upper: directory(&place.upper)?, lower })
    }

    /// Tells every changed path, without a `/` before it, directories before what is in them.
    pub(super) fn changes(&self, tell: &mut Tell<'_>) -> io::Result<()> {
        let mut walk = Walk { trees: self, above: Vec::new(), tell };
        let whole = is_marked(&self.upper, b".");
        walk.directory(b"", whole, self.lower.is_some())
    }
}

struct Walk<'a, 'b> {
    trees: &'a Trees,
    above: Vec<Above>,
    tell: &'a mut Tell<'b>,
}

impl Walk<'_, '_> {
    /// `whole`: what the writable layer does not have may be different, too. `lower`: the layers below have this directory.
    fn directory(&mut self, path: &[u8], whole: bool, lower: bool) -> io::Result<()> {
        let trees = self.trees;
        let mut all: BTreeSet<Vec<u8>> = BTreeSet::new();
        if whole {
            all.extend(names(&trees.merged, path)?);
            if let (true, Some(below)) = (lower, &trees.lower) {
                all.extend(names(below, path)?);
            }
        } else {
            all.extend(names(&trees.upper, path)?);
        }
        for name in all {
            self.child(&join(path, &name), whole, lower)?;
        }
        Ok(())
    }

    fn child(&mut self, path: &[u8], whole: bool, lower: bool) -> io::Result<()> {
        let trees = self.trees;
        let new = status(&trees.merged, path)?;
        let old = match (lower, &trees.lower) {
            (true, Some(below)) => status(below, path)?,
            _ => None,
        };
        let Some(new) = new else {
            return if old.is_some() { self.tell(path, ChangeKind::Deleted) } else { Ok(()) };
        };
        let is_directory = FileType::from_raw_mode(new.st_mode) == FileType::Directory;
        let told = match &old {
            None if is_mount_point(path, &new) => false,
            None => {
                self.tell(path, ChangeKind::Added)?;
                true
            }
            Some(old) if differ(old, &new) => {
                self.tell(path, ChangeKind::Modified)?;
                true
            }
            Some(_) => false,
        };
        if is_directory {
            let below = old.is_some_and(|old| FileType::from_raw_mode(old.st_mode) == FileType::Directory);
            let whole = whole || is_marked(&trees.upper, path);
            self.above.push(Above { path: path.to_vec(), told });
            self.directory(path, whole, below)?;
            self.above.pop();
        }
        Ok(())
    }

    /// Tells a change, and before it that the directories above are changed by it.
    fn tell(&mut self, path: &[u8], kind: ChangeKind) -> io::Result<()> {
        for above in self.above.iter_mut().filter(|above| !above.told) {
            above.told = true;
            (self.tell)(&above.path, ChangeKind::Modified)?;
        }
        (self.tell)(path, kind)
    }
}

fn is_mount_point(path: &[u8], status: &Stat) -> bool {
    let directory = FileType::from_raw_mode(status.st_mode) == FileType::Directory;
    MOUNT_POINTS.contains(&path) && (directory || status.st_size == 0)
}

/// Docker's comparison: a directory's time and size change with what is in it.
fn differ(old: &Stat, new: &Stat) -> bool {
    let directory = FileType::from_raw_mode(new.st_mode) == FileType::Directory;
    let nanoseconds = |status: &Stat| status.st_mtime_nsec;
    let same_time = old.st_mtime == new.st_mtime
        && (nanoseconds(old) == nanoseconds(new) || nanoseconds(old) == 0 || nanoseconds(new) == 0);
    (old.st_mode, old.st_uid, old.st_gid, old.st_rdev) != (new.st_mode, new.st_uid, new.st_gid, new.st_rdev)
        || (!directory && (!same_time || old.st_size != new.st_size))
}

const NO_LINKS: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

fn at(path: &[u8]) -> &OsStr {
    OsStr::from_bytes(if path.is_empty() { b"." } else { path })
}

/// What is at a path; a whiteout is nothing.
fn status(base: &OwnedFd, path: &[u8]) -> io::Result<Option<Stat>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let status = match openat2(base, at(path), flags, Mode::empty(), NO_LINKS) {
        Ok(file) => fstat(file)?,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let whiteout =
        FileType::from_raw_mode(status.st_mode) == FileType::CharacterDevice && status.st_rdev == 0;
    Ok((!whiteout).then_some(status))
}

fn open_directory(base: &OwnedFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(base, at(path), flags, Mode::empty(), NO_LINKS)
}

/// What is in a directory; in none, nothing.
fn names(base: &OwnedFd, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let directory = match open_directory(base, path) {
        Ok(directory) => directory,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut names = Vec::new();
    for entry in Dir::read_from(&directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    Ok(names)
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() || path == b"." { name.to_vec() } else { [path, b"/", name].concat() }
}

/// Whether a directory of the writable layer hides what is below it, or shows what is elsewhere below.
fn is_marked(upper: &OwnedFd, path: &[u8]) -> bool {
    let Ok(directory) = open_directory(upper, path) else { return false };
    ["trusted.overlay.opaque", "trusted.overlay.redirect"].iter().any(|name| {
        let mut value = [0; 4096];
        fgetxattr(&directory, *name, &mut value[..]).is_ok()
    })
}

/// A union of read-only layers that is mounted nowhere.
fn united(layers: &[std::path::PathBuf]) -> rustix::io::Result<OwnedFd> {
    let filesystem = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in layers.iter().rev() {
        fsconfig_set_string(&filesystem, "lowerdir+", layer)?;
    }
    fsconfig_create(&filesystem)?;
    fsmount(&filesystem, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)
}
