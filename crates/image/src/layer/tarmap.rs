//! How to give a layer's original tar back, byte for byte.
//!
//! A tar is headers and payload; the payload is in the disk already. The map keeps the rest:
//! `HYTARMAP`, a zstd frame with all bytes that are no payload, a zstd frame with the segments (for each:
//! bytes of the former, bytes of payload, where the payload is, as LEB128 numbers), and a footer of
//! three little-endian 64-bit numbers: begin of the second frame, number of segments, bytes of the tar.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use crate::erofs::{Content, FileData, NodeId, Piece, Tree};
use crate::tar::Sink;

/// First bytes of the file.
const MAGIC: &[u8; 8] = b"HYTARMAP";
/// Bytes of the footer.
const FOOTER: u64 = 24;
/// Headers compress well at any level; the fastest one keeps up with the disk.
const LEVEL: i32 = 1;
/// Most segments: every file of the largest layer, and as many pieces of files with holes again.
const MAX_SEGMENTS: usize = 4 << 20;
/// Bytes copied at once.
const COPY: usize = 256 << 10;

/// Payload of a segment.
#[derive(Debug, Clone, Copy)]
enum Payload {
    /// The content of a flat file, placed when the metadata is written.
    Node(NodeId),
    /// Bytes whose place is known.
    Piece(Piece),
    /// None.
    Nothing,
}

/// Records a tar while it is read.
pub struct TarMapWriter {
    encoder: zstd::Encoder<'static, BufWriter<File>>,
    segments: Vec<(u64, Payload)>,
    /// Bytes since the last segment.
    raw: u64,
}

impl TarMapWriter {
    /// Begins a map in an empty file.
    pub fn new(file: File) -> io::Result<Self> {
        let mut out = BufWriter::with_capacity(COPY, file);
        out.write_all(MAGIC)?;
        Ok(Self { encoder: zstd::Encoder::new(out, LEVEL)?, segments: Vec::new(), raw: 0 })
    }

    /// The payload of a flat file comes here.
    pub fn node(&mut self, node: NodeId) {
        self.segments.push((std::mem::take(&mut self.raw), Payload::Node(node)));
    }

    /// Payload comes here.
    ///
    /// # Errors
    /// The layer has more of them than fit in memory.
    pub fn pieces(&mut self, pieces: &[Piece]) -> io::Result<()> {
        if self.segments.len() > MAX_SEGMENTS {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "files with holes are in too many pieces",
            ));
        }
        for piece in pieces {
            let raw = std::mem::take(&mut self.raw);
            match self.segments.last_mut() {
                Some((_, Payload::Piece(last))) if raw == 0 && last.offset + last.length == piece.offset => {
                    last.length += piece.length;
                }
                _ => self.segments.push((raw, Payload::Piece(*piece))),
            }
        }
        Ok(())
    }

    /// Writes the rest; `tails` says where inline content is. Returns the tar's size; the caller syncs.
    pub fn finish(mut self, tree: &Tree, tails: &[u64]) -> io::Result<u64> {
        let last = (std::mem::take(&mut self.raw), Payload::Nothing);
        self.segments.push(last);
        let mut out = self.encoder.finish()?;
        let second = out.stream_position()?;
        let mut encoder = zstd::Encoder::new(out, LEVEL)?;
        let (mut count, mut expected, mut total) = (0_u64, 0_u64, 0_u64);
        let mut put = |raw: u64, piece: Piece| -> io::Result<()> {
            let mut record = Vec::with_capacity(30);
            put_number(&mut record, raw);
            put_number(&mut record, piece.length);
            if piece.length > 0 {
                put_number(&mut record, zigzag(piece.offset.wrapping_sub(expected) as i64));
                expected = piece.offset + piece.length;
            }
            count += 1;
            total += raw + piece.length;
            encoder.write_all(&record)
        };
        for (raw, payload) in &self.segments {
            match payload {
                Payload::Nothing => put(*raw, Piece { offset: 0, length: 0 })?,
                Payload::Piece(piece) => put(*raw, *piece)?,
                Payload::Node(id) => {
                    let [blocks, tail] = flat_pieces(tree, tails, *id);
                    put(*raw, blocks)?;
                    if tail.length > 0 {
                        put(0, tail)?;
                    }
                }
            }
        }
        let mut out = encoder.finish()?;
        for number in [second, count, total] {
            out.write_all(&number.to_le_bytes())?;
        }
        out.flush()?;
        Ok(total)
    }
}

