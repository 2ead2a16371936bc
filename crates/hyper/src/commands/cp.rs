//! `hyper cp`: files between containers and here, by docker's rules of what is named how.

use std::io::{self, BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, StreamBody};
use http1::body::{Frame, Incoming};
use http1::{Method, Response};
use hyper_archive::{Owner, Packer, Tree, UnpackOptions, Walls, unpack};
use rustix::fs::{Mode, OFlags, open};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::App;
use crate::client::{ApiError, path};
use crate::error::{Failure, Outcome};
use crate::format::short_size;
use crate::output;
use crate::stream::stdout_is_terminal;

/// Pieces that may wait between the network and the disk.
const BACKLOG: usize = 16;
/// Bytes in a piece that is sent.
const PIECE: usize = 128 << 10;
/// Most symbolic links followed to a target that is here, as docker.
const MAX_LINKS: usize = 10;
/// Kind bits of Go's file modes.
const GO_DIRECTORY: u32 = 1 << 31;
const GO_LINK: u32 = 1 << 27;
/// Bits of modes that are neither regular files nor directories.
const GO_SPECIAL: u32 = (1 << 26) | (1 << 25) | (1 << 24) | (1 << 21) | (1 << 19);

/// Flags of `cp`.
#[derive(Debug, Args)]
pub struct CpArgs {
    /// Archive mode (copy all uid/gid information)
    #[arg(short, long)]
    archive: bool,
    /// Always follow symbol link in SRC_PATH
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Suppress progress output during copy. Progress output is automatically suppressed if no terminal is attached
    #[arg(short, long)]
    quiet: bool,
    /// CONTAINER:PATH, a path here, or - for a tar from standard input
    #[arg(value_name = "SRC_PATH", allow_hyphen_values = true)]
    source: String,
    /// CONTAINER:PATH, a path here, or - for a tar to standard output
    #[arg(value_name = "DEST_PATH", allow_hyphen_values = true)]
    target: String,
}

/// What the daemon says of a path.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Stat {
    mode: u32,
    link_target: String,
}

impl Stat {
    fn is_directory(&self) -> bool {
        self.mode & GO_DIRECTORY != 0
    }

    fn is_link(&self) -> bool {
        self.mode & GO_LINK != 0
    }
}

/// One end of a copy.
#[derive(Debug, Clone, Default)]
struct Place {
    path: String,
    exists: bool,
    is_directory: bool,
    /// The name that was asked for, where links lead to another.
    asked: Option<String>,
}

/// Copies files.
pub async fn cp(app: &App, args: CpArgs) -> Outcome {
    for (given, word) in [(&args.source, "source"), (&args.target, "destination")] {
        if given.is_empty() {
            return Err(Failure::new(format!("{word} can not be empty")));
        }
    }
    let quiet = args.quiet || !stdout_is_terminal();
    match (split(&args.source), split(&args.target)) {
        ((Some(container), from), (None, to)) => {
            from_container(app, container, from, to, args.follow_link, quiet).await
        }
        ((None, from), (Some(container), to)) => {
            let how = (args.follow_link, args.archive);
            to_container(app, from, container, to, how, quiet).await
        }
        ((Some(_), _), (Some(_), _)) => Err(Failure::new("copying between containers is not supported")),
        ((None, _), (None, _)) => Err(Failure::new("must specify at least one container source")),
    }
}

/// Container and path; a path here has no container.
fn split(argument: &str) -> (Option<&str>, &str) {
    if argument.starts_with('/') {
        return (None, argument);
    }
    match argument.split_once(':') {
        Some((container, path)) if !container.starts_with('.') => (Some(container), path),
        _ => (None, argument),
    }
}

async fn stat(app: &App, container: &str, at: &str) -> Result<Stat, ApiError> {
    let url = path("containers", container, "/archive")?;
    let response = app.client.send(Method::HEAD, &url, &[("path", at)]).await?;
    Ok(stat_of(&response))
}

