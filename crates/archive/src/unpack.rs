//! A tar into an open directory, by docker's rules of what replaces what.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags, chmodat,
    chownat, fchmod, fchown, fsetxattr, linkat, makedev, mkdirat, mknodat, openat, openat2, statat,
    symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use crate::pack::names;
use crate::tar::{Entry, EntryKind, Reader, TarError};

/// Directories whose times are set at the end; beyond it, at once.
const MAX_LATER: usize = 1 << 20;

/// How far symbolic links may lead that are there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walls {
    /// Anywhere within the process's own root: a container's.
    Root,
    /// Nowhere: every directory on the way to a file must be one, below the target.
    Target,
}

/// Whose files are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// As the archive says.
    Archive,
    /// The process's own.
    Own,
    /// This user and group.
    Of(u32, u32),
}

/// How to unpack.
#[derive(Debug, Clone)]
pub struct UnpackOptions<'a> {
    /// A directory is not replaced by another kind of file, nor the other way round.
    pub no_overwrite: bool,
    /// Whose the files are.
    pub owner: Owner,
    /// Make devices, and set attributes that give rights.
    pub privileged: bool,
    /// How far links lead.
    pub walls: Walls,
    /// The target's name in messages.
    pub target: &'a str,
    /// The first occurrence of one text in every name becomes the other.
    pub rename: Option<(&'a [u8], &'a [u8])>,
    /// Every name must be this one (after the renaming) or below it; empty for any.
    pub only: &'a [u8],
}

/// Why an archive was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It is no sound tar.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// It wants what must not be.
    #[error("{0}")]
    Refused(String),
    /// A file cannot be made.
    #[error("cannot make {path}")]
    File {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Unpacks everything into `target`. What has been made when it fails stays.
///
/// # Errors
/// See [`UnpackError`].
pub fn unpack(
    source: impl BufRead,
    target: BorrowedFd<'_>,
    options: &UnpackOptions<'_>,
) -> Result<(), UnpackError> {
    let mut reader = Reader::new(source, ());
    let mut work = Work { target, options, later: Vec::new(), last: None };
    while let Some(mut entry) = reader.next_entry()? {
        if let Some((from, to)) = options.rename {
            entry.path = replaced(&entry.path, from, to);
            if entry.kind == EntryKind::HardLink {
                entry.link = replaced(&entry.link, from, to);
            }
        }
        work.entry(&entry, &mut reader)?;
    }
    let later = std::mem::take(&mut work.later);
    work.last = None;
    for (path, seconds, nanoseconds) in later {
        let set = work.resolve(&path).and_then(|directory| {
            utimensat(&directory, "", &times(seconds, nanoseconds), AtFlags::EMPTY_PATH)
        });
        // One that has gone meanwhile needs no time.
        if let Err(error) = set
            && error != Errno::NOENT
        {
            return Err(failed(&path, error));
        }
    }
    Ok(())
}

struct Work<'a> {
    target: BorrowedFd<'a>,
    options: &'a UnpackOptions<'a>,
    /// Directories and their times: what is made in them would change these.
    later: Vec<(Vec<u8>, i64, u32)>,
    /// The parent of the last entry.
    last: Option<(Vec<u8>, OwnedFd)>,
}

