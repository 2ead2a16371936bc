//! Reading a container's log: docker's json-file format, over rotated files, with following.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::inotify;
use serde::Deserialize;
use tokio::net::unix::pipe;
use tokio::sync::watch;

use crate::clock::Timestamp;
use crate::engine::Engine;
use crate::error::{EngineError, Kind, Result};
use crate::logging;
use crate::registry::Progress;

/// Bytes read at once.
const CHUNK: usize = 64 << 10;

/// Longest line of the file that is taken for an entry: the writer cuts output at 16 KiB, JSON makes at most six
/// bytes of one.
const LINE_MAX: usize = 1 << 20;

/// Where output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogSource {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One entry of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Where it came from.
    pub source: LogSource,
    /// When.
    pub time: Timestamp,
    /// The time as it is written in the log.
    pub time_text: String,
    /// What was written, with its newline if it had one.
    pub text: String,
    /// Labels and variables that the log has with it.
    pub attributes: BTreeMap<String, String>,
}

/// Which entries to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Not before.
    pub since: Option<Timestamp>,
    /// Not after.
    pub until: Option<Timestamp>,
    /// The last so many entries of both; `None` for all.
    pub tail: Option<usize>,
    /// Go on with what comes.
    pub follow: bool,
}

/// An entry as the file has it.
#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    log: String,
    #[serde(default)]
    stream: String,
    #[serde(default)]
    time: String,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
}

/// Entries of a log, one after the other.
#[derive(Debug)]
pub struct LogStream {
    path: PathBuf,
    query: LogQuery,
    /// Rotated files that are still to be read, oldest first, and where to begin in the first.
    older: VecDeque<(File, u64)>,
    current: Option<Tail>,
    ready: VecDeque<LogLine>,
    progress: watch::Receiver<Progress>,
    watcher: Option<pipe::Receiver>,
    /// The container does not run any more and the file was read since.
    last_round: bool,
    done: bool,
}

/// A file being read, and the piece of a line at its end.
#[derive(Debug)]
struct Tail {
    file: File,
    inode: u64,
    rest: Vec<u8>,
    /// The rest of a line that is too long is being skipped.
    skipping: bool,
}

impl Engine {
    /// Reads a container's log.
    ///
    /// # Errors
    /// The container logs nowhere, neither stream is wanted, or a file cannot be read.
    pub fn logs(&self, reference: &str, query: LogQuery) -> Result<LogStream> {
        if !query.stdout && !query.stderr {
            return Err(EngineError::invalid("Bad parameters: you must choose at least one stream"));
        }
        let container = self.shared.registry.find(reference)?;
        let record = container.record();
        let Some(max_files) = record.options.log.files() else {
            return Err(EngineError::new(
                Kind::Unsupported,
                "configured logging driver does not support reading",
            ));
        };
        let progress = container.progress.subscribe();
        let path = logging::path(self.places(), &record);
        LogStream::open(path, max_files, query, progress)
            .map_err(|error| EngineError::system("cannot read the container's log", error))
    }
}

impl LogStream {
    fn open(
        path: PathBuf,
        max_files: u32,
        query: LogQuery,
        progress: watch::Receiver<Progress>,
    ) -> io::Result<Self> {
        // Before the files are looked at, so that no change is missed.
        let watcher = if query.follow { Some(watch_directory(&path)?) } else { None };
        let mut files = Vec::new();
        for index in (1..max_files).rev() {
            files.extend(open_existing(&rotated(&path, index))?);
        }
        let current = open_existing(&path)?;
        files.extend(current);
        let starts = match query.tail {
            Some(lines) => tail_starts(&files, lines)?,
            None => vec![0; files.len()],
        };
        let older = files.into_iter().zip(starts).collect();
        Ok(Self {
            path,
            query,
            older,
            current: None,
            ready: VecDeque::new(),
            progress,
            watcher,
            last_round: false,
            done: false,
        })
    }