fn stat_of(response: &Response<Incoming>) -> Stat {
    let header = response.headers().get("X-Docker-Container-Path-Stat");
    let decoded = header.and_then(|value| base64::engine::general_purpose::STANDARD.decode(value).ok());
    decoded.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

async fn from_container(
    app: &App,
    container: &str,
    source: &str,
    target: &str,
    follow: bool,
    quiet: bool,
) -> Outcome {
    let target = if target == "-" { target.to_owned() } else { absolute(target)? };
    if target != "-" {
        check_target(&target)?;
    }
    let mut from = Place { path: source.to_owned(), exists: true, ..Place::default() };
    if follow
        && let Ok(found) = stat(app, container, source).await
        && found.is_link()
    {
        let mut leads_to = found.link_target;
        if !leads_to.starts_with('/') {
            leads_to = clean(&format!("{}/{leads_to}", parent_and_base(source).0));
        }
        (from.path, from.asked) = rebased(source, leads_to);
    }
    let url = path("containers", container, "/archive")?;
    let response = app.client.send(Method::GET, &url, &[("path", &from.path)]).await?;
    from.is_directory = stat_of(&response).is_directory();
    let mut body = response.into_body();
    if target == "-" {
        while let Some(frame) = body.frame().await {
            if let Some(data) = frame.map_err(|error| ApiError::Broken(Box::new(error)))?.data_ref() {
                output::write_bytes(data)?;
            }
        }
        return Ok(0);
    }
    let (sender, receiver) = mpsc::channel(BACKLOG);
    let copied = Arc::new(AtomicU64::new(0));
    let count = copied.clone();
    let receiving = tokio::spawn(async move {
        while let Some(frame) = body.frame().await {
            let piece = frame.map_err(io::Error::other).map(|frame| frame.into_data().unwrap_or_default());
            let broken = piece.is_err();
            count.fetch_add(piece.as_ref().map_or(0, Bytes::len) as u64, Ordering::Relaxed);
            if sender.send(piece).await.is_err() || broken {
                return;
            }
        }
    });
    let shown = target.clone();
    let source = Received { pieces: receiver, current: Bytes::new() };
    let unpacked = tokio::task::spawn_blocking(move || unpack_here(source, &from, &target)).await;
    receiving.abort();
    unpacked.map_err(|error| Failure::new(format!("the copy ended early: {error}")))??;
    if !quiet {
        let size = short_size(copied.load(Ordering::Relaxed) as f64);
        output::complain(&format!("Successfully copied {size} to {shown}\n"));
    }
    Ok(0)
}

/// Unpacks what a container sent. It may lie: nothing is made but what was asked for, and nothing elsewhere.
fn unpack_here(source: impl Read, from: &Place, target: &str) -> Result<(), Failure> {
    let to = local_target(target)?;
    let base = parent_and_base(&from.path).1;
    let sent = from.asked.clone().unwrap_or_else(|| base.clone());
    let (directory, name) = prepare(from, &to)?;
    // First what links lead to gets the name that was asked for, then that the name that it is to have here; at once.
    let rename = match (&from.asked, &name) {
        (None, None) => None,
        (Some(asked), None) => Some((base.clone(), asked.clone())),
        (_, Some(name)) => Some((base.clone(), name.clone())),
    };
    let rename = rename.map(|(old, new)| (if old == "/" { String::new() } else { old }, new));
    let only = name.unwrap_or(sent);
    let only = if matches!(only.as_str(), "." | "/") { "" } else { &only };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = open(directory.as_str(), flags, Mode::empty())
        .map_err(|error| Failure::new(format!("open {directory}: {}", io::Error::from(error))))?;
    let options = UnpackOptions {
        no_overwrite: true,
        owner: Owner::Own,
        privileged: false,
        walls: Walls::Target,
        target: &directory,
        rename: rename.as_ref().map(|(old, new)| (old.as_bytes(), new.as_bytes())),
        only: only.as_bytes(),
    };
    unpack(BufReader::with_capacity(PIECE, source), opened.as_fd(), &options)
        .map_err(|error| Failure::from_error(&error))
}

async fn to_container(
    app: &App,
    source: &str,
    container: &str,
    target: &str,
    (follow, archive): (bool, bool),
    quiet: bool,
) -> Outcome {
    let source = if source == "-" { source.to_owned() } else { absolute(source)? };
    let mut to = Place { path: target.to_owned(), ..Place::default() };
    let mut found = stat(app, container, target).await;
    if let Ok(link) = &found
        && link.is_link()
    {
        let mut leads_to = link.link_target.clone();
        if !leads_to.starts_with('/') {
            leads_to = clean(&format!("{}/{leads_to}", parent_and_base(target).0));
        }
        found = stat(app, container, &leads_to).await;
        to.path = leads_to;
    }
    if let Ok(found) = &found {
        if found.mode & GO_SPECIAL != 0 {
            let what = if found.mode & (1 << 26) != 0 { "got a device" } else { "got an irregular file" };
            return Err(Failure::new(format!(
                "destination \"{container}:{target}\" must be a directory or a regular file: {what}"
            )));
        }
        (to.exists, to.is_directory) = (true, found.is_directory());
    }
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(BACKLOG);
    let copied = Arc::new(AtomicU64::new(0));
    let packing;
    let directory;
    if source == "-" {
        if !to.is_directory {
            return Err(Failure::new(format!("destination \"{container}:{target}\" must be a directory")));
        }
        directory = to.path.clone();
        packing = tokio::task::spawn_blocking(move || {
            let mut out = Outgoing::new(sender, Arc::default());
            let copied = io::copy(&mut io::stdin().lock(), &mut out).and_then(|_| out.send());
            copied.map_err(|error| Failure::new(format!("cannot read standard input: {error}")))
        });
    } else {
        let from = local_source(&source, follow)?;
        let (into, name) = prepare(&from, &to)?;
        directory = into;
        let count = copied.clone();
        packing = tokio::task::spawn_blocking(move || pack_here(&from, name, Outgoing::new(sender, count)));
    }
    let url = path("containers", container, "/archive")?;
    let mut query = vec![("path", directory.as_str()), ("noOverwriteDirNonDir", "true")];
    if archive {
        query.push(("copyUIDGID", "true"));
    }
    let body = futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece| (piece.map(Frame::data), receiver))
    });
    let answer = app.client.put(&url, &query, StreamBody::new(body)).await;
    // Packing that failed has broken the request off; why it did says more than that.
    match packing.await {
        Ok(Err(failure)) if !failure.errors.is_empty() => return Err(failure),
        Ok(_) => {}
        Err(error) => return Err(Failure::new(format!("the copy ended early: {error}"))),
    }
    answer?;
    if !quiet {
        let size = short_size(copied.load(Ordering::Relaxed) as f64);
        output::complain(&format!("Successfully copied {size} to {container}:{}\n", to.path));
    }
    Ok(0)
}

