//! A guest's console, kept within bounds however much the guest writes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Bytes kept in memory for error messages.
const TAIL: usize = 4 << 10;

/// The file and the last bytes in memory.
///
/// The file never has more than `kept` bytes: when it is full, its newer half becomes the new file.
#[derive(Debug)]
pub struct Console {
    path: PathBuf,
    file: Option<File>,
    length: u64,
    kept: u64,
    tail: Vec<u8>,
}

impl Console {
    /// Begins a console at `path`, replacing what is there. `kept` is at least 8 KiB.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path, kept: u64) -> io::Result<Self> {
        let file = create(path)?;
        Ok(Self {
            path: path.to_owned(),
            file: Some(file),
            length: 0,
            kept: kept.max(2 * TAIL as u64),
            tail: Vec::new(),
        })
    }

    /// Adds what the guest wrote. When the disk is full the file stays as it is and the memory goes on.
    pub fn write(&mut self, bytes: &[u8]) {
        let bytes_in_tail = &bytes[bytes.len().saturating_sub(TAIL)..];
        let excess = (self.tail.len() + bytes_in_tail.len()).saturating_sub(TAIL);
        self.tail.drain(..excess);
        self.tail.extend_from_slice(bytes_in_tail);
        for piece in bytes.chunks((self.kept / 4) as usize) {
            if let Err(error) = self.append(piece) {
                tracing::debug!(path = %self.path.display(), %error, "console output is not kept");
            }
        }
    }

    /// The last bytes, at most 4 KiB.
    pub fn tail(&self) -> &[u8] {
        &self.tail
    }

    fn append(&mut self, piece: &[u8]) -> io::Result<()> {
        if self.length + piece.len() as u64 > self.kept {
            self.halve()?;
        }
        if let Some(file) = &mut self.file {
            file.write_all(piece)?;
            self.length += piece.len() as u64;
        }
        Ok(())
    }

    fn halve(&mut self) -> io::Result<()> {
        let mut old = File::open(&self.path)?;
        old.seek(SeekFrom::End(-((self.kept / 2).min(self.length) as i64)))?;
        let temporary = self.path.with_extension("log.tmp");
        let copied = create(&temporary).and_then(|mut file| {
            let length = io::copy(&mut old.take(self.kept / 2), &mut file)?;
            fs::rename(&temporary, &self.path)?;
            Ok((file, length))
        });
        match copied {
            Ok((file, length)) => {
                (self.file, self.length) = (Some(file), length);
                Ok(())
            }
            Err(error) => {
                let _ = fs::remove_file(&temporary);
                Err(error)
            }
        }
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flood_leaves_the_newest_bytes_within_the_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let mut console = Console::create(&path, 32 << 10).unwrap();
        for line in 0..20_000 {
            console.write(format!("line {line}\n").as_bytes());
            assert!(fs::metadata(&path).unwrap().len() <= 32 << 10);
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.ends_with("line 19998\nline 19999\n"));
        assert!(text.len() >= 16 << 10);
        assert!(console.tail().len() <= TAIL && console.tail().ends_with(b"line 19999\n"));
    }

    #[test]
    fn one_huge_write_is_bounded_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let mut console = Console::create(&path, 8 << 10).unwrap();
        console.write(&vec![b'x'; 1 << 20]);
        assert!(fs::metadata(&path).unwrap().len() <= 8 << 10);
        assert_eq!(console.tail().len(), TAIL);
    }
}
