//! Writable layers: one sparse file with an ext4 filesystem for each container.
//!
//! Making a filesystem takes longer than copying one, so there is a template for each size, made once.

use std::fs::{self, File, FileTimes};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use hyper_protocol::agent::NEW_UPPER_MTIME;
use rustix::fs::SeekFrom;
use tokio::process::Command;
use tokio::sync::Mutex;

use crate::error::{EngineError, Kind, Result};

/// Bytes of a writable layer unless told otherwise; the file is sparse.
pub const DEFAULT_SIZE: u64 = 20 << 30;

/// Smallest writable layer: room for the journal and some files.
pub const MIN_SIZE: u64 = 32 << 20;

/// Largest writable layer: ext4's own bound with 4 KiB blocks and 32-bit block numbers.
pub const MAX_SIZE: u64 = 16 << 40;

/// Version of [`make`]'s settings, part of the template's name.
const VERSION: u32 = 2;

/// Megabytes of the journal: the least that mke2fs gives a filesystem of ordinary size; an overlay's upper
/// directory needs no more.
const JOURNAL_MIB: u32 = 4;

/// Bytes copied at once.
const CHUNK: usize = 1 << 20;

/// Whether a layer has a journal, which keeps a filesystem sound through a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Journal {
    /// It is mounted again by the container's next start.
    Kept,
    /// It is gone when its container has ended: a journal would be written for nobody, and takes the guest time.
    None,
}

/// Makes writable layers from templates.
#[derive(Debug)]
pub(crate) struct Layers {
    cache: PathBuf,
    making: Mutex<()>,
}

impl Layers {
    /// With templates in `cache`; removes what an interrupted [`Layers::create`] left there.
    pub(crate) fn new(cache: PathBuf) -> Self {
        for entry in fs::read_dir(&cache).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().ends_with(".partial") {
                let _ = fs::remove_file(entry.path());
            }
        }
        Self { cache, making: Mutex::new(()) }
    }

    /// Puts an empty writable layer of `size` bytes at `path`, unless there is one already.
    ///
    /// # Errors
    /// mke2fs is missing or fails, the disk is full, or another file error.
    pub(crate) async fn create(&self, path: &Path, size: u64, journal: Journal) -> Result<()> {
        if tokio::fs::try_exists(path).await.unwrap_or(false) {
            return Ok(());
        }
        let template = self.template(size, journal).await?;
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || {
            let partial = path.with_extension("partial");
            copy_sparse(&template, &partial).and_then(|()| fs::rename(&partial, &path)).map_err(|source| {
                let _ = fs::remove_file(&partial);
                file_error(&path, source)
            })
        })
        .await
        .map_err(|error| EngineError::system("writable layer: work ended early", error))?
    }

    async fn template(&self, size: u64, journal: Journal) -> Result<PathBuf> {
        let kind = if journal == Journal::Kept { "rw" } else { "rm" };
        let path = self.cache.join(format!("{kind}-{size}-v{VERSION}.ext4"));
        let _one_at_a_time = self.making.lock().await;
        if !tokio::fs::try_exists(&path).await.unwrap_or(false) {
            let partial = path.with_extension("partial");
            let made = make(&partial, size, journal).await;
            let made = made.and_then(|()| fs::rename(&partial, &path).map_err(|e| file_error(&path, e)));
            if let Err(error) = made {
                let _ = fs::remove_file(&partial);
                return Err(error);
            }
        }
        Ok(path)
    }
}