    /// The next entry; `None` at the end, which a followed log has when its container has ended.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn next(&mut self) -> io::Result<Option<LogLine>> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Ok(Some(line));
            }
            if self.done {
                return Ok(None);
            }
            if self.read_some()? {
                // Lets others run while a large log is read.
                tokio::task::yield_now().await;
            } else if !self.query.follow || self.last_round {
                self.done = true;
            } else {
                self.wait_for_more().await?;
            }
        }
    }

    /// Reads the next piece; tells whether there was one.
    fn read_some(&mut self) -> io::Result<bool> {
        loop {
            let Some(tail) = &mut self.current else {
                if !self.open_next()? {
                    return Ok(false);
                }
                continue;
            };
            let mut buffer = vec![0; CHUNK];
            let read = tail.file.read(&mut buffer)?;
            if read > 0 {
                let mut lines = Vec::new();
                tail.push(&buffer[..read], &mut lines);
                for line in lines {
                    self.take(&line);
                }
                return Ok(true);
            }
            if self.older.is_empty() {
                // The newest file: it goes on, unless another has taken its place.
                if !self.query.follow || !replaced(&self.path, tail.inode)? {
                    return Ok(false);
                }
                // What was written between the read above and the rotation.
                let mut rest = Vec::new();
                tail.file.read_to_end(&mut rest)?;
                let mut lines = Vec::new();
                tail.push(&rest, &mut lines);
                for line in lines {
                    self.take(&line);
                }
            }
            self.current = None;
        }
    }

    fn open_next(&mut self) -> io::Result<bool> {
        let (mut file, start) = match self.older.pop_front() {
            Some(next) => next,
            None if self.query.follow => match open_existing(&self.path)? {
                Some(file) => (file, 0),
                None => return Ok(false),
            },
            None => return Ok(false),
        };
        file.seek(SeekFrom::Start(start))?;
        let inode = file.metadata()?.ino();
        self.current = Some(Tail { file, inode, rest: Vec::new(), skipping: false });
        Ok(true)
    }

    fn take(&mut self, line: &[u8]) {
        // A line that is no entry was cut by a crash.
        let Some(entry) = read_entry(line) else { return };
        let (source, time) = (entry.source, entry.time);
        if self.query.until.is_some_and(|until| time > until) {
            self.done = true;
        }
        let wanted = match source {
            LogSource::Stdout => self.query.stdout,
            LogSource::Stderr => self.query.stderr,
        };
        if wanted && !self.done && self.query.since.is_none_or(|since| time >= since) {
            self.ready.push_back(entry);
        }
    }

    /// Waits until the directory changed, the container ended, or the time asked for has come.
    async fn wait_for_more(&mut self) -> io::Result<()> {
        let until = self.query.until;
        let deadline = async {
            match until {
                Some(until) => {
                    let left = until.0.saturating_sub(Timestamp::now().0).max(0);
                    tokio::time::sleep(std::time::Duration::from_nanos(left.unsigned_abs())).await;
                }
                None => std::future::pending().await,
            }
        };
        let Some(watcher) = &self.watcher else { return Ok(()) };
        tokio::select! {
            ready = watcher.readable() => ready.and_then(|()| drain(watcher)),
            ended = self.progress.wait_for(|progress| !progress.running) => {
                // What was written before the end is read once more.
                drop(ended);
                self.last_round = true;
                Ok(())
            }
            () = deadline => {
                self.last_round = true;
                Ok(())
            }
        }
    }
}

impl Tail {
    /// Takes bytes of the file; complete lines go into `lines`.
    fn push(&mut self, mut bytes: &[u8], lines: &mut Vec<Vec<u8>>) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.rest.extend_from_slice(&bytes[..end]);
            let line = std::mem::take(&mut self.rest);
            if !std::mem::take(&mut self.skipping) {
                lines.push(line);
            }
            bytes = &bytes[end + 1..];
        }
        self.rest.extend_from_slice(bytes);
        if self.rest.len() > LINE_MAX {
            self.rest.clear();
            self.skipping = true;
        }
    }
}

/// A line of either format as an entry.
fn read_entry(line: &[u8]) -> Option<LogLine> {
    if line.first() == Some(&b'{') {
        let entry: Entry = serde_json::from_slice(line).ok()?;
        return Some(LogLine {
            source: if entry.stream == "stderr" { LogSource::Stderr } else { LogSource::Stdout },
            time: Timestamp::parse(&entry.time).unwrap_or(Timestamp(0)),
            time_text: entry.time,
            text: entry.log,
            attributes: entry.attrs,
        });
    }
    let blank = line.iter().position(|byte| *byte == b' ')?;
    let (head, text) = (std::str::from_utf8(&line[..blank]).ok()?, &line[blank + 1..]);
    let letter = head.chars().next()?;
    let time = Timestamp(head.get(letter.len_utf8()..)?.parse().ok()?);
    let source = match letter.to_ascii_lowercase() {
        'o' => LogSource::Stdout,
        'e' => LogSource::Stderr,
        _ => return None,
    };
    let mut text = String::from_utf8_lossy(text).into_owned();
    if letter.is_ascii_lowercase() {
        text.push('\n');
    }
    Some(LogLine { source, time, time_text: time.to_string(), text, attributes: BTreeMap::new() })
}

fn rotated(path: &Path, index: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{index}"));
    name.into()
}

