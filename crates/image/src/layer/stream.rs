//! A layer's way through two threads: decompressing, and everything behind it.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use sha2::{Digest as _, Sha256};

use crate::digest::Digest;
use crate::tar::{BLOCK, entry_header, trailer};

use super::convert::read_tar;
use super::decompress::{Decompressor, Limits};
use super::error::LayerError;
use super::finish::Converted;
use super::lower::Lower;

/// Bytes handed over at once.
const CHUNK: usize = 512 << 10;
/// Chunks on their way; with [`CHUNK`] the memory that a layer's stream takes.
const CHUNKS: usize = 4;

/// The files a layer is made in; all empty, readable and writable.
pub struct Source {
    /// Becomes the disk.
    pub disk: File,
    /// Scratch space.
    pub scratch: File,
    /// Becomes the tar map.
    pub map: File,
}

/// Reads a layer, compressed or not, to its end. Gives it back with its diff ID.
///
/// # Errors
/// See [`LayerError`].
pub fn convert(
    source: impl Read + Send,
    limits: Limits,
    files: Source,
) -> Result<(Converted, Digest), LayerError> {
    std::thread::scope(|scope| {
        let (full, chunks) = sync_channel(CHUNKS);
        let (empty, returned) = sync_channel(CHUNKS);
        scope.spawn(move || decompress(source, limits, &full, &returned));
        let mut reader =
            Chunks { chunks, empty, chunk: Vec::new(), at: 0, hasher: Sha256::new(), done: false };
        let converted = read_tar(&mut reader, files.disk, files.scratch, files.map)?;
        Ok((converted, Digest::from_bytes(reader.hasher.finalize().into())))
    })
}

/// Makes a disk with one file, owned by root, for what is no image's layer. `path` is relative and has at most 100 bytes.
/// The files are empty, readable and writable; `scratch` is of no use afterwards.
///
/// # Errors
/// See [`LayerError`].
///
/// # Panics
/// The path is longer.
pub fn disk_of_file(
    path: &str,
    mode: u16,
    content: &[u8],
    disk: File,
    scratch: (File, File),
) -> Result<(), LayerError> {
    let mut tar =
        entry_header(path.as_bytes(), b'0', mode, content.len() as u64, 0).expect("the path is short");
    tar.extend(content);
    tar.resize(tar.len().next_multiple_of(BLOCK), 0);
    tar.extend(trailer());
    let files = Source { disk, scratch: scratch.0, map: scratch.1 };
    let (converted, diff_id) = convert(&tar[..], Limits::default(), files)?;
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&diff_id.bytes()[..16]);
    converted.finish(&Lower::default(), uuid).map(drop)
}

/// Decompresses until the end, an error, or nobody listens any more.
fn decompress(
    source: impl Read,
    limits: Limits,
    full: &SyncSender<Result<Vec<u8>, LayerError>>,
    returned: &Receiver<Vec<u8>>,
) {
    let mut stream = match Decompressor::new(source, limits) {
        Ok(stream) => stream,
        Err(error) => {
            let _ = full.send(Err(error));
            return;
        }
    };
    loop {
        let mut chunk = returned.try_recv().unwrap_or_default();
        chunk.clear();
        match (&mut stream).take(CHUNK as u64).read_to_end(&mut chunk) {
            Ok(0) => {
                let _ = full.send(Ok(Vec::new()));
                return;
            }
            Ok(_) => {
                if full.send(Ok(chunk)).is_err() {
                    return;
                }
            }
            Err(error) => {
                let error = error.downcast::<LayerError>().unwrap_or_else(LayerError::Decompress);
                let _ = full.send(Err(error));
                return;
            }
        }
    }
}

/// The decompressed stream, hashed as it is taken in.
struct Chunks {
    chunks: Receiver<Result<Vec<u8>, LayerError>>,
    empty: SyncSender<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
    hasher: Sha256,
    done: bool,
}

impl Read for Chunks {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?;
        let length = bytes.len().min(out.len());
        out[..length].copy_from_slice(&bytes[..length]);
        self.consume(length);
        Ok(length)
    }
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.chunk.len() && !self.done {
            let _ = self.empty.try_send(std::mem::take(&mut self.chunk));
            let next = self.chunks.recv().unwrap_or_else(|_| {
                Err(LayerError::Decompress(io::Error::other("decompressor ended early")))
            });
            self.chunk = next.map_err(io::Error::other)?;
            self.at = 0;
            self.done = self.chunk.is_empty();
            self.hasher.update(&self.chunk);
        }
        Ok(&self.chunk[self.at..])
    }

    fn consume(&mut self, length: usize) {
        self.at += length;
    }
}