/// Makes an image of an empty filesystem of `size` bytes at `path`, for a volume: with the journal that mke2fs finds right
/// for the size, for it is meant to be synced much.
pub(crate) async fn make_volume(path: &Path, size: u64) -> Result<()> {
    let program = program()?;
    let partial = path.with_extension("partial");
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&partial);
    let made = async {
        let file = file.map_err(|source| file_error(path, source))?;
        file.set_len(size).map_err(|source| file_error(path, source))?;
        let mut command = Command::new(&program);
        command
            .args(["-q", "-F", "-t", "ext4", "-m", "0", "-b", "4096"])
            .args(["-E", "assume_storage_prezeroed=1,nodiscard,root_owner=0:0"])
            .arg(&partial);
        run(command, &program, size).await?;
        file.sync_all().and_then(|()| fs::rename(&partial, path)).map_err(|source| file_error(path, source))
    };
    let made = made.await;
    if made.is_err() {
        let _ = fs::remove_file(&partial);
    }
    made
}

fn file_error(path: &Path, source: io::Error) -> EngineError {
    let full = source.kind() == io::ErrorKind::StorageFull;
    let error = EngineError::system(format!("cannot make writable layer {}", path.display()), source);
    if full { error.with_hint("the disk is full: remove containers or images, or enlarge it") } else { error }
}

/// The program that makes filesystems: in `PATH`, else where Debian has it, which a user's `PATH` may leave out.
pub(crate) fn mke2fs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<PathBuf> =
        std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).collect();
    dirs.into_iter().map(|dir| dir.join("mke2fs")).find(|program| program.is_file())
}

/// Makes an ext4 filesystem in a sparse file, empty but for the directories that the guest's overlay needs.
///
/// Inode tables and journal are not written: the file is new and reads as zeros, which
/// `assume_storage_prezeroed` tells the filesystem, so that no guest zeroes them later. No blocks are reserved
/// for root, and there is no room for growing.
async fn make(path: &Path, size: u64, journal: Journal) -> Result<()> {
    let program = program()?;
    let file = File::create(path).map_err(|source| file_error(path, source))?;
    file.set_len(size).map_err(|source| file_error(path, source))?;
    let content = directories().map_err(|source| file_error(path, source))?;
    let journal_size = format!("size={JOURNAL_MIB}");
    let journal = match journal {
        Journal::Kept => vec!["-O", "^resize_inode", "-J", &journal_size],
        Journal::None => vec!["-O", "^resize_inode,^has_journal"],
    };
    let mut command = Command::new(&program);
    command
        .args(["-q", "-F", "-t", "ext4", "-m", "0", "-b", "4096"])
        .args(journal)
        .args(["-E", "assume_storage_prezeroed=1,nodiscard,root_owner=0:0"])
        .arg("-d")
        .arg(content.path())
        .arg(path);
    run(command, &program, size).await
}

fn program() -> Result<PathBuf> {
    mke2fs().ok_or_else(|| {
        EngineError::new(Kind::System, "cannot make a filesystem: mke2fs is not installed")
            .with_hint("install the package e2fsprogs")
    })
}

/// Runs mke2fs.
async fn run(mut command: Command, program: &Path, size: u64) -> Result<()> {
    let output = command
        .env("LC_ALL", "C")
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|source| EngineError::system(format!("cannot run {}", program.display()), source))?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let error = EngineError::new(
        Kind::System,
        format!("cannot make a filesystem of {size} bytes: mke2fs: {}", stderr.trim().replace('\n', "; ")),
    );
    Err(error)
}

/// What a new layer holds: an upper directory marked as new, and the overlay's work directory.
fn directories() -> io::Result<tempfile::TempDir> {
    let content = tempfile::tempdir()?;
    fs::create_dir(content.path().join("work"))?;
    let upper = content.path().join("upper");
    fs::create_dir(&upper)?;
    let new = UNIX_EPOCH + Duration::from_secs(NEW_UPPER_MTIME.unsigned_abs());
    File::open(&upper)?.set_times(FileTimes::new().set_modified(new))?;
    Ok(content)
}

