//! What the child does.

use std::io::{self, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use hyper_archive::tar::TarError;
use hyper_archive::{Owner, Packer, Tree, UnpackError, UnpackOptions, Walls, unpack};
use hyper_protocol::agent::{Failure, FailureKind, Reply};
use hyper_protocol::files::{Change, ChangeKind, FileWork, PATH_MAX, PIECE_MAX, PathStat};
use hyper_sys::namespace::Namespaces;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Stat, StatVfsMountFlags, fstat, fstatvfs, lstat, open, readlink,
    stat, statat,
};
use rustix::io::Errno;

use super::Place;
use super::diff::Trees;
use super::stream::{Download, Upload, answer};
use crate::container::{identity, launch};
use crate::failure::{Attempt, Failed};
use crate::spec;

/// Most symbolic links followed (`MAXSYMLINKS` of `linux/namei.h`).
const MAX_LINKS: usize = 40;

/// Does the work, from the first word to the last.
pub(super) fn run(place: &Place, work: &FileWork, socket: &UnixStream) -> u8 {
    hyper_sys::child::reset_signals();
    rustix::process::umask(Mode::empty());
    match carry_out(place, work, socket) {
        Ok(()) => 0,
        Err(failed) => {
            // A host that is gone has nobody to tell.
            let _ = answer(socket, &Reply::Failed(cut(failed)));
            1
        }
    }
}

/// A failure that surely fits a frame.
fn cut(failed: Failed) -> Failure {
    let Failure { kind, message } = failed.to_failure();
    Failure { kind, message: message.chars().take(16 << 10).collect() }
}

fn carry_out(place: &Place, work: &FileWork, socket: &UnixStream) -> Result<(), Failed> {
    match work {
        FileWork::Stat { path } => {
            enter(place, path)?;
            let (found, _) = look(path)?;
            say(socket, &Reply::Path(found))
        }
        FileWork::Read { path } => {
            enter(place, path)?;
            read(path, socket)
        }
        FileWork::Write { path, no_overwrite, owner, sync } => {
            enter(place, path)?;
            write(path, *no_overwrite, owner.as_deref(), *sync, socket)
        }
        FileWork::Export => {
            let root = directory(&place.root)?;
            say(socket, &Reply::Done)?;
            download(socket, |out| {
                let mut packer = Packer::new(out);
                packer.tree(&Tree { base: root.as_fd(), path: b".", name: b"", shallow: &|_| false })?;
                packer.finish()
            })
        }
        FileWork::Layer => {
            let trees = Trees::open(place)?;
            let now = crate::reaper::now() / 1_000_000_000;
            say(socket, &Reply::Done)?;
            download(socket, |out| {
                let mut packer = Packer::new(out);
                trees.changes(&mut |path, kind| match kind {
                    ChangeKind::Deleted => packer.mark(&whiteout(path), now),
                    ChangeKind::Added | ChangeKind::Modified => {
                        match packer.file(trees.merged.as_fd(), path, path) {
                            // It has gone since it was seen.
                            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                            outcome => outcome.map(drop),
                        }
                    }
                })?;
                packer.finish()
            })
        }
        FileWork::Changes => {
            let trees = Trees::open(place)?;
            say(socket, &Reply::Done)?;
            download(socket, |mut out| {
                trees.changes(&mut |path, kind| {
                    let path = format!("/{}", String::from_utf8_lossy(path));
                    serde_json::to_writer(&mut out, &Change { path, kind })?;
                    out.write_all(b"\n")
                })?;
                Ok(out)
            })
        }
    }
}

/// Name of the file that says that the layers below have something that this one has not.
fn whiteout(path: &[u8]) -> Vec<u8> {
    let at = path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
    [&path[..at], b".wh.", &path[at..]].concat()
}

fn say(socket: &UnixStream, reply: &Reply) -> Result<(), Failed> {
    answer(socket, reply).attempt(|| "answer".to_owned())
}

