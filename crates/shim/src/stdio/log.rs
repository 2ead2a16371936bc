//! The log file in docker's json-file format, written and rotated as docker does it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyper_protocol::agent::Output;
use hyper_protocol::shim::{Log, LogFormat};

use super::remote::Remote;
use crate::clock;

/// Longest piece of a line in one entry (docker's `defaultBufSize` in `daemon/logger/copier.go`).
const LINE_MAX: usize = 16 << 10;
/// Most files kept; more make each rotation a long row of renames.
const FILES_MAX: u32 = 1000;
/// Warnings about a log that cannot be written come at most this often.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// A container's log.
#[derive(Debug)]
pub struct JsonLog {
    config: Log,
    /// [`Log::attributes`] as they stand in an entry.
    attributes: String,
    remote: Option<Remote>,
    file: Option<File>,
    length: u64,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    lost: u64,
    warned: Option<Instant>,
}

impl JsonLog {
    /// Opens the log to append to it.
    ///
    /// # Errors
    /// When the file cannot be opened, or the configuration makes no sense.
    pub fn open(config: Log) -> io::Result<Self> {
        if config.max_files == 0 || config.max_files > FILES_MAX || config.max_size == Some(0) {
            let text = format!("a log has 1 to {FILES_MAX} files of at least one byte");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let file = open(&config.path)?;
        let length = file.metadata()?.len();
        let remote = config.remote.clone().map(Remote::open).transpose()?;
        Ok(Self {
            attributes: attributes(&config),
            remote,
            config,
            file: Some(file),
            length,
            stdout: Vec::new(),
            stderr: Vec::new(),
            lost: 0,
            warned: None,
        })
    }

    /// Adds output. A line is written when it ends or has [`LINE_MAX`] bytes.
    pub fn write(&mut self, output: Output, bytes: &[u8]) {
        let mut held = std::mem::take(self.held(output));
        let mut entries = Vec::new();
        let now = clock::unix_ns();
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = LINE_MAX - held.len();
            let piece = &rest[..rest.len().min(room)];
            let (piece, ends) = match piece.iter().position(|&byte| byte == b'\n') {
                Some(newline) => (&piece[..=newline], true),
                None => (piece, piece.len() == room),
            };
            held.extend_from_slice(piece);
            rest = &rest[piece.len()..];
            if ends {
                self.line(&mut entries, output, &held, now);
                held.clear();
            }
        }
        *self.held(output) = held;
    }

    /// Writes what is held of an unfinished line.
    pub fn end(&mut self, output: Output) {
        let held = std::mem::take(self.held(output));
        if !held.is_empty() {
            self.line(&mut Vec::new(), output, &held, clock::unix_ns());
        }
    }