/// Packs a file or directory that is here.
fn pack_here(from: &Place, name: Option<String>, out: Outgoing) -> Result<(), Failure> {
    let (directory, base) = parent_and_base(&from.path);
    let name = name.or_else(|| from.asked.clone()).unwrap_or_else(|| base.clone());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let told = |error: io::Error| match error.kind() {
        // The daemon has refused meanwhile, and says why.
        io::ErrorKind::BrokenPipe => Failure::silent(1),
        _ => Failure::new(format!("cannot read {}: {error}", from.path)),
    };
    let opened = open(directory.as_str(), flags, Mode::empty()).map_err(|error| told(error.into()))?;
    let mut packer = Packer::new(out);
    let base = if base == "/" { "." } else { &base };
    let tree =
        Tree { base: opened.as_fd(), path: base.as_bytes(), name: name.as_bytes(), shallow: &|_| false };
    let packed = packer.tree(&tree).and_then(|()| packer.finish()).map(drop);
    packed.map_err(told)
}

/// Where an archive is unpacked, and the name that its content gets there if not its own.
fn prepare(from: &Place, to: &Place) -> Result<(String, Option<String>), Failure> {
    if to.exists && to.is_directory {
        return Ok((to.path.clone(), None));
    }
    if to.exists && from.is_directory {
        return Err(Failure::new("cannot copy directory"));
    }
    let (directory, base) = parent_and_base(&to.path);
    let asserts_directory = to.path.ends_with('/') || to.path.rsplit('/').next() == Some(".");
    if !to.exists && !from.is_directory && asserts_directory {
        return Err(Failure::new("no such directory"));
    }
    Ok((directory, Some(base)))
}