/// Sends what `work` writes, and how it went.
fn download<'a>(
    socket: &'a UnixStream,
    work: impl for<'b> FnOnce(Keeping<'a, 'b>) -> io::Result<Keeping<'a, 'b>>,
) -> Result<(), Failed> {
    let mut out = Download::new(socket);
    let outcome = work(Keeping(&mut out)).map(drop);
    let last = match outcome {
        Ok(()) => Reply::Done,
        Err(error) => Reply::Failed(cut(io_failure("read the container's files", error))),
    };
    out.end(&last).attempt(|| "send files".to_owned())
}

/// A writer lent to the work.
struct Keeping<'a, 'b>(&'b mut Download<'a>);

impl Write for Keeping<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Goes where the container's paths are.
fn enter(place: &Place, path: &str) -> Result<(), Failed> {
    if !path.starts_with('/') || path.contains('\0') || path.len() > PATH_MAX {
        return Err(Failed::invalid(format!("{path:?} is no absolute path")));
    }
    let mount = Namespaces { mount: true, ..Namespaces::default() };
    hyper_sys::namespace::join(place.process.as_fd(), mount)
        .attempt(|| "enter the container's mount namespace".to_owned())?;
    rustix::process::chdir("/").attempt(|| "enter the container's root".to_owned())
}

fn io_failure(attempt: &str, error: io::Error) -> Failed {
    let failed: Result<(), Failed> = Err(error).attempt(|| attempt.to_owned());
    failed.expect_err("it is one")
}

/// A path that cannot be looked up: what is missing is told apart.
fn lookup(path: &str, errno: Errno) -> Failed {
    match errno {
        Errno::NOENT => Failed::not_found(format!("{path}: no such file or directory")),
        Errno::NOTDIR => Failed::invalid(format!("{path}: not a directory")),
        other => io_failure(&format!("look up {path}"), other.into()),
    }
}

fn directory(path: &Path) -> Result<OwnedFd, Failed> {
    open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .attempt(|| format!("open {}", path.display()))
}

fn look(path: &str) -> Result<(PathStat, Stat), Failed> {
    let status = lstat(path).map_err(|errno| lookup(path, errno))?;
    let is_link = FileType::from_raw_mode(status.st_mode) == FileType::Symlink;
    let link_target =
        if is_link { leads_to(path).map_err(|errno| lookup(path, errno))? } else { String::new() };
    let found = PathStat {
        name: base(path).to_owned(),
        size: u64::try_from(status.st_size).unwrap_or(0),
        mode: status.st_mode,
        mtime_ns: status.st_mtime.saturating_mul(1_000_000_000).saturating_add(status.st_mtime_nsec as i64),
        link_target,
    };
    Ok((found, status))
}

/// Last part of a path as Go's `filepath.Base` has it.
fn base(path: &str) -> &str {
    let trimmed = path.trim_end_matches('/');
    if trimmed.is_empty() { "/" } else { trimmed.rsplit('/').next().unwrap_or(trimmed) }
}

/// Where a path leads when all links are followed, also if there is nothing.
fn leads_to(path: &str) -> rustix::io::Result<String> {
    let mut waiting: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
    let mut at: Vec<String> = Vec::new();
    let mut links = 0;
    while let Some(part) = waiting.pop() {
        match part.as_str() {
            "" | "." => continue,
            ".." => {
                at.pop();
                continue;
            }
            _ => {}
        }
        let here = format!("/{}", [at.as_slice(), std::slice::from_ref(&part)].concat().join("/"));
        match readlink(&here, Vec::new()) {
            Ok(link) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP);
                }
                let link = link.to_string_lossy().into_owned();
                if link.starts_with('/') {
                    at.clear();
                }
                waiting.extend(link.split('/').rev().map(str::to_owned));
            }
            // No link, or nothing at all.
            Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => at.push(part),
            Err(error) => return Err(error),
        }
    }
    Ok(format!("/{}", at.join("/")))
}

