//! Files of an open directory into a tar.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fgetxattr, flistxattr, fstat, fstatfs, major, minor,
    openat2, readlinkat,
};
use rustix::io::Errno;

use crate::tar::{Entry, EntryKind, padding_of, trailer, write_header};

/// Bytes read from a file at once.
const CHUNK: usize = 128 << 10;
/// Longest path that tar readers take, ours among them.
const MAX_PATH: usize = 4095;
/// Longest value of an extended attribute (`XATTR_SIZE_MAX` of `linux/limits.h`), and of a list of names.
const MAX_XATTR: usize = 64 << 10;

/// Filesystems without files of the container's own (`linux/magic.h`): proc, sysfs, devpts, both cgroups, mqueue,
/// securityfs, debugfs, tracefs, bpf.
const PSEUDO: [u32; 10] = [
    0x9fa0,
    0x6265_6572,
    0x1cd1,
    0x27_e0eb,
    0x6367_7270,
    0x1980_0202,
    0x7363_6673,
    0x6462_6720,
    0x7472_6163,
    0xcafe_4a11,
];

/// Writes files into a tar, hard links among them as links.
pub struct Packer<W> {
    out: W,
    /// Where files with several names are already in the archive: by device and inode.
    written: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
}

/// A tree to pack.
pub struct Tree<'a> {
    /// An open directory.
    pub base: BorrowedFd<'a>,
    /// What to pack, by its path from there; `.` is the directory itself.
    pub path: &'a [u8],
    /// Its name in the archive. Empty: only what is in the directory is packed, each under its own name.
    pub name: &'a [u8],
    /// Directories whose content is left out, by their path from the base.
    pub shallow: &'a dyn Fn(&[u8]) -> bool,
}

impl<W: Write> Packer<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self { out, written: HashMap::new(), buffer: vec![0; CHUNK] }
    }

    /// Packs a file, or a directory with all that is in it, in the order of names. Of filesystems like `/proc` below it
    /// the directory alone is packed; sockets are left out, and so is what goes away meanwhile.
    ///
    /// # Errors
    /// The writer's; a file that is there cannot be read.
    pub fn tree(&mut self, tree: &Tree<'_>) -> io::Result<()> {
        let device = fstat(open_path(tree.base, tree.path)?)?.st_dev;
        let mut waiting = vec![(tree.path.to_vec(), tree.name.to_vec())];
        while let Some((path, name)) = waiting.pop() {
            let top = path == tree.path;
            let directory = if top && name.is_empty() {
                Some(open_file(tree.base, &path)?)
            } else {
                match self.file(tree.base, &path, &name) {
                    Ok(directory) => directory,
                    Err(error) if !top && vanished(&error) => continue,
                    Err(error) => return Err(error),
                }
            };
            let Some(directory) = directory else { continue };
            let foreign = fstat(&directory)?.st_dev != device && is_pseudo(&directory);
            if foreign || (tree.shallow)(&path) {
                continue;
            }
            for child in names(&directory)?.into_iter().rev() {
                waiting.push((join(&path, &child), join(&name, &child)));
            }
        }
        Ok(())
    }

    /// Packs one file or directory without what is in it; the open directory, if it is one.
    ///
    /// # Errors
    /// As [`Packer::tree`].
    pub fn file(&mut self, base: BorrowedFd<'_>, path: &[u8], name: &[u8]) -> io::Result<Option<OwnedFd>> {
        let looked = open_path(base, path)?;
        let status = fstat(&looked)?;
        let kind = match FileType::from_raw_mode(status.st_mode) {
            FileType::RegularFile => EntryKind::File,
            FileType::Directory => EntryKind::Directory,
            FileType::Symlink => EntryKind::Symlink,
            FileType::CharacterDevice => EntryKind::CharacterDevice,
            FileType::BlockDevice => EntryKind::BlockDevice,
            FileType::Fifo => EntryKind::Fifo,
            _ => return Ok(None),
        };
        let mut entry = entry_of(kind, &status, name);
        if entry.path.len() > MAX_PATH {
            return Err(io::Error::other("a path is longer than 4095 bytes"));
        }
        if kind != EntryKind::Directory && status.st_nlink > 1 {
            let key = (status.st_dev, status.st_ino);
            if let Some(first) = self.written.get(&key) {
                entry = Entry { kind: EntryKind::HardLink, link: first.clone(), size: 0, ..entry };
                write_header(&mut self.out, &entry)?;
                return Ok(None);
            }
            self.written.insert(key, entry.path.clone());
        }
        match kind {
            EntryKind::Symlink => {
                entry.link = readlinkat(&looked, "", Vec::new())?.into_bytes();
                write_header(&mut self.out, &entry)?;
                Ok(None)
            }
            EntryKind::File => {
                let file = open_file(base, path)?;
                let opened = fstat(&file)?;
                if (opened.st_dev, opened.st_ino) != (status.st_dev, status.st_ino) {
                    // Another has its name now.
                    return Err(Errno::NOENT.into());
                }
                entry.xattrs = xattrs(file.as_fd());
                write_header(&mut self.out, &entry)?;
                self.content(File::from(file), entry.size)?;
                Ok(None)
            }
            EntryKind::Directory => {
                let directory = open_file(base, path)?;
                entry.xattrs = xattrs(directory.as_fd());
                write_header(&mut self.out, &entry)?;
                Ok(Some(directory))
            }
            _ => {
                write_header(&mut self.out, &entry)?;
                Ok(None)
            }
        }
    }

    /// Writes an empty file of root's.
    ///
    /// # Errors
    /// The writer's.
    pub fn mark(&mut self, name: &[u8], mtime: i64) -> io::Result<()> {
        let entry = Entry {
            kind: EntryKind::File,
            path: name.to_vec(),
            link: Vec::new(),
            mode: 0,
            uid: 0,
            gid: 0,
            mtime,
            mtime_nanoseconds: 0,
            size: 0,
            sparse: None,
            device: (0, 0),
            xattrs: Vec::new(),
        };
        write_header(&mut self.out, &entry)
    }

    /// As many bytes as the header says, whatever becomes of the file meanwhile.
    fn content(&mut self, mut file: File, size: u64) -> io::Result<()> {
        let mut left = size;
        while left > 0 {
            let want = left.min(CHUNK as u64) as usize;
            let mut count = file.read(&mut self.buffer[..want])?;
            if count == 0 {
                // It has become shorter.
                self.buffer[..want].fill(0);
                count = want;
            }
            self.out.write_all(&self.buffer[..count])?;
            left -= count as u64;
        }
        self.out.write_all(&[0; 512][..padding_of(size) as usize])
    }

    /// Ends the archive and gives the writer back.
    ///
    /// # Errors
    /// The writer's.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&trailer())?;
        self.out.flush()?;
        Ok(self.out)
    }
}

