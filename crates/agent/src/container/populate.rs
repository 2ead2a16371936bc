//! Filling an empty volume with what an image has in its place.
//!
//! A copy that was interrupted is begun anew: a marker file lies in the volume as long as it is not complete.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod,
    fchown, fgetxattr, flistxattr, fsetxattr, fstat, futimens, linkat, mkdirat, mknodat, openat, readlinkat,
    statat, symlinkat, syncfs, unlinkat, utimensat,
};
use rustix::io::Errno;

/// The marker.
const MARKER: &str = ".hyper-populating";
/// Deepest directory that is copied.
const DEPTH_MAX: usize = 256;
/// Longest list of names of attributes, and longest attribute (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX` of `linux/limits.h`).
const ATTRIBUTE_MAX: usize = 64 << 10;

/// Copies the directory `from`, with owner, mode, times and attributes of everything, into the directory `to` if that is
/// empty. Does nothing when either is no directory.
pub(crate) fn populate(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let directory = |file: BorrowedFd<'_>| -> io::Result<bool> {
        Ok(FileType::from_raw_mode(fstat(file)?.st_mode) == FileType::Directory)
    };
    if !directory(from)? || !directory(to)? || same(from, to)? {
        return Ok(());
    }
    let (from, to) = (open_directory(from, c".")?, open_directory(to, c".")?);
    match entries(&to)?.as_slice() {
        [] => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            drop(openat(&to, MARKER, flags, Mode::from_raw_mode(0o600))?);
        }
        names if names.iter().any(|(name, _)| name.to_bytes() == MARKER.as_bytes()) => {}
        _ => return Ok(()),
    }
    let mut copy = Copy { top: &to, linked: HashMap::new() };
    copy.directory(&from, &to, Path::new(""), 0)?;
    // Not before everything is where a lost machine cannot take it from.
    match syncfs(&to) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    unlinkat(&to, MARKER, AtFlags::empty())?;
    let status = fstat(&from)?;
    futimens(&to, &times(&status))?;
    Ok(())
}

fn same(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> io::Result<bool> {
    let (one, other) = (fstat(one)?, fstat(other)?);
    Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}

fn open_directory(at: impl AsFd, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(at, name, flags, Mode::empty())?)
}

fn entries(directory: &OwnedFd) -> io::Result<Vec<(std::ffi::CString, FileType)>> {
    let mut all = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if ![b".".as_slice(), b".."].contains(&entry.file_name().to_bytes()) {
            all.push((entry.file_name().to_owned(), entry.file_type()));
        }
    }
    Ok(all)
}

struct Copy<'a> {
    top: &'a OwnedFd,
    /// Files with several names that have been copied: where, by their inodes.
    linked: HashMap<(u64, u64), PathBuf>,
}