/// A source here. Links before its last part are followed, and its last one if `follow`.
fn local_source(source: &str, follow: bool) -> Result<Place, Failure> {
    let failed = |path: &str, error: io::Error| Failure::new(format!("lstat {path}: {}", plain(&error)));
    let real = |path: &str| {
        let real = std::fs::canonicalize(path).map_err(|error| failed(path, error))?;
        text(real)
    };
    let (resolved, asked) = if follow {
        rebased(source, real(source)?)
    } else {
        let at = source.rfind('/').map_or(0, |at| at + 1);
        let (directory, base) = source.split_at(at);
        let resolved = format!("{}/{base}", real(directory)?.trim_end_matches('/'));
        let asked = (source.ends_with('/') && base_of(source) != base_of(&resolved)).then(|| base_of(source));
        (resolved, asked)
    };
    let status = std::fs::symlink_metadata(&resolved).map_err(|error| failed(&resolved, error))?;
    Ok(Place { path: resolved, exists: true, is_directory: status.is_dir(), asked })
}

/// A target here; a link is followed, also to nothing.
fn local_target(target: &str) -> Result<Place, Failure> {
    let mut path = target.to_owned();
    for _ in 0..=MAX_LINKS {
        match std::fs::symlink_metadata(&path) {
            Ok(status) if status.is_symlink() => {
                let link = text(
                    std::fs::read_link(&path).map_err(|error| Failure::new(format!("{path}: {error}")))?,
                )?;
                path = match link.starts_with('/') {
                    true => link,
                    false => clean(&format!("{}/{link}", parent_and_base(&path).0)),
                };
            }
            Ok(status) => {
                return Ok(Place { is_directory: status.is_dir(), path, exists: true, asked: None });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let parent = parent_and_base(&path).0;
                let status = std::fs::metadata(&parent)
                    .map_err(|error| Failure::new(format!("stat {parent}: {}", plain(&error))))?;
                return match status.is_dir() {
                    true => Ok(Place { path, ..Place::default() }),
                    false => Err(Failure::new("not a directory")),
                };
            }
            Err(error) => return Err(Failure::new(format!("lstat {path}: {}", plain(&error)))),
        }
    }
    Err(Failure::new(format!("too many symlinks in {target}")))
}

/// Docker's check before anything is asked of the daemon.
fn check_target(target: &str) -> Result<(), Failure> {
    let parent = parent_and_base(target).0;
    if !parent.is_empty() && parent != "." && !Path::new(&parent).exists() {
        return Err(Failure::new(format!("invalid output path: directory \"{parent}\" does not exist")));
    }
    use std::os::unix::fs::FileTypeExt as _;
    if let Ok(status) = std::fs::metadata(target) {
        let kind = status.file_type();
        if kind.is_block_device() || kind.is_char_device() {
            return Err(Failure::new(format!(
                "invalid output path: {target:?} must be a directory or a regular file: got a device"
            )));
        }
        if !status.is_dir() && !status.is_file() {
            return Err(Failure::new(format!(
                "invalid output path: {target:?} must be a directory or a regular file: got an irregular file"
            )));
        }
    }
    Ok(())
}