fn open_existing(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether another file is at `path` now.
fn replaced(path: &Path, inode: u64) -> io::Result<bool> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(metadata.ino() != inode),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Where to begin in each file so that the last `lines` lines of all are read.
fn tail_starts(files: &[File], lines: usize) -> io::Result<Vec<u64>> {
    let mut starts: Vec<u64> =
        files.iter().map(|file| file.metadata().map(|m| m.len())).collect::<io::Result<_>>()?;
    let mut wanted = lines;
    for (file, start) in files.iter().zip(starts.iter_mut()).rev() {
        if wanted == 0 {
            break;
        }
        let found = seek_back(file, *start, wanted)?;
        *start = found.0;
        wanted -= found.1;
    }
    Ok(starts)
}

/// Goes back from `end` until `lines` lines lie behind; returns where that is and how many there were.
fn seek_back(file: &File, end: u64, lines: usize) -> io::Result<(u64, usize)> {
    use std::os::unix::fs::FileExt as _;
    let mut buffer = vec![0; CHUNK];
    let (mut position, mut newlines) = (end, 0);
    while position > 0 {
        let length = usize::try_from(position).map_or(CHUNK, |left| left.min(CHUNK));
        position -= length as u64;
        file.read_exact_at(&mut buffer[..length], position)?;
        for at in (0..length).rev() {
            if buffer[at] != b'\n' {
                continue;
            }
            newlines += 1;
            // The newline before the first wanted line ends the one that is not.
            if newlines > lines {
                return Ok((position + at as u64 + 1, lines));
            }
        }
    }
    Ok((0, newlines))
}

/// Changes in the log's directory. An inotify descriptor is read and waited for like a pipe.
fn watch_directory(path: &Path) -> io::Result<pipe::Receiver> {
    let watcher = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let events = inotify::WatchFlags::MODIFY
        | inotify::WatchFlags::CREATE
        | inotify::WatchFlags::MOVED_TO
        | inotify::WatchFlags::DELETE_SELF;
    inotify::add_watch(&watcher, path.parent().unwrap_or(Path::new("/")), events)?;
    pipe::Receiver::from_owned_fd_unchecked(watcher)
}

/// Takes the events away: that there were some is all that counts.
fn drain(watcher: &pipe::Receiver) -> io::Result<()> {
    let mut buffer = [0_u8; 4096];
    loop {
        match watcher.try_read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn entry(number: usize, stream: &str) -> String {
        format!(
            "{{\"log\":\"{number}\\n\",\"stream\":\"{stream}\",\"time\":\"2026-11-22T00:00:{number:02}Z\"}}\n"
        )
    }

    fn write(path: &Path, numbers: std::ops::Range<usize>) {
        let mut file = File::options().create(true).append(true).open(path).unwrap();
        for number in numbers {
            file.write_all(entry(number, if number % 2 == 0 { "stdout" } else { "stderr" }).as_bytes())
                .unwrap();
        }
    }

    fn both() -> LogQuery {
        LogQuery { stdout: true, stderr: true, ..LogQuery::default() }
    }

    async fn read(path: &Path, query: LogQuery) -> Vec<String> {
        let progress = watch::channel(Progress::default()).1;
        let mut stream = LogStream::open(path.to_owned(), 3, query, progress).unwrap();
        let mut texts = Vec::new();
        while let Some(line) = stream.next().await.unwrap() {
            texts.push(line.text.trim().to_owned());
        }
        texts
    }

    #[tokio::test]
    async fn rotated_files_are_read_oldest_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c-json.log");
        write(&rotated(&path, 2), 0..3);
        write(&rotated(&path, 1), 3..5);
        write(&path, 5..6);
        assert_eq!(read(&path, both()).await, ["0", "1", "2", "3", "4", "5"]);
        assert_eq!(read(&path, LogQuery { tail: Some(4), ..both() }).await, ["2", "3", "4", "5"]);
        assert_eq!(read(&path, LogQuery { tail: Some(0), ..both() }).await, [""; 0]);
        assert_eq!(read(&path, LogQuery { tail: Some(99), ..both() }).await.len(), 6);
    }

    #[tokio::test]
    async fn streams_and_times_choose_entries() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c-json.log");
        write(&path, 0..6);
        assert_eq!(read(&path, LogQuery { stderr: false, ..both() }).await, ["0", "2", "4"]);
        let at = |text: &str| Timestamp::parse(text);
        let query =
            LogQuery { since: at("2026-11-22T00:00:02Z"), until: at("2026-11-22T00:00:04Z"), ..both() };
        assert_eq!(read(&path, query).await, ["2", "3", "4"]);
    }

    #[tokio::test]
    async fn lines_that_are_no_entries_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c-json.log");
        let long = "x".repeat(LINE_MAX + CHUNK);
        std::fs::write(
            &path,
            format!("{}{{\"log\":\"cut\n{long}\n{}", entry(1, "stdout"), entry(2, "stdout")),
        )
        .unwrap();
        assert_eq!(read(&path, both()).await, ["1", "2"]);
    }

    #[tokio::test]
    async fn followed_log_goes_on_over_rotation_and_ends_with_its_container() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c-json.log");
        write(&path, 0..1);
        let (sender, progress) = watch::channel(Progress { running: true, ..Progress::default() });
        let mut stream =
            LogStream::open(path.clone(), 3, LogQuery { follow: true, ..both() }, progress).unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap().text, "0\n");
        write(&path, 1..2);
        assert_eq!(stream.next().await.unwrap().unwrap().text, "1\n");
        write(&path, 2..3);
        std::fs::rename(&path, rotated(&path, 1)).unwrap();
        write(&path, 3..4);
        assert_eq!(stream.next().await.unwrap().unwrap().text, "2\n");
        assert_eq!(stream.next().await.unwrap().unwrap().text, "3\n");
        write(&path, 4..5);
        sender.send_modify(|progress| progress.running = false);
        assert_eq!(stream.next().await.unwrap().unwrap().text, "4\n");
        assert_eq!(stream.next().await.unwrap(), None);
    }
}
