//! Prints a file tree, one line an entry, so that two trees can be compared: `hyper-tree [--skip PATH]… ROOT`.
//!
//! A line has the path, type and mode, owner, size, modification time, device number, extended attributes,
//! link target, hash of the content, and the first path of the same file where it has several. Lines
//! are sorted. Mount points below the root are not entered nor printed; their paths go to standard error as
//! `mount PATH`, for the comparison to skip them in the other tree.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CString, OsStr, OsString};
use std::fmt::Write as _;
use std::fs::{self, Metadata};
use std::io::{self, Read, Write as _};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use sha2::{Digest, Sha256};

fn main() -> ExitCode {
    let mut skip = Vec::new();
    let mut root = None;
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--skip" {
            skip.extend(arguments.next().map(PathBuf::from));
        } else {
            root = Some(PathBuf::from(argument));
        }
    }
    let Some(root) = root else {
        eprintln!("usage: hyper-tree [--skip PATH]... ROOT");
        return ExitCode::from(2);
    };
    match print(&root, skip) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print(root: &Path, mut skip: Vec<PathBuf>) -> io::Result<()> {
    for mount in mount_points(root)? {
        eprintln!("mount {}", mount.display());
        skip.push(mount);
    }
    let mut tree = Tree { root, skip, lines: BTreeMap::new(), first: HashMap::new() };
    tree.walk(Path::new(""))?;
    let mut out = io::stdout().lock();
    for line in tree.lines.values() {
        writeln!(out, "{line}")?;
    }
    out.flush()
}

/// Mount points strictly below `root`, relative to it.
fn mount_points(root: &Path) -> io::Result<Vec<PathBuf>> {
    let root = fs::canonicalize(root)?;
    let mut points = Vec::new();
    for line in fs::read("/proc/self/mountinfo")?.split(|&b| b == b'\n') {
        let Some(field) = line.split(|&b| b == b' ').nth(4) else { continue };
        let path = PathBuf::from(OsString::from_vec(unescape(field)));
        if let Ok(below) = path.strip_prefix(&root)
            && !below.as_os_str().is_empty()
        {
            points.push(below.to_path_buf());
        }
    }
    Ok(points)
}

/// Undoes the octal escapes of mountinfo.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = (byte == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match octal {
            Some(value) => {
                bytes.push(value);
                rest = &tail[3..];
            }
            None => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    bytes
}

struct Tree<'a> {
    root: &'a Path,
    skip: Vec<PathBuf>,
    lines: BTreeMap<PathBuf, String>,
    first: HashMap<(u64, u64), PathBuf>,
}

impl Tree<'_> {
    fn walk(&mut self, directory: &Path) -> io::Result<()> {
        self.add(directory)?;
        let mut names: Vec<OsString> = fs::read_dir(self.root.join(directory))?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<io::Result<_>>()?;
        names.sort();
        for name in names {
            let path = directory.join(name);
            if self.skip.contains(&path) {
                continue;
            }
            if fs::symlink_metadata(self.root.join(&path))?.is_dir() {
                self.walk(&path)?;
            } else {
                self.add(&path)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &Path) -> io::Result<()> {
        let full = self.root.join(path);
        let metadata = fs::symlink_metadata(&full)?;
        let kind = metadata.file_type();
        let mut line = format!("/{} ", escape(path.as_os_str().as_bytes()));
        let size = if kind.is_dir() { 0 } else { metadata.len() };
        let device = if kind.is_block_device() || kind.is_char_device() { metadata.rdev() } else { 0 };
        let _ = write!(
            line,
            "{:o} {}:{} {size} {}.{:09} {device:x}",
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            metadata.mtime(),
            metadata.mtime_nsec(),
        );
        for (name, value) in extended_attributes(&full)? {
            let _ = write!(line, " {}={}", escape(&name), hex(&value));
        }
        if kind.is_symlink() {
            let _ = write!(line, " -> {}", escape(fs::read_link(&full)?.as_os_str().as_bytes()));
        } else if kind.is_file() {
            let _ = write!(line, " {}", content_hash(&full)?);
        }
        if let Some(first) = self.first_name(path, &metadata) {
            let _ = write!(line, " = /{}", escape(first.as_os_str().as_bytes()));
        }
        self.lines.insert(path.to_path_buf(), line);
        Ok(())
    }

    /// The first path seen of a file that has several names.
    fn first_name(&mut self, path: &Path, metadata: &Metadata) -> Option<PathBuf> {
        if metadata.is_dir() || metadata.nlink() < 2 {
            return None;
        }
        let first = self.first.entry((metadata.dev(), metadata.ino())).or_insert_with(|| path.to_path_buf());
        Some(first.clone())
    }
}

/// Extended attributes by name, those of overlayfs itself left out.
fn extended_attributes(path: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut names = vec![0; 64 << 10];
    let length = match rustix::fs::llistxattr(&path, &mut names[..]) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP) => 0,
        Err(error) => return Err(error.into()),
    };
    let mut attributes = BTreeMap::new();
    for name in names[..length].split(|&b| b == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"trusted.overlay.") {
            continue;
        }
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(&path, OsStr::from_bytes(name), &mut value[..])?;
        value.truncate(length);
        attributes.insert(name.to_vec(), value);
    }
    Ok(attributes)
}

fn content_hash(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..read]);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Printable ASCII as it is, everything else and the space as `\xNN`.
fn escape(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, &byte| {
        if byte.is_ascii_graphic() && byte != b'\\' {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "\\x{byte:02x}");
        }
        text
    })
}
