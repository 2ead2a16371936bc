//! Writes a cpio archive in the "newc" form, the one the kernel unpacks as its first root
//! (`Documentation/driver-api/early-userspace/buffer-format.rst` in the kernel's source).
//!
//! The same entries give the same bytes: owner is root, times are zero, inode numbers count from 1.

use std::io::{self, Write};

/// Type bits of a mode, from `linux/stat.h`.
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER: u32 = 0o020_000;

/// An archive being written.
pub struct Archive<W> {
    output: W,
    /// The inode number of the last entry.
    inode: u32,
    /// Bytes written, for the padding.
    written: usize,
}

impl<W: Write> Archive<W> {
    /// Starts an archive.
    pub fn new(output: W) -> Self {
        Self { output, inode: 0, written: 0 }
    }

    /// Adds a directory; parents first, names without a leading slash.
    pub fn directory(&mut self, name: &str, permissions: u32) -> io::Result<()> {
        self.inode += 1;
        self.entry(name, DIRECTORY | permissions, (0, 0), &[])
    }

    /// Adds a regular file.
    ///
    /// # Errors
    /// Those of the output, and `FileTooLarge` from 4 GiB on, the format's bound.
    pub fn file(&mut self, name: &str, permissions: u32, content: &[u8]) -> io::Result<()> {
        self.inode += 1;
        self.entry(name, REGULAR | permissions, (0, 0), content)
    }

    /// Adds a character device by its major and minor number.
    pub fn character_device(&mut self, name: &str, permissions: u32, number: (u32, u32)) -> io::Result<()> {
        self.inode += 1;
        self.entry(name, CHARACTER | permissions, number, &[])
    }

    /// Ends the archive and hands its output back.
    pub fn finish(mut self) -> io::Result<W> {
        self.inode = 0;
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.output.flush()?;
        Ok(self.output)
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) -> io::Result<()> {
        let size = u32::try_from(content.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let name_size = u32::try_from(name.len() + 1).map_err(|_| io::ErrorKind::InvalidFilename)?;
        let links = if mode & DIRECTORY != 0 && mode & REGULAR == 0 { 2 } else { 1 };
        // inode, mode, uid, gid, links, mtime, size, device of the file (major, minor), device it names
        // (major, minor), length of the name with its NUL, check sum (unused in this form).
        let fields = [self.inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0];
        self.write(b"070701")?;
        for field in fields {
            self.write(format!("{field:08X}").as_bytes())?;
        }
        self.write(name.as_bytes())?;
        self.write(b"\0")?;
        self.pad()?;
        self.write(content)?;
        self.pad()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len();
        self.output.write_all(bytes)
    }

    /// Fills up to a multiple of four bytes.
    fn pad(&mut self) -> io::Result<()> {
        let missing = self.written.next_multiple_of(4) - self.written;
        self.write(&[0; 3][..missing])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut archive = Archive::new(Vec::new());
        archive.directory("dev", 0o755).expect("a vector takes every byte");
        archive.character_device("dev/console", 0o600, (5, 1)).expect("a vector takes every byte");
        archive.file("init", 0o755, b"hello").expect("a vector takes every byte");
        archive.finish().expect("a vector takes every byte")
    }

    #[test]
    fn same_entries_give_same_bytes() {
        assert_eq!(sample(), sample());
    }

    #[test]
    fn entries_start_on_multiples_of_four() {
        let bytes = sample();
        let starts: Vec<_> = (0..bytes.len() - 6).filter(|&at| &bytes[at..at + 6] == b"070701").collect();
        assert_eq!(starts.len(), 4);
        assert!(starts.iter().all(|start| start % 4 == 0), "{starts:?}");
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn cpio_lists_what_was_written() {
        use std::process::{Command, Stdio};
        let Ok(mut child) = Command::new("cpio")
            .args(["-itv", "--quiet", "--numeric-uid-gid"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .env("TZ", "UTC")
            .env("LC_ALL", "C")
            .spawn()
        else {
            eprintln!("skipped: cpio is not installed");
            return;
        };
        child.stdin.take().expect("stdin is piped").write_all(&sample()).expect("cpio reads its input");
        let listing = String::from_utf8(child.wait_with_output().expect("cpio ends").stdout).expect("ASCII");
        let columns: Vec<Vec<&str>> = listing.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(columns.len(), 3, "{listing}");
        assert_eq!((columns[0][0], columns[0].last()), ("drwxr-xr-x", Some(&"dev")));
        assert_eq!((columns[1][0], columns[1].last()), ("crw-------", Some(&"dev/console")));
        assert_eq!((columns[2][0], columns[2][4]), ("-rwxr-xr-x", "5"));
    }
}