impl Sink for TarMapWriter {
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.raw += bytes.len() as u64;
        self.encoder.write_all(bytes)
    }
}

/// Where a flat file's content is: whole blocks and tail.
fn flat_pieces(tree: &Tree, tails: &[u64], id: NodeId) -> [Piece; 2] {
    match &tree.node(id).content {
        Content::File(FileData::Flat { size, start, tail_length, .. }) => {
            let tail = u64::from(*tail_length);
            [
                Piece { offset: *start, length: size - tail },
                Piece { offset: tails[id as usize], length: tail },
            ]
        }
        _ => [Piece { offset: 0, length: 0 }; 2],
    }
}

/// A map that gives its tar back.
pub struct TarMap {
    file: File,
    second: u64,
    count: u64,
    /// Bytes of the tar.
    pub size: u64,
}

/// The map's own bytes are wrong.
fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "tar map is damaged")
}

impl TarMap {
    /// Opens a map.
    ///
    /// # Errors
    /// It cannot be read or is none.
    pub fn open(file: File) -> io::Result<Self> {
        let mut magic = [0; 8];
        file.read_exact_at(&mut magic, 0)?;
        let end = file.metadata()?.len().checked_sub(FOOTER).ok_or_else(damaged)?;
        let mut footer = [[0; 8]; 3];
        for (at, number) in footer.iter_mut().enumerate() {
            file.read_exact_at(number, end + 8 * at as u64)?;
        }
        let [second, count, size] = footer.map(u64::from_le_bytes);
        if &magic != MAGIC || second > end {
            return Err(damaged());
        }
        Ok(Self { file, second, count, size })
    }

    /// Writes the tar; `disk` is the layer's disk.
    ///
    /// # Errors
    /// Reading or writing fails, or the map does not fit the disk.
    pub fn write_tar(&self, disk: &File, out: &mut impl Write) -> io::Result<()> {
        let mut first = self.file.try_clone()?;
        first.seek(SeekFrom::Start(MAGIC.len() as u64))?;
        let frame = BufReader::new(first.take(self.second - MAGIC.len() as u64));
        let mut raw = zstd::Decoder::with_buffer(frame)?.single_frame();
        // The two frames are read by turns, so they must not share a file position.
        let segments = BufReader::with_capacity(COPY, At { file: &self.file, position: self.second });
        let mut segments = BufReader::new(zstd::Decoder::with_buffer(segments)?.single_frame());
        let mut buffer = vec![0; COPY];
        let mut expected = 0_u64;
        for _ in 0..self.count {
            let raw_length = number(&mut segments)?;
            if io::copy(&mut (&mut raw).take(raw_length), out)? != raw_length {
                return Err(damaged());
            }
            let mut length = number(&mut segments)?;
            if length == 0 {
                continue;
            }
            let mut offset = expected.wrapping_add(unzigzag(number(&mut segments)?) as u64);
            expected = offset.checked_add(length).ok_or_else(damaged)?;
            while length > 0 {
                let now = length.min(COPY as u64) as usize;
                disk.read_exact_at(&mut buffer[..now], offset)?;
                out.write_all(&buffer[..now])?;
                offset += now as u64;
                length -= now as u64;
            }
        }
        Ok(())
    }
}

/// Reads a file without its shared position.
struct At<'a> {
    file: &'a File,
    position: u64,
}

impl Read for At<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read_at(out, self.position)?;
        self.position += length as u64;
        Ok(length)
    }
}

/// Appends a LEB128 number.
fn put_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads a LEB128 number.
fn number(source: &mut impl Read) -> io::Result<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        source.read_exact(&mut byte)?;
        value |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(damaged())
}

/// Small numbers of either sign become small numbers.
fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

/// The reverse.
fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}
