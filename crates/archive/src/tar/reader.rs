//! Reading a tar as a stream.
//!
//! Every byte that is not a file's payload is handed to a [`Sink`], in order, so that the caller
//! can later give back the very same stream.

use std::io::{self, BufRead};

use super::TarError;
use super::header::{BLOCK, Header, text};
use super::pax::Pax;
use super::sparse::{LineMap, Map, continuation_numbers, header_numbers, map_of};
use super::write::padding_of;

/// Most bytes of a long name or PAX header (Go's `maxSpecialFileSize`).
const MAX_SPECIAL: u64 = 1 << 20;
/// Most extension headers before one entry.
const MAX_EXTENSIONS: usize = 64;
/// Longest path or link target (`PATH_MAX` with its NUL).
const MAX_PATH: usize = 4095;

/// Takes the bytes of a tar that are no payload.
pub trait Sink {
    /// More bytes.
    ///
    /// # Errors
    /// They cannot be kept.
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// For readers that do not care.
impl Sink for () {
    fn raw(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// Another name for an earlier entry.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// One file of the tar.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What it is.
    pub kind: EntryKind,
    /// Its path as written, at most 4095 bytes, no NUL.
    pub path: Vec<u8>,
    /// The link target as written, with the same bounds.
    pub link: Vec<u8>,
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: i64,
    /// And nanoseconds.
    pub mtime_nanoseconds: u32,
    /// Bytes of the file.
    pub size: u64,
    /// Where the payload belongs, for a file with holes.
    pub sparse: Option<Map>,
    /// Device numbers.
    pub device: (u32, u32),
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads entries one after the other.
pub struct Reader<R, S> {
    source: R,
    sink: S,
    /// Bytes taken from the source.
    offset: u64,
    /// Payload of the current entry not yet taken.
    remaining: u64,
    /// Zeros after it.
    padding: u64,
    done: bool,
}

impl<R: BufRead, S: Sink> Reader<R, S> {
    /// Reads from `source`, telling `sink` what is no payload.
    pub fn new(source: R, sink: S) -> Self {
        Self { source, sink, offset: 0, remaining: 0, padding: 0, done: false }
    }

    /// The sink.
    pub fn sink_mut(&mut self) -> &mut S {
        &mut self.sink
    }

    /// Source and sink back.
    pub fn into_parts(self) -> (R, S) {
        (self.source, self.sink)
    }

    /// The next entry. What is left of the last one's payload goes to the sink.
    ///
    /// # Errors
    /// See [`TarError`].
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        self.skip_payload()?;
        let (mut long_path, mut long_link, mut pax) = (None, None, Pax::default());
        for _ in 0..MAX_EXTENSIONS {
            let start = self.offset;
            let fail = |problem| TarError::Header { offset: start, problem };
            let Some(block) = self.next_header()? else { return Ok(None) };
            let header = Header::parse(&block).map_err(fail)?;
            match header.kind {
                b'L' => long_path = Some(text(&self.special(header.size, start)?).to_vec()),
                b'K' => long_link = Some(text(&self.special(header.size, start)?).to_vec()),
                b'x' => pax = Pax::parse(&self.special(header.size, start)?).map_err(fail)?,
                b'g' => {
                    self.special(header.size, start)?;
                }
                _ => {
                    let mut header = header;
                    if let Some(path) = long_path {
                        pax.path = None;
                        header.path = path;
                    }
                    if let Some(link) = long_link {
                        pax.link = None;
                        header.link = link;
                    }
                    return self.entry(&block, header, pax, start).map(Some);
                }
            }
        }
        Err(TarError::Header { offset: self.offset, problem: "too many extension headers in a row" })
    }

    /// Gives the entry's payload to `take`, in pieces.
    ///
    /// # Errors
    /// The stream's or the taker's.
    pub fn payload<E: From<TarError>>(
        &mut self,
        mut take: impl FnMut(&mut S, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        while self.remaining > 0 {
            let bytes = self.source.fill_buf().map_err(TarError::Read)?;
            if bytes.is_empty() {
                return Err(TarError::Truncated.into());
            }
            let length = (bytes.len() as u64).min(self.remaining) as usize;
            take(&mut self.sink, &bytes[..length])?;
            self.consume(length);
            self.remaining -= length as u64;
        }
        Ok(())
    }

    /// Passes what is left of the payload to the sink.
    fn skip_payload(&mut self) -> Result<(), TarError> {
        self.payload(|sink, bytes| sink.raw(bytes).map_err(TarError::Keep))?;
        let padding = std::mem::take(&mut self.padding);
        self.take_exact(padding, &mut |_| {})
    }

    /// Reads to the end of the stream, whatever follows the archive's end.
    ///
    /// # Errors
    /// See [`TarError`].
    pub fn drain(&mut self) -> Result<(), TarError> {
        loop {
            let bytes = self.source.fill_buf().map_err(TarError::Read)?;
            let length = bytes.len();
            if length == 0 {
                return Ok(());
            }
            self.sink.raw(bytes).map_err(TarError::Keep)?;
            self.consume(length);
        }
    }

    /// The next header block, or none at the archive's end: two zero blocks, or the stream's end.
    fn next_header(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        if self.done || self.source.fill_buf().map_err(TarError::Read)?.is_empty() {
            self.done = true;
            return Ok(None);
        }
        let block = self.block()?;
        if block != [0; BLOCK] {
            return Ok(Some(block));
        }
        self.done = true;
        if self.source.fill_buf().map_err(TarError::Read)?.is_empty() {
            return Ok(None);
        }
        match self.block()? == [0; BLOCK] {
            true => Ok(None),
            false => Err(TarError::Header { offset: self.offset, problem: "zero block inside the archive" }),
        }
    }

    /// One block.
    fn block(&mut self) -> Result<[u8; BLOCK], TarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        self.take_exact(BLOCK as u64, &mut |bytes| {
            block[filled..filled + bytes.len()].copy_from_slice(bytes);
            filled += bytes.len();
        })?;
        Ok(block)
    }

    /// The payload of a long name or PAX header.
    fn special(&mut self, size: u64, offset: u64) -> Result<Vec<u8>, TarError> {
        if size > MAX_SPECIAL {
            return Err(TarError::Header { offset, problem: "extension header is larger than 1 MiB" });
        }
        let mut payload = Vec::with_capacity(size as usize);
        self.take_exact(size, &mut |bytes| payload.extend_from_slice(bytes))?;
        self.take_exact(padding_of(size), &mut |_| {})?;
        Ok(payload)
    }

    /// Exactly so many bytes, also to the sink.
    fn take_exact(&mut self, mut length: u64, take: &mut dyn FnMut(&[u8])) -> Result<(), TarError> {
        while length > 0 {
            let bytes = self.source.fill_buf().map_err(TarError::Read)?;
            if bytes.is_empty() {
                return Err(TarError::Truncated);
            }
            let now = (bytes.len() as u64).min(length) as usize;
            take(&bytes[..now]);
            self.sink.raw(&bytes[..now]).map_err(TarError::Keep)?;
            self.consume(now);
            length -= now as u64;
        }
        Ok(())
    }

    /// Counts bytes as taken.
    fn consume(&mut self, length: usize) {
        self.source.consume(length);
        self.offset += length as u64;
    }

    /// Puts header block and extensions together.
    fn entry(
        &mut self,
        block: &[u8; BLOCK],
        header: Header,
        mut pax: Pax,
        start: u64,
    ) -> Result<Entry, TarError> {
        let fail = |problem| TarError::Header { offset: start, problem };
        let kind = match header.kind {
            b'0' | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::CharacterDevice,
            b'4' => EntryKind::BlockDevice,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            _ => return Err(fail("unknown type of entry")),
        };
        let stored = match kind {
            EntryKind::File => pax.size.unwrap_or(header.size),
            _ => 0,
        };
        if stored > u64::MAX - BLOCK as u64 {
            return Err(fail("bad size"));
        }
        self.remaining = stored;
        self.padding = padding_of(stored);
        let (mut size, mut sparse) = (stored, None);
        if kind == EntryKind::File
            && let Some((real, numbers)) = self.sparse_numbers(block, header.kind, &mut pax, start)?
        {
            sparse = Some(map_of(&numbers, real, self.remaining).map_err(fail)?);
            size = real;
        }
        let owner = |pax: Option<u64>, header: u64| {
            u32::try_from(pax.unwrap_or(header)).map_err(|_| fail("bad owner"))
        };
        let path = pax.sparse_name.or(pax.path).unwrap_or(header.path);
        let link = pax.link.unwrap_or(header.link);
        if path.len() > MAX_PATH || link.len() > MAX_PATH {
            return Err(fail("path is longer than 4095 bytes"));
        }
        let (mtime, mtime_nanoseconds) = pax.mtime.unwrap_or((header.mtime, 0));
        Ok(Entry {
            kind,
            path,
            link,
            mode: header.mode,
            uid: owner(pax.uid, header.uid)?,
            gid: owner(pax.gid, header.gid)?,
            mtime,
            mtime_nanoseconds,
            size,
            sparse,
            device: header.device,
            xattrs: pax.xattrs,
        })
    }

    /// The real size and the map's numbers, if the file has holes. Takes a map that stands before
    /// the data off the payload.
    fn sparse_numbers(
        &mut self,
        block: &[u8; BLOCK],
        kind: u8,
        pax: &mut Pax,
        start: u64,
    ) -> Result<Option<(u64, Vec<u64>)>, TarError> {
        let fail = |problem| TarError::Header { offset: start, problem };
        if kind == b'S' {
            let (mut numbers, size, mut more) = header_numbers(block).map_err(fail)?;
            while more {
                more = continuation_numbers(&self.block()?, &mut numbers).map_err(fail)?;
            }
            return Ok(Some((size, numbers)));
        }
        if pax.sparse_version == (Some(1), Some(0)) {
            let size = pax.sparse_size.ok_or(fail("sparse file without a size"))?;
            let mut map = LineMap::default();
            loop {
                self.remaining =
                    self.remaining.checked_sub(BLOCK as u64).ok_or(fail("sparse map is cut off"))?;
                if map.take(&self.block()?).map_err(fail)? {
                    return Ok(Some((size, map.into_numbers())));
                }
            }
        }
        match pax.sparse_map.take() {
            Some(numbers) => Ok(Some((pax.sparse_size.ok_or(fail("sparse file without a size"))?, numbers))),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests;