impl Work<'_> {
    fn entry<R: BufRead>(&mut self, entry: &Entry, reader: &mut Reader<R, ()>) -> Result<(), UnpackError> {
        let path = self.inside(&entry.path)?;
        if path.is_empty() {
            return match entry.kind {
                EntryKind::Directory if entry.path.starts_with(b"/") => self.attributes(&path, entry),
                EntryKind::Directory => Ok(()),
                _ => Err(self.overwrites(b".", true)),
            };
        }
        let only = self.options.only;
        let within = path == only || path.strip_prefix(only).is_some_and(|rest| rest.starts_with(b"/"));
        if !only.is_empty() && !within {
            return Err(UnpackError::Refused(format!(
                "the archive has {:?}, which is not below {:?}",
                shown(&entry.path),
                shown(only)
            )));
        }
        let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&b""[..], &path[..]),
        };
        let parent = self.parent(parent)?;
        let parent = parent.as_fd();
        let name = OsStr::from_bytes(name);
        let error = |error: Errno| failed(&path, error);
        let there = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(status) => Some(FileType::from_raw_mode(status.st_mode) == FileType::Directory),
            Err(Errno::NOENT) => None,
            Err(other) => return Err(error(other)),
        };
        let makes_directory = entry.kind == EntryKind::Directory;
        if let Some(directory) = there
            && directory != makes_directory
            && self.options.no_overwrite
        {
            return Err(self.overwrites(&path, directory));
        }
        if there.is_some() && there != Some(makes_directory) || there == Some(false) {
            self.last = None;
            remove(parent, name).map_err(|source| UnpackError::File { path: shown(&path), source })?;
        }
        match entry.kind {
            EntryKind::Directory => {
                if there != Some(true) {
                    mkdirat(parent, name, Mode::from_raw_mode(0o700)).map_err(error)?;
                }
                return self.attributes(&path, entry);
            }
            EntryKind::File => return self.file(parent, name, &path, entry, reader),
            EntryKind::HardLink => {
                let to = self.inside(&entry.link).map_err(|_| {
                    UnpackError::Refused(format!(
                        "invalid hardlink {:?} -> {:?}",
                        shown(&path),
                        shown(&entry.link)
                    ))
                })?;
                let (directory, to) = match to.iter().rposition(|byte| *byte == b'/') {
                    Some(at) => (self.resolve(&to[..at]).map_err(error)?, to[at + 1..].to_vec()),
                    None => (self.resolve(b"").map_err(error)?, to),
                };
                return linkat(&directory, OsStr::from_bytes(&to), parent, name, AtFlags::empty())
                    .map_err(error);
            }
            EntryKind::Symlink => {
                let depth = path.iter().filter(|byte| **byte == b'/').count();
                if leaves(&entry.link, depth) && self.options.target != "/" {
                    return Err(UnpackError::Refused(format!(
                        "invalid symlink {:?} -> {:?}",
                        shown(&path),
                        shown(&entry.link)
                    )));
                }
                symlinkat(OsStr::from_bytes(&entry.link), parent, name).map_err(error)?;
            }
            EntryKind::CharacterDevice | EntryKind::BlockDevice if !self.options.privileged => {
                return Err(UnpackError::Refused(format!(
                    "{:?} is a device: devices of a container are not made outside of it",
                    shown(&path)
                )));
            }
            EntryKind::CharacterDevice | EntryKind::BlockDevice | EntryKind::Fifo => {
                let kind = match entry.kind {
                    EntryKind::CharacterDevice => FileType::CharacterDevice,
                    EntryKind::BlockDevice => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                let mode = Mode::from_raw_mode(entry.mode.into());
                mknodat(parent, name, kind, mode, makedev(entry.device.0, entry.device.1)).map_err(error)?;
            }
        }
        if let Some((uid, gid)) = self.owner(entry) {
            chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(error)?;
        }
        if entry.kind != EntryKind::Symlink {
            // The mode that it was made with passed through the process's mask, and an owner takes bits away.
            chmodat(parent, name, Mode::from_raw_mode(entry.mode.into()), AtFlags::empty()).map_err(error)?;
        }
        let times = times(entry.mtime, entry.mtime_nanoseconds);
        utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(error)
    }

    fn file<R: BufRead>(
        &self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        path: &[u8],
        entry: &Entry,
        reader: &mut Reader<R, ()>,
    ) -> Result<(), UnpackError> {
        let error = |error: Errno| failed(path, error);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(parent, name, flags, Mode::from_raw_mode(0o600)).map_err(error)?;
        let mut file = File::from(file);
        let failed = |source| UnpackError::File { path: shown(path), source };
        match &entry.sparse {
            None => reader.payload(|(), bytes| file.write_all(bytes).map_err(failed))?,
            Some(map) => {
                let mut pieces = map.iter().copied();
                let mut left = 0;
                reader.payload(|(), mut bytes| {
                    while !bytes.is_empty() {
                        if left == 0 {
                            let (offset, length) = pieces.next().ok_or(TarError::Truncated)?;
                            file.seek(SeekFrom::Start(offset)).map_err(failed)?;
                            left = length;
                        }
                        let count = left.min(bytes.len() as u64) as usize;
                        file.write_all(&bytes[..count]).map_err(failed)?;
                        left -= count as u64;
                        bytes = &bytes[count..];
                    }
                    Ok::<_, UnpackError>(())
                })?;
                file.set_len(entry.size).map_err(failed)?;
            }
        }
        if let Some((uid, gid)) = self.owner(entry) {
            fchown(&file, Some(uid), Some(gid)).map_err(error)?;
        }
        self.xattrs(file.as_fd(), entry);
        fchmod(&file, Mode::from_raw_mode(entry.mode.into())).map_err(error)?;
        utimensat(&file, "", &times(entry.mtime, entry.mtime_nanoseconds), AtFlags::EMPTY_PATH).map_err(error)
    }

    /// Makes a directory that is there what the archive says.
    fn attributes(&mut self, path: &[u8], entry: &Entry) -> Result<(), UnpackError> {
        let error = |error: Errno| failed(path, error);
        let at = if path.is_empty() { b"." } else { path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory =
            openat2(self.target, OsStr::from_bytes(at), flags, Mode::empty(), self.flags()).map_err(error)?;
        if let Some((uid, gid)) = self.owner(entry) {
            fchown(&directory, Some(uid), Some(gid)).map_err(error)?;
        }
        self.xattrs(directory.as_fd(), entry);
        fchmod(&directory, Mode::from_raw_mode(entry.mode.into())).map_err(error)?;
        if self.later.len() < MAX_LATER {
            self.later.push((path.to_vec(), entry.mtime, entry.mtime_nanoseconds));
            return Ok(());
        }
        utimensat(&directory, "", &times(entry.mtime, entry.mtime_nanoseconds), AtFlags::EMPTY_PATH)
            .map_err(error)
    }

    /// Sets what can be set: not every filesystem has attributes.
    fn xattrs(&self, file: BorrowedFd<'_>, entry: &Entry) {
        for (name, value) in &entry.xattrs {
            if self.options.privileged || name.starts_with(b"user.") {
                let _ = fsetxattr(file, OsStr::from_bytes(name), value, XattrFlags::empty());
            }
        }
    }

    fn owner(&self, entry: &Entry) -> Option<(Uid, Gid)> {
        let (uid, gid) = match self.options.owner {
            Owner::Own => return None,
            Owner::Archive => (entry.uid, entry.gid),
            Owner::Of(uid, gid) => (uid, gid),
        };
        // All ones mean "leave it" to the kernel.
        (uid != u32::MAX && gid != u32::MAX).then(|| (Uid::from_raw(uid), Gid::from_raw(gid)))
    }

    fn flags(&self) -> ResolveFlags {
        match self.options.walls {
            Walls::Root => ResolveFlags::NO_MAGICLINKS,
            Walls::Target => ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        }
    }

    /// Opens a directory below the target.
    fn resolve(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat2(self.target, OsStr::from_bytes(path), flags, Mode::empty(), self.flags())
    }

    /// The directory in which an entry is made, itself made with its parents if it is not there.
    fn parent(&mut self, path: &[u8]) -> Result<OwnedFd, UnpackError> {
        let error = |error: Errno| failed(path, error);
        if let Some((last, directory)) = &self.last
            && last == path
        {
            return directory.try_clone().map_err(|source| UnpackError::File { path: shown(path), source });
        }
        let directory = match self.resolve(path) {
            Err(Errno::NOENT) => self.make(path).map_err(error)?,
            outcome => outcome.map_err(error)?,
        };
        let kept = directory.try_clone().map_err(|source| UnpackError::File { path: shown(path), source })?;
        self.last = Some((path.to_vec(), kept));
        Ok(directory)
    }

    fn make(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let mut at = self.resolve(b"")?;
        let mut length = 0;
        for name in path.split(|byte| *byte == b'/') {
            length += name.len() + usize::from(length > 0);
            at = match self.resolve(&path[..length]) {
                Err(Errno::NOENT) => {
                    mkdirat(&at, OsStr::from_bytes(name), Mode::from_raw_mode(0o755))?;
                    self.resolve(&path[..length])?
                }
                outcome => outcome?,
            };
        }
        Ok(at)
    }

    /// A name without `.` and `..`, relative to the target.
    fn inside(&self, path: &[u8]) -> Result<Vec<u8>, UnpackError> {
        let mut parts: Vec<&[u8]> = Vec::new();
        for part in path.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." if parts.pop().is_none() && !path.starts_with(b"/") => {
                    let (path, target) = (shown(path), self.options.target);
                    return Err(UnpackError::Refused(format!("{path:?} is outside of {target:?}")));
                }
                b".." => {}
                part => parts.push(part),
            }
        }
        Ok(parts.join(&b'/'))
    }

    fn overwrites(&self, path: &[u8], directory: bool) -> UnpackError {
        let target = self.options.target;
        let path = format!("{}/{}", target.trim_end_matches('/'), shown(path));
        UnpackError::Refused(if directory {
            format!("cannot overwrite directory {path:?} with non-directory {target:?}")
        } else {
            format!("cannot overwrite non-directory {path:?} with directory {target:?}")
        })
    }
}

/// Whether a relative link at this depth leads above the target, read as text.
fn leaves(link: &[u8], depth: usize) -> bool {
    let mut depth = depth;
    for part in link.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if depth == 0 => return true,
            b".." => depth -= 1,
            _ => depth += 1,
        }
    }
    false
}

fn replaced(name: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = if from.is_empty() { Some(0) } else { name.windows(from.len()).position(|part| part == from) };
    match at {
        Some(at) => [&name[..at], to, &name[at + from.len()..]].concat(),
        None => name.to_vec(),
    }
}

/// Removes a file, or a directory with all that is in it.
fn remove(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        outcome => return outcome.map_err(Into::into),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(parent, name, flags, Mode::empty())?;
    for name in names(&directory)? {
        remove(directory.as_fd(), OsStr::from_bytes(&name))?;
    }
    unlinkat(parent, name, AtFlags::REMOVEDIR).map_err(Into::into)
}

fn times(seconds: i64, nanoseconds: u32) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

fn failed(path: &[u8], error: Errno) -> UnpackError {
    UnpackError::File { path: shown(path), source: error.into() }
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