fn read(path: &str, socket: &UnixStream) -> Result<(), Failed> {
    let (found, status) = look(path)?;
    let name = found.name.clone();
    let is_directory = FileType::from_raw_mode(status.st_mode) == FileType::Directory;
    let (above, below) = if is_directory {
        (path, ".")
    } else {
        let at = path.rfind('/').map_or(0, |at| at + 1);
        (&path[..at], &path[at..])
    };
    let top = directory(Path::new(above))?;
    // The pod's devices are no files of the container's.
    let devices =
        is_root(&top) && stat("/dev").is_ok_and(|dev| Ok(dev.st_dev) != stat("/").map(|root| root.st_dev));
    say(socket, &Reply::Path(found))?;
    download(socket, |out| {
        let mut packer = Packer::new(out);
        packer.tree(&Tree {
            base: top.as_fd(),
            path: below.as_bytes(),
            name: name.as_bytes(),
            shallow: &|path| devices && path == b"./dev",
        })?;
        packer.finish()
    })
}

fn is_root(directory: &OwnedFd) -> bool {
    let same = |a: Stat, b: Stat| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
    matches!((fstat(directory), statat(CWD, "/", AtFlags::empty())), (Ok(a), Ok(b)) if same(a, b))
}

fn write(
    path: &str,
    no_overwrite: bool,
    owner: Option<&str>,
    sync: bool,
    socket: &UnixStream,
) -> Result<(), Failed> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let target = open(path, flags, Mode::empty()).map_err(|errno| lookup(path, errno))?;
    let failed = || format!("look at {path}");
    let status = fstat(&target).attempt(failed)?;
    if FileType::from_raw_mode(status.st_mode) != FileType::Directory {
        return Err(Failed::invalid("extraction point is not a directory"));
    }
    if fstatvfs(&target).attempt(failed)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        let root = stat("/").attempt(failed)?;
        return Err(Failed::invalid(if root.st_dev == status.st_dev {
            "container rootfs is marked read-only"
        } else {
            "mounted volume is marked read-only"
        }));
    }
    let owner = owner.map_or(Ok(Owner::Archive), user)?;
    say(socket, &Reply::Done)?;
    let mut upload = Upload::new(socket);
    let real = leads_to(path).map_err(|errno| lookup(path, errno))?;
    let options = UnpackOptions {
        no_overwrite,
        owner,
        privileged: true,
        walls: Walls::Root,
        target: &real,
        rename: None,
        only: b"",
    };
    unpack(BufReader::with_capacity(PIECE_MAX, &mut upload), target.as_fd(), &options)
        .map_err(unpack_failure)?;
    if sync {
        let top = open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        top.and_then(rustix::fs::syncfs).attempt(|| "write the files out".to_owned())?;
    }
    // What follows the archive is nobody's; the answer comes when all has been read.
    io::copy(&mut upload.by_ref(), &mut io::sink()).attempt(|| "read the archive to its end".to_owned())?;
    say(socket, &Reply::Done)
}

fn unpack_failure(error: UnpackError) -> Failed {
    let kind = match &error {
        UnpackError::Tar(TarError::Header { .. } | TarError::Truncated) => FailureKind::Invalid,
        UnpackError::Refused(_) => FailureKind::Invalid,
        UnpackError::Tar(_) | UnpackError::File { .. } => FailureKind::System,
    };
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(below) = cause {
        text = format!("{text}: {below}");
        cause = below.source();
    }
    Failed::new(kind, text)
}

/// The user and group that a container's files name.
fn user(name: &str) -> Result<Owner, Failed> {
    let read = |path| launch::read_bounded(path).attempt(|| format!("read the container's {path}"));
    let (passwd, group) = (read("/etc/passwd")?, read("/etc/group")?);
    let found = identity::resolve(Some(name), &[], &spec::User::default(), &passwd, &group)?;
    Ok(Owner::Of(found.uid, found.gid))
}