/// Copies a file without its holes: by reference where the filesystem can, else the data between the holes.
fn copy_sparse(from: &Path, to: &Path) -> io::Result<()> {
    let source = File::open(from)?;
    let target = File::options().write(true).create(true).truncate(true).mode(0o600).open(to)?;
    if rustix::fs::ioctl_ficlone(&target, &source).is_ok() {
        return Ok(());
    }
    let length = source.metadata()?.len();
    target.set_len(length)?;
    let mut buffer = vec![0; CHUNK];
    let mut position = 0;
    while position < length {
        let start = match rustix::fs::seek(&source, SeekFrom::Data(position)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        let end = rustix::fs::seek(&source, SeekFrom::Hole(start))?;
        copy_range(&source, &target, start, end, &mut buffer)?;
        position = end;
    }
    Ok(())
}

fn copy_range(source: &File, target: &File, start: u64, end: u64, buffer: &mut [u8]) -> io::Result<()> {
    use std::os::unix::fs::FileExt as _;
    let mut at = start;
    while at < end {
        let want = usize::try_from(end - at).map_or(buffer.len(), |left| left.min(buffer.len()));
        let read = source.read_at(&mut buffer[..want], at)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        target.write_all_at(&buffer[..read], at)?;
        at += read as u64;
    }
    Ok(())
}

/// Bytes in a size as `--storage-opt size=` and `HYPER_STORAGE_SIZE` have it: a number with an optional unit
/// (`20G`, `512MiB`), in powers of 1024.
///
/// # Errors
/// No such number, or not between `MIN_SIZE` and `MAX_SIZE`.
pub fn parse_size(text: &str) -> Result<u64> {
    let size = parse_bytes(text)?;
    if (MIN_SIZE..=MAX_SIZE).contains(&size) {
        Ok(size)
    } else {
        Err(EngineError::invalid(format!(
            "invalid size: '{text}': a writable layer has between 32 MiB and 16 TiB"
        )))
    }
}

/// Bytes of a number with an optional unit (`20G`, `512MiB`), in powers of 1024.
///
/// # Errors
/// No such number.
pub fn parse_bytes(text: &str) -> Result<u64> {
    let invalid = || EngineError::invalid(format!("invalid size: '{text}'"));
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| invalid())?;
    let shift = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(invalid()),
    };
    number.checked_mul(1 << shift).ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};

    #[test]
    fn copy_keeps_holes_and_content() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        let file = File::create(&from).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"middle", 32 << 20).unwrap();
        copy_sparse(&from, &to).unwrap();
        let copy = File::open(&to).unwrap();
        assert_eq!(copy.metadata().unwrap().len(), 64 << 20);
        assert!(copy.metadata().unwrap().blocks() * 512 < 1 << 20);
        let mut word = [0; 6];
        copy.read_exact_at(&mut word, 32 << 20).unwrap();
        assert_eq!(&word, b"middle");
    }

    #[tokio::test]
    async fn layer_is_a_clean_filesystem_and_small_on_disk() {
        if mke2fs().is_none() {
            eprintln!("skipped: mke2fs is not installed");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let layers = Layers::new(dir.path().to_owned());
        for journal in [Journal::Kept, Journal::None] {
            let path = dir.path().join(format!("{journal:?}.ext4"));
            layers.create(&path, 1 << 30, journal).await.unwrap();
            let metadata = fs::metadata(&path).unwrap();
            assert_eq!(metadata.len(), 1 << 30);
            assert!(metadata.blocks() * 512 < 4 << 20, "{} blocks", metadata.blocks());
            let check = std::process::Command::new(mke2fs().unwrap().with_file_name("e2fsck"))
                .args(["-f", "-n"])
                .arg(&path)
                .output()
                .unwrap();
            assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
        }
    }

    #[test]
    fn sizes_have_units_and_bounds() {
        assert_eq!(parse_size("20G").unwrap(), 20 << 30);
        assert_eq!(parse_size("64 MiB").unwrap(), 64 << 20);
        for bad in ["", "G", "1x", "1", "99999999999999T", "-1G", "17T"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