    /// Entries that could not be written.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    fn held(&mut self, output: Output) -> &mut Vec<u8> {
        match output {
            Output::Stdout => &mut self.stdout,
            Output::Stderr => &mut self.stderr,
        }
    }

    /// Logs a line, or a piece of one. Entries end up in files of a bounded size one by one.
    fn line(&mut self, buffer: &mut Vec<u8>, output: Output, line: &[u8], now: i64) {
        match self.config.format {
            LogFormat::Json => entry(buffer, output, line, &self.attributes, &clock::rfc3339(now)),
            LogFormat::Compact => compact(buffer, output, line, now),
        }
        let kept = self.try_append(buffer);
        buffer.clear();
        let sent = match &mut self.remote {
            Some(remote) => remote.send(output, line, now),
            None => Ok(()),
        };
        if let Err(error) = kept.and(sent) {
            self.lost += 1;
            if self.warned.is_none_or(|warned| warned.elapsed() > WARN_EVERY) {
                self.warned = Some(Instant::now());
                let (path, lost) = (self.config.path.display(), self.lost);
                tracing::warn!(%path, lost, %error, "output is not logged");
            }
        }
    }

    fn try_append(&mut self, entry: &[u8]) -> io::Result<()> {
        if self.config.max_size.is_some_and(|size| self.length >= size) {
            self.rotate()?;
        }
        if self.file.is_none() {
            let file = open(&self.config.path)?;
            self.length = file.metadata()?.len();
            self.file = Some(file);
        }
        let file = self.file.as_mut().expect("it was opened just now");
        match file.write_all(entry) {
            Ok(()) => {
                self.length += entry.len() as u64;
                Ok(())
            }
            Err(error) => {
                // On a full disk part of the entry may be there: half a line would spoil the next one.
                let _ = file.set_len(self.length).and_then(|()| file.seek(SeekFrom::Start(self.length)));
                Err(error)
            }
        }
    }

    /// `path` becomes `path.1`, that `path.2`, and so on; the oldest goes.
    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        let numbered = |number: u32| {
            let mut name = self.config.path.clone().into_os_string();
            if number > 0 {
                name.push(format!(".{number}"));
            }
            PathBuf::from(name)
        };
        for number in (1..self.config.max_files).rev() {
            match fs::rename(numbered(number - 1), numbered(number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.config.max_files == 1 {
            File::options().write(true).truncate(true).open(&self.config.path)?;
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// `"attrs":{…},`, or nothing where there are none.
fn attributes(config: &Log) -> String {
    if config.attributes.is_empty() {
        return String::new();
    }
    let object = serde_json::to_string(&config.attributes).unwrap_or_else(|_| "{}".to_owned());
    format!("\"attrs\":{object},")
}

/// One entry of [`LogFormat::Compact`]. A line ends where its entry does, so none is inside.
fn compact(into: &mut Vec<u8>, output: Output, line: &[u8], unix_ns: i64) {
    let whole = line.last() == Some(&b'\n');
    let letter = match (output, whole) {
        (Output::Stdout, true) => 'o',
        (Output::Stdout, false) => 'O',
        (Output::Stderr, true) => 'e',
        (Output::Stderr, false) => 'E',
    };
    // Writing to memory does not fail.
    let _ = write!(into, "{letter}{unix_ns} ");
    into.extend_from_slice(if whole { &line[..line.len() - 1] } else { line });
    into.push(b'\n');
}

/// One entry: `{"log":"…\n","stream":"stdout","time":"…"}` and a line end.
fn entry(into: &mut Vec<u8>, output: Output, line: &[u8], attributes: &str, time: &str) {
    into.extend_from_slice(b"{\"log\":\"");
    escape(into, &String::from_utf8_lossy(line));
    let stream = match output {
        Output::Stdout => "stdout",
        Output::Stderr => "stderr",
    };
    // Writing to memory does not fail.
    let _ = writeln!(into, "\",\"stream\":\"{stream}\",{attributes}\"time\":\"{time}\"}}");
}

/// A JSON string's inside as docker writes it: safe to put into a web page as well.
fn escape(into: &mut Vec<u8>, text: &str) {
    for character in text.chars() {
        match character {
            '"' => into.extend_from_slice(b"\\\""),
            '\\' => into.extend_from_slice(b"\\\\"),
            '\n' => into.extend_from_slice(b"\\n"),
            '\r' => into.extend_from_slice(b"\\r"),
            '\0'..='\x1f' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(into, "\\u{:04x}", u32::from(character));
            }
            _ => into.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn log(dir: &Path, max_size: Option<u64>, max_files: u32) -> JsonLog {
        JsonLog::open(Log { path: dir.join("c-json.log"), max_size, max_files, ..Log::default() }).unwrap()
    }

    fn entries(path: &Path) -> Vec<(String, String)> {
        let text = fs::read_to_string(path).unwrap();
        let parse = |line| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(value["time"].as_str().unwrap().ends_with('Z'));
            (value["stream"].as_str().unwrap().to_owned(), value["log"].as_str().unwrap().to_owned())
        };
        text.lines().map(parse).collect()
    }

    #[test]
    fn entry_has_dockers_form() {
        let mut bytes = Vec::new();
        entry(&mut bytes, Output::Stderr, b"<a&\"b\\>\t\xff\x1b\n", "", "2026-11-22T08:34:57Z");
        let expected = "{\"log\":\"\\u003ca\\u0026\\\"b\\\\\\u003e\\u0009\u{fffd}\\u001b\\n\",\"stream\":\"stderr\",\"time\":\"2026-11-22T08:34:57Z\"}\n";
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn lines_are_whole_whatever_the_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(dir.path(), None, 1);
        for piece in ["one\ntw", "o\n", "three"] {
            log.write(Output::Stdout, piece.as_bytes());
        }
        log.write(Output::Stderr, b"err\n");
        log.end(Output::Stdout);
        let wanted = [("stdout", "one\n"), ("stdout", "two\n"), ("stderr", "err\n"), ("stdout", "three")];
        let found = entries(&dir.path().join("c-json.log"));
        assert_eq!(found, wanted.map(|(stream, log)| (stream.to_owned(), log.to_owned())));
    }

    #[test]
    fn long_line_is_split_at_16_kib() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(dir.path(), None, 1);
        log.write(Output::Stdout, &[b'x'; 40 << 10]);
        log.write(Output::Stdout, b"\n");
        let lengths: Vec<_> =
            entries(&dir.path().join("c-json.log")).iter().map(|(_, log)| log.len()).collect();
        assert_eq!(lengths, [LINE_MAX, LINE_MAX, (8 << 10) + 1]);
    }

    #[test]
    fn rotation_keeps_as_many_files_as_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(dir.path(), Some(200), 3);
        for number in 0..100 {
            log.write(Output::Stdout, format!("line {number}\n").as_bytes());
        }
        let mut names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["c-json.log", "c-json.log.1", "c-json.log.2"]);
        assert_eq!(entries(&dir.path().join("c-json.log")).last().unwrap().1, "line 99\n");
        assert!(fs::metadata(dir.path().join("c-json.log.1")).unwrap().len() < 300);
    }

    #[test]
    fn one_file_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(dir.path(), Some(200), 1);
        for number in 0..100 {
            log.write(Output::Stdout, format!("line {number}\n").as_bytes());
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(entries(&dir.path().join("c-json.log")).last().unwrap().1, "line 99\n");
    }

    #[test]
    fn full_disk_is_counted_and_leaves_no_half_entry() {
        // `/dev/full` fails every write as a full disk does.
        let mut log =
            JsonLog::open(Log { path: "/dev/full".into(), max_size: None, max_files: 1, ..Log::default() })
                .unwrap();
        log.write(Output::Stdout, b"one\ntwo\n");
        assert_eq!(log.lost(), 2);
    }

    #[test]
    fn nonsense_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert!(
            JsonLog::open(Log { path: path.clone(), max_size: None, max_files: 0, ..Log::default() })
                .is_err()
        );
        assert!(JsonLog::open(Log { path, max_size: Some(0), max_files: 1, ..Log::default() }).is_err());
    }

    proptest! {
        #[test]
        fn every_byte_is_in_some_entry(pieces in prop::collection::vec("[a-z\n]{0,40}", 0..40)) {
            let dir = tempfile::tempdir().unwrap();
            let mut log = log(dir.path(), None, 1);
            for piece in &pieces {
                log.write(Output::Stdout, piece.as_bytes());
            }
            log.end(Output::Stdout);
            let text: String = entries(&dir.path().join("c-json.log")).into_iter().map(|(_, log)| log).collect();
            prop_assert_eq!(text, pieces.concat());
        }
    }
}
