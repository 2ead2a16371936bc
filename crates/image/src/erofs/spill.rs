//! The ends of files, kept aside until the metadata is written.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes held in memory before the rest goes to the file.
const IN_MEMORY: usize = 16 << 20;
/// Bytes read from the file at once; tails are asked for in nearly the order they came.
const WINDOW: usize = 256 << 10;

/// Bytes that are appended first and read later, in memory up to 16 MiB, beyond that in a file.
pub struct Spill {
    file: File,
    /// Bytes in the file.
    written: u64,
    /// What follows them.
    memory: Vec<u8>,
    window: Vec<u8>,
    window_start: u64,
}

impl Spill {
    /// An empty spill; `file` is scratch space, empty, readable and writable.
    pub fn new(file: File) -> Self {
        Self { file, written: 0, memory: Vec::new(), window: Vec::new(), window_start: 0 }
    }

    /// Appends bytes and returns where they begin.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let start = self.written + self.memory.len() as u64;
        if self.memory.len() + bytes.len() > IN_MEMORY {
            self.file.write_all_at(&self.memory, self.written)?;
            self.written += self.memory.len() as u64;
            self.memory.clear();
        }
        self.memory.extend_from_slice(bytes);
        Ok(start)
    }

    /// Reads what was appended at `start`.
    pub fn read(&mut self, start: u64, length: usize, out: &mut Vec<u8>) -> io::Result<()> {
        let end = start + length as u64;
        if start >= self.written {
            let from = (start - self.written) as usize;
            out.extend_from_slice(&self.memory[from..from + length]);
            return Ok(());
        }
        if end > self.written {
            let in_file = (self.written - start) as usize;
            self.read(start, in_file, out)?;
            return self.read(self.written, length - in_file, out);
        }
        if start < self.window_start || end > self.window_start + self.window.len() as u64 {
            let size = (self.written - start).min(WINDOW.max(length) as u64) as usize;
            self.window.resize(size, 0);
            self.file.read_exact_at(&mut self.window, start)?;
            self.window_start = start;
        }
        let from = (start - self.window_start) as usize;
        out.extend_from_slice(&self.window[from..from + length]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_appended_is_read_back_across_the_file_and_memory() {
        let mut spill = Spill::new(tempfile::tempfile().expect("temporary file"));
        let pieces: Vec<Vec<u8>> = (0..20_000_u32).map(|i| vec![i as u8; 1 + i as usize % 4000]).collect();
        let starts: Vec<u64> = pieces.iter().map(|piece| spill.append(piece).expect("append")).collect();
        assert!(spill.written > 0);
        for (piece, start) in pieces.iter().zip(starts) {
            let mut out = Vec::new();
            spill.read(start, piece.len(), &mut out).expect("read");
            assert_eq!(&out, piece);
        }
    }
}