/// The reason alone, in the words of Go.
fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        io::ErrorKind::NotADirectory => "not a directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

fn text(path: PathBuf) -> Result<String, Failure> {
    String::from_utf8(path.into_os_string().into_vec())
        .map_err(|_| Failure::new("a path is not UTF-8, which the daemon's API cannot carry"))
}

/// An absolute path that keeps the `/` or `/.` at its end.
fn absolute(path: &str) -> Result<String, Failure> {
    let here =
        std::env::current_dir().map_err(|error| Failure::new(format!("no working directory: {error}")))?;
    let joined = here.join(path);
    let joined = std::str::from_utf8(joined.as_os_str().as_bytes())
        .map_err(|_| Failure::new("the working directory's path is not UTF-8"))?;
    Ok(with_end(clean(joined), path))
}

/// What links lead to, with the end of the path that was asked for; and that path's name if it is another.
fn rebased(asked: &str, leads_to: String) -> (String, Option<String>) {
    let leads_to = with_end(leads_to, asked);
    let name = base_of(asked);
    let other = name != base_of(&leads_to);
    (leads_to, other.then_some(name))
}

fn is_dot(path: &str) -> bool {
    path.rsplit('/').next() == Some(".")
}

fn with_end(mut path: String, like: &str) -> String {
    if is_dot(like) && !is_dot(&path) {
        if !path.ends_with('/') {
            path.push('/');
        }
        path.push('.');
    }
    if like.ends_with('/') && !path.ends_with('/') {
        path.push('/');
    }
    path
}

/// Go's `filepath.Clean`.
fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match parts.last() {
                Some(&last) if last != ".." => drop(parts.pop()),
                _ if rooted => {}
                _ => parts.push(".."),
            },
            part => parts.push(part),
        }
    }
    match (rooted, parts.join("/")) {
        (true, path) => format!("/{path}"),
        (false, path) if path.is_empty() => ".".to_owned(),
        (false, path) => path,
    }
}

/// Go's `filepath.Base`.
fn base_of(path: &str) -> String {
    if path.is_empty() {
        return ".".to_owned();
    }
    let trimmed = path.trim_end_matches('/');
    if trimmed.is_empty() { "/".to_owned() } else { trimmed.rsplit('/').next().unwrap_or(trimmed).to_owned() }
}

/// Directory and last part of a path; a path that ends in `.` is that of a directory whose last part is `.`.
fn parent_and_base(path: &str) -> (String, String) {
    let mut cleaned = clean(path);
    if is_dot(path) && !is_dot(&cleaned) || path == "." {
        if !cleaned.ends_with('/') {
            cleaned.push('/');
        }
        cleaned.push('.');
    }
    let base = base_of(&cleaned);
    let parent = match cleaned.rfind('/') {
        Some(at) => clean(&cleaned[..=at]),
        None => ".".to_owned(),
    };
    (parent, base)
}

/// An answer's body to read from where blocking is allowed.
struct Received {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl Read for Received {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.current = piece?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.current.len());
        buffer[..count].copy_from_slice(&self.current.split_to(count));
        Ok(count)
    }
}

/// A request's body to write to where blocking is allowed.
struct Outgoing {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
    count: Arc<AtomicU64>,
    whole: bool,
}

impl Outgoing {
    fn new(pieces: mpsc::Sender<io::Result<Bytes>>, count: Arc<AtomicU64>) -> Self {
        Self { pieces, piece: Vec::with_capacity(PIECE), count, whole: false }
    }

    fn send(&mut self) -> io::Result<()> {
        self.whole = true;
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        self.count.fetch_add(piece.len() as u64, Ordering::Relaxed);
        self.pieces
            .blocking_send(Ok(piece.into()))
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the daemon takes no more"))
    }
}

