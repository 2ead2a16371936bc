//! Compressed layers, and when they are bombs.

use std::io::{self, BufRead, BufReader, Read};

use super::error::LayerError;

/// How far a layer may grow when decompressed.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most bytes of a layer's tar, however they are compressed.
    pub layer: u64,
    /// Bytes that any layer may have, whatever its compressed size.
    pub free: u64,
    /// Beyond that: bytes for each compressed one.
    pub ratio: u64,
}

/// Images with preallocated database files reach 200 to one; bombs aim at a thousand and more.
impl Default for Limits {
    fn default() -> Self {
        Self { layer: 256 << 30, free: 4 << 30, ratio: 200 }
    }
}

/// Bytes read at once from the compressed stream.
const BUFFER: usize = 256 << 10;

/// A decompressed stream within limits. Its errors carry a [`LayerError`].
pub struct Decompressor<'a> {
    stream: Box<dyn Read + 'a>,
    taken: std::rc::Rc<std::cell::Cell<u64>>,
    given: u64,
    limits: Limits,
    compressed: bool,
}

impl<'a> Decompressor<'a> {
    /// Finds out by the first bytes how `source` is compressed.
    ///
    /// # Errors
    /// The source's, or an unknown compression.
    pub fn new(source: impl Read + 'a, limits: Limits) -> Result<Self, LayerError> {
        let taken = std::rc::Rc::default();
        let counted = Counted { source, taken: std::rc::Rc::clone(&taken) };
        let mut source = BufReader::with_capacity(BUFFER, counted);
        let magic = peek(&mut source).map_err(LayerError::Source)?;
        let stream: Box<dyn Read + 'a> = match magic.as_slice() {
            [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                Box::new(zstd::Decoder::with_buffer(source).map_err(LayerError::Decompress)?)
            }
            [b'B', b'Z', b'h', ..] => return Err(LayerError::Compression("bzip2")),
            [0xfd, b'7', b'z', b'X', b'Z', 0] => return Err(LayerError::Compression("xz")),
            _ => {
                let stream = Box::new(source);
                return Ok(Self { stream, taken, given: 0, limits, compressed: false });
            }
        };
        Ok(Self { stream, taken, given: 0, limits, compressed: true })
    }
}

/// What a stream is when it is decompressed, within the usual limits; one that is not compressed comes as it is.
///
/// # Errors
/// The source's, or an unknown compression.
pub fn decompressed<'a>(source: impl Read + 'a) -> Result<impl Read + 'a, LayerError> {
    Decompressor::new(source, Limits::default())
}

impl Read for Decompressor<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = match self.stream.read(out) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => return Err(io::Error::other(classify(error, self.compressed))),
        };
        self.given += length as u64;
        let taken = self.taken.get();
        let by_ratio = self.limits.free.max(taken.saturating_mul(self.limits.ratio));
        let limit = if self.compressed { by_ratio.min(self.limits.layer) } else { self.limits.layer };
        if self.given > limit {
            return Err(io::Error::other(LayerError::Bomb { limit, compressed: taken }));
        }
        Ok(length)
    }
}

/// The source's own failure, or the decompressor's.
fn classify(error: io::Error, compressed: bool) -> LayerError {
    match error.downcast::<LayerError>() {
        Ok(error) => error,
        Err(error) if compressed => LayerError::Decompress(error),
        Err(error) => LayerError::Source(error),
    }
}

/// The first six bytes, or fewer when there are no more.
fn peek(source: &mut BufReader<impl Read>) -> io::Result<Vec<u8>> {
    // One fill may give a single byte only; the buffer is large enough to hold what follows.
    let bytes = source.fill_buf()?;
    Ok(bytes[..bytes.len().min(6)].to_vec())
}

/// Counts what is taken, and marks the source's errors as such.
struct Counted<R> {
    source: R,
    taken: std::rc::Rc<std::cell::Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut length = self.read_once(out)?;
        // The first bytes must come together, for the magic.
        while self.taken.get() == 0 && length > 0 && length < 6.min(out.len()) {
            match self.read_once(&mut out[length..])? {
                0 => break,
                more => length += more,
            }
        }
        self.taken.set(self.taken.get() + length as u64);
        Ok(length)
    }
}

impl<R: Read> Counted<R> {
    /// One read.
    fn read_once(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self.source.read(out) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                Err(io::Error::other(LayerError::Source(error)))
            }
            result => result,
        }
    }
}