fn entry_of(kind: EntryKind, status: &Stat, name: &[u8]) -> Entry {
    let mut path = name.to_vec();
    if kind == EntryKind::Directory && !path.ends_with(b"/") {
        path.push(b'/');
    }
    let is_device = matches!(kind, EntryKind::CharacterDevice | EntryKind::BlockDevice);
    Entry {
        kind,
        path,
        link: Vec::new(),
        mode: (status.st_mode & 0o7777) as u16,
        uid: status.st_uid,
        gid: status.st_gid,
        // To the second, as docker's are.
        mtime: status.st_mtime,
        mtime_nanoseconds: 0,
        size: if kind == EntryKind::File { u64::try_from(status.st_size).unwrap_or(0) } else { 0 },
        sparse: None,
        device: if is_device { (major(status.st_rdev), minor(status.st_rdev)) } else { (0, 0) },
        xattrs: Vec::new(),
    }
}

/// No symbolic link on the way: names come from directories that were listed, and may have changed since.
const NO_LINKS: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

fn open_path(base: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(base, OsStr::from_bytes(path), flags, Mode::empty(), NO_LINKS)
}

fn open_file(base: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    openat2(base, OsStr::from_bytes(path), flags, Mode::empty(), NO_LINKS)
}

fn vanished(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        || Errno::from_io_error(error) == Some(Errno::LOOP)
}

fn is_pseudo(directory: &OwnedFd) -> bool {
    fstatfs(directory).is_ok_and(|status| PSEUDO.contains(&(status.f_type as u32)))
}

/// What is in a directory, in order.
pub(crate) fn names(directory: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// A path below another; below none it is the name alone.
fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    let mut joined = path.to_vec();
    if !joined.is_empty() && !joined.ends_with(b"/") {
        joined.push(b'/');
    }
    joined.extend(name);
    joined
}

/// The attributes that archives carry: capabilities of programs, and the user's own. What cannot be read is left out.
fn xattrs(file: BorrowedFd<'_>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut list = vec![0; MAX_XATTR];
    let Ok(length) = flistxattr(file, &mut list[..]) else { return Vec::new() };
    let wanted = |name: &&[u8]| {
        *name == b"security.capability" || (name.starts_with(b"user.") && !name.contains(&b'='))
    };
    let mut found = Vec::new();
    for name in list[..length].split(|byte| *byte == 0).filter(wanted) {
        let mut value = vec![0; MAX_XATTR];
        if let Ok(length) = fgetxattr(file, OsStr::from_bytes(name), &mut value[..]) {
            value.truncate(length);
            found.push((name.to_vec(), value));
        }
    }
    found
}