impl io::Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.whole = false;
        let count = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..count]);
        if self.piece.len() == PIECE {
            self.send()?;
            self.whole = false;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if !self.whole {
            // Given up: the daemon must not take what it has for all.
            let _ = self.pieces.blocking_send(Err(io::Error::other("the copy was given up")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_stands_before_the_first_colon() {
        for (given, wanted) in [
            ("c:/x", (Some("c"), "/x")),
            ("c:x:y", (Some("c"), "x:y")),
            ("./c:x", (None, "./c:x")),
            ("/c:x", (None, "/c:x")),
            ("-", (None, "-")),
            (":x", (Some(""), "x")),
        ] {
            assert_eq!(split(given), wanted, "{given}");
        }
    }

    #[test]
    fn paths_are_split_as_docker_does() {
        for (path, parent, base) in [
            ("/a/b", "/a", "b"),
            ("/a/b/", "/a", "b"),
            ("/a/b/.", "/a/b", "."),
            ("/", "/", "/"),
            ("/a", "/", "a"),
            ("a", ".", "a"),
            ("/a/../b/.", "/b", "."),
            (".", ".", "."),
        ] {
            assert_eq!(parent_and_base(path), (parent.to_owned(), base.to_owned()), "{path}");
        }
    }

    #[test]
    fn content_gets_the_targets_name_where_there_is_none_yet() {
        let place =
            |path: &str, exists, is_directory| Place { path: path.into(), exists, is_directory, asked: None };
        let file = place("/s/f", true, false);
        let directory = place("/s/d", true, true);
        assert_eq!(prepare(&file, &place("/t", true, true)).unwrap(), ("/t".into(), None));
        assert_eq!(prepare(&file, &place("/t/g", true, false)).unwrap(), ("/t".into(), Some("g".into())));
        assert_eq!(prepare(&file, &place("/t/g", false, false)).unwrap(), ("/t".into(), Some("g".into())));
        assert_eq!(
            prepare(&directory, &place("/t/e", false, false)).unwrap(),
            ("/t".into(), Some("e".into()))
        );
        assert!(prepare(&file, &place("/t/g/", false, false)).is_err());
        assert!(prepare(&directory, &place("/t/g", true, false)).is_err());
    }

    #[test]
    fn a_guest_that_lies_makes_nothing_but_what_was_asked_for() {
        use hyper_archive::tar::{Entry, EntryKind, trailer, write_header};
        let entry = |kind, path: &str, link: &str| Entry {
            kind,
            path: path.into(),
            link: link.into(),
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: 0,
            mtime_nanoseconds: 0,
            size: 0,
            sparse: None,
            device: (0, 0),
            xattrs: Vec::new(),
        };
        use EntryKind::*;
        let from = Place { path: "/data".into(), exists: true, is_directory: true, asked: None };
        let lies: [&[Entry]; 8] = [
            &[entry(File, "../evil", "")],
            &[entry(File, "/evil", "")],
            &[entry(File, ".bashrc", "")],
            &[
                entry(Directory, "data/", ""),
                entry(Symlink, "data/l", "/tmp"),
                entry(File, "data/l/evil", ""),
            ],
            &[entry(Directory, "data/", ""), entry(Symlink, "data/l", "../../.."), entry(File, "data/x", "")],
            &[entry(Directory, "data/", ""), entry(HardLink, "data/h", "../../etc/passwd")],
            &[entry(Directory, "data/", ""), entry(BlockDevice, "data/sda", "")],
            &[entry(File, "data/../../evil", "")],
        ];
        for lie in lies {
            let dir = tempfile::tempdir().unwrap();
            let target = dir.path().join("here");
            std::fs::create_dir(&target).unwrap();
            let mut tar = Vec::new();
            for entry in lie {
                write_header(&mut tar, entry).unwrap();
            }
            tar.extend(trailer());
            let outcome = unpack_here(tar.as_slice(), &from, target.to_str().unwrap());
            assert!(outcome.is_err(), "{lie:?}");
            let made: Vec<_> =
                std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(made, ["here"], "{lie:?}");
        }
    }
}