impl Copy<'_> {
    fn directory(&mut self, from: &OwnedFd, to: &OwnedFd, path: &Path, depth: usize) -> io::Result<()> {
        if depth > DEPTH_MAX {
            return Err(io::Error::other(format!("directories are nested more than {DEPTH_MAX} deep")));
        }
        for (name, _) in entries(from)? {
            let status = statat(from, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            let path = path.join(OsStr::from_bytes(name.to_bytes()));
            self.entry(from, to, &name, &status, &path, depth)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        }
        let status = fstat(from)?;
        attributes(from, to)?;
        owner(to, &status)?;
        Ok(futimens(to, &times(&status))?)
    }

    fn entry(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        name: &CStr,
        status: &Stat,
        path: &Path,
        depth: usize,
    ) -> io::Result<()> {
        let kind = FileType::from_raw_mode(status.st_mode);
        if kind == FileType::Directory {
            match mkdirat(to, name, Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            return self.directory(&open_directory(from, name)?, &open_directory(to, name)?, path, depth + 1);
        }
        // Of a copy that was interrupted.
        match unlinkat(to, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        if status.st_nlink > 1 {
            if let Some(first) = self.linked.get(&(status.st_dev, status.st_ino)) {
                return Ok(linkat(self.top, first, to, name, AtFlags::empty())?);
            }
            self.linked.insert((status.st_dev, status.st_ino), path.to_owned());
        }
        match kind {
            FileType::RegularFile => return file(from, to, name, status),
            FileType::Symlink => symlinkat(readlinkat(from, name, Vec::new())?, to, name)?,
            FileType::Fifo | FileType::Socket => {
                mknodat(to, name, kind, Mode::from_raw_mode(status.st_mode & 0o7777), 0)?;
            }
            // No device nodes are made where the host could open them.
            _ => return Ok(()),
        }
        let (uid, gid) = (Uid::from_raw(status.st_uid), Gid::from_raw(status.st_gid));
        chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(utimensat(to, name, &times(status), AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

fn file(from: &OwnedFd, to: &OwnedFd, name: &CStr, status: &Stat) -> io::Result<()> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let source = openat(from, name, OFlags::RDONLY | flags, Mode::empty())?;
    let new = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | flags;
    let target = openat(to, name, new, Mode::from_raw_mode(0o600))?;
    let (mut source, mut target) = (File::from(source), File::from(target));
    io::copy(&mut source, &mut target)?;
    // The owner first: changing it takes set-user-id bits and capabilities away.
    owner(&target, status)?;
    attributes(&source, &target)?;
    Ok(futimens(&target, &times(status))?)
}

fn owner(to: impl AsFd, status: &Stat) -> io::Result<()> {
    fchown(&to, Some(Uid::from_raw(status.st_uid)), Some(Gid::from_raw(status.st_gid)))?;
    Ok(fchmod(&to, Mode::from_raw_mode(status.st_mode & 0o7777))?)
}

/// Copies extended attributes; those that the volume cannot have are left out.
fn attributes(from: impl AsFd, to: impl AsFd) -> io::Result<()> {
    let mut names = vec![MaybeUninit::<u8>::uninit(); ATTRIBUTE_MAX];
    let names = match flistxattr(&from, names.as_mut_slice()) {
        Ok((names, _)) => names.to_vec(),
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    for name in names.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        let mut value = vec![MaybeUninit::<u8>::uninit(); ATTRIBUTE_MAX];
        let value = match fgetxattr(&from, name, value.as_mut_slice()) {
            Ok((value, _)) => value.to_vec(),
            Err(Errno::NODATA) => continue,
            Err(error) => return Err(error.into()),
        };
        match fsetxattr(&to, name, &value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn times(status: &Stat) -> Timestamps {
    let time = |tv_sec, nanoseconds: u64| Timespec { tv_sec, tv_nsec: nanoseconds as _ };
    Timestamps {
        last_access: time(status.st_atime, status.st_atime_nsec),
        last_modification: time(status.st_mtime, status.st_mtime_nsec),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn image(dir: &Path) {
        fs::create_dir_all(dir.join("sub/deep")).unwrap();
        fs::write(dir.join("sub/file"), "content").unwrap();
        fs::hard_link(dir.join("sub/file"), dir.join("twin")).unwrap();
        symlink("/nowhere", dir.join("link")).unwrap();
        fs::set_permissions(dir.join("sub/file"), fs::Permissions::from_mode(0o4751)).unwrap();
        fs::set_permissions(dir.join("sub/deep"), fs::Permissions::from_mode(0o1777)).unwrap();
        fs::set_permissions(dir, fs::Permissions::from_mode(0o750)).unwrap();
    }

    fn run(from: &Path, to: &Path) -> io::Result<()> {
        populate(File::open(from).unwrap().as_fd(), File::open(to).unwrap().as_fd())
    }

    fn check(from: &Path, to: &Path) {
        assert_eq!(fs::read(to.join("sub/file")).unwrap(), b"content");
        let status = |path: PathBuf| fs::symlink_metadata(path).unwrap();
        for name in ["", "sub", "sub/file", "sub/deep"] {
            let (one, other) = (status(from.join(name)), status(to.join(name)));
            assert_eq!((one.mode(), one.mtime()), (other.mode(), other.mtime()), "{name}");
        }
        assert_eq!(status(to.join("twin")).ino(), status(to.join("sub/file")).ino());
        assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("/nowhere"));
        assert_eq!(fs::read_dir(to).unwrap().count(), 3, "the marker is gone");
    }

    #[test]
    fn empty_volume_gets_everything_and_one_with_files_nothing() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        image(from.path());
        run(from.path(), to.path()).unwrap();
        check(from.path(), to.path());
        fs::remove_file(to.path().join("twin")).unwrap();
        run(from.path(), to.path()).unwrap();
        assert!(!to.path().join("twin").exists());
    }

    #[test]
    fn copy_that_was_interrupted_is_begun_anew() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        image(from.path());
        fs::write(to.path().join(MARKER), "").unwrap();
        fs::create_dir(to.path().join("sub")).unwrap();
        fs::write(to.path().join("sub/file"), "cont").unwrap();
        run(from.path(), to.path()).unwrap();
        check(from.path(), to.path());
    }
}
